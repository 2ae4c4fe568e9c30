"""Weighted sums of rows: by which compiled loop, and in which order, so that the error is small.

A sum of n products, added one after another, may be wrong by n / 2 eps of the sum of their
magnitudes. So many products are summed in groups, the groups in larger ones, and so on: then only
the additions on the way from a product to the whole count (N. Higham, Accuracy and Stability of
Numerical Algorithms, 2002, chapter 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tileconv.core.compiling import loop
from tileconv.core.grid import Shape, TileGrid, ceil_div
from tileconv.core.loops import vectors_in_block
from tileconv.core.processor import this_processor
from tileconv.core.roundings import CHAINED_TAPS, PASS_TAPS, pass_group, spare_sums


def block_width(dtype: np.dtype) -> int:
    """Outputs in a row of a block of `correlate`."""
    return vectors_in_block() * this_processor().vector_bytes // dtype.itemsize


def correlate(
    x: np.ndarray, weights: np.ndarray, out: np.ndarray, *, step: int = 1, add: bool = False
) -> None:
    """Set ``out[y, i]`` to ``sum over r, d of weights[r, d] * x[y + r, i + step * d]``.

    See `tileconv.core.loops.registers` for how.

    Parameters
    ----------
    x : ndarray, shape (rows + kr - 1, at least width + step * (kc - 1))
        Rows contiguous.
    weights : ndarray, shape (kr, kc)
        Rows contiguous, in the dtype of `x` and `out`: float32, float64 or an integer, which
        wraps. float64 products are rounded before they are added, as scipy.ndimage does.
    out : ndarray, shape (rows, width)
        Rows contiguous; a width below `block_width` is slow.
    step : int
        Elements from one pixel of a row to the next: samples are interleaved.
    add : bool
        Whether to add to what `out` holds, which takes a width in whole blocks.
    """
    width = block_width(out.dtype)
    assert not add or out.shape[1] % width == 0
    loop("registers", "correlate", (out.dtype,) * 3, 3)(x, weights, out, step, add, width)


AddItems = Callable[[int, int, np.ndarray, bool], None]
"""Sums things ``first .. last - 1``, one after another, into an array or to what it holds."""


def sum_in_groups(
    add_items: AddItems, items: range, most: int, out: np.ndarray, *, add: bool
) -> None:
    """Sum things, no more than `most` one after another; see `tileconv.core.roundings`."""
    if len(items) <= most:
        add_items(items.start, items.stop, out, add)
        return
    size = most
    while size * most < len(items):
        size *= most
    spare = np.empty_like(out)
    for first in items[::size]:
        group = range(first, min(first + size, items.stop))
        if first == items.start and not add:
            sum_in_groups(add_items, group, most, out, add=False)
            continue
        sum_in_groups(add_items, group, most, spare, add=False)
        with np.errstate(over="ignore", invalid="ignore"):
            out += spare


class Summation(Protocol):
    """Adds up products of weights and pixels. Immutable, and picklable."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the weights."""

    @property
    def adds(self) -> bool:
        """Whether it adds to its own output, whose rows are then whole blocks.

        See `correlate`.
        """

    @property
    def spare(self) -> int:
        """Arrays like its own output that it needs besides."""

    def into(self, out: np.ndarray, x: np.ndarray, step: int, *, add: bool = False) -> None:
        """Set ``out[y, i]`` to the sum over the weights of ``w[r, d] * x[y + r, i + step * d]``.

        Parameters
        ----------
        out : ndarray, 2-D
        x : ndarray, 2-D
            Both in the dtype of the weights, rows contiguous.
        step : int
            Elements from one pixel of a row to the next.
        add : bool
            Whether to add to `out` instead.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Sums over every weight of a rectangle; by `correlate`, the fastest.

    Parameters
    ----------
    weights : ndarray, shape (kr, kc)
        Real. 0 stands for a weight that is skipped only where every pixel is finite.
    roundings : int
        Most that a product may go through; a chain of all if there are no more products.
    """

    weights: np.ndarray
    roundings: int = CHAINED_TAPS
    _pieces: TileGrid = field(init=False, repr=False)
    _most: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape, most = self.weights.shape, self.weights.size
        pieces = TileGrid(shape, shape)
        if self.adds:
            # Pieces are one level, and there are somewhat more of them than need be.
            for levels in range(2, self.roundings // 2 + 1):
                most = self.roundings // levels
                pieces = TileGrid(shape, _piece_shape(shape, most))
                if len(pieces) <= most ** (levels - 1):
                    break
            else:
                raise ValueError(f"{most} products are too many for {self.roundings} roundings")
        object.__setattr__(self, "_pieces", pieces)
        object.__setattr__(self, "_most", most)

    @property
    def held_bytes(self) -> int:
        """See `Summation`."""
        return self.weights.nbytes

    @property
    def adds(self) -> bool:
        """See `Summation`."""
        return self.weights.size > self.roundings

    @property
    def spare(self) -> int:
        """See `Summation`."""
        return spare_sums(len(self._pieces), self._most)

    def into(self, out: np.ndarray, x: np.ndarray, step: int, *, add: bool = False) -> None:
        """See `Summation`."""

        def add_pieces(first: int, last: int, out: np.ndarray, add: bool) -> None:  # noqa: FBT001
            for number in range(first, last):
                rows, columns = self._pieces[number].region.slices
                part = x[rows.start :, step * columns.start :]
                correlate(part, self.weights[rows, columns], out, step=step, add=add)
                add = True

        sum_in_groups(add_pieces, range(len(self._pieces)), self._most, out, add=add)


def _piece_shape(shape: Shape, most: int) -> Shape:
    """Sides of rectangles of up to `most` weights, about square: tall ones share loads."""
    kr, kc = shape
    down = ceil_div(kr, ceil_div(kr, max(min(8, most), most // kc)))
    return down, ceil_div(kc, ceil_div(kc, max(1, most // down)))


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Sums over single weights, wherever they are: the others are never multiplied.

    Parameters
    ----------
    weights : ndarray, shape (kr, kc)
        Complex ones, too.
    active : ndarray of bool, shape (kr, kc)
        Those that count.
    roundings : int
        Most that a product may go through; a chain of all if there are no more products.
    """

    weights: np.ndarray
    active: np.ndarray
    roundings: int = CHAINED_TAPS
    _weights: np.ndarray = field(init=False, repr=False)
    _shifts: np.ndarray = field(init=False, repr=False)

    adds = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", self.weights[self.active])
        object.__setattr__(self, "_shifts", np.argwhere(self.active).astype(np.int64))

    @property
    def _most(self) -> int:
        """Most passes that are added one after another; 0 where products are."""
        taps = self._weights.size
        if taps <= self.roundings:
            return 0
        most = pass_group(taps, self.roundings)
        assert most is not None, "refusal() has said so"
        return most

    @property
    def held_bytes(self) -> int:
        """See `Summation`."""
        return self._weights.nbytes + 2 * self._shifts.nbytes

    @property
    def spare(self) -> int:
        """See `Summation`."""
        return spare_sums(ceil_div(self._weights.size, PASS_TAPS), self._most) if self._most else 0

    def into(self, out: np.ndarray, x: np.ndarray, step: int, *, add: bool = False) -> None:
        """See `Summation`."""
        shifts = self._shifts * np.array([1, step])
        taps, chained = self._weights.size, self._most == 0
        dtypes = x.dtype, x.dtype, shifts.dtype, x.dtype
        # float64 sums are scipy.ndimage's to the last bit.
        add_taps = loop("taps", "add_taps", dtypes, 1, fused=x.dtype == np.float32)

        def add_passes(first: int, last: int, out: np.ndarray, add: bool) -> None:  # noqa: FBT001
            if not add:
                out.fill(0)
            some = slice(first * PASS_TAPS, last * PASS_TAPS)
            add_taps(x, self._weights[None, some], shifts[some], out, chained)

        passes = range(ceil_div(taps, PASS_TAPS))
        sum_in_groups(add_passes, passes, self._most or max(1, len(passes)), out, add=add)
