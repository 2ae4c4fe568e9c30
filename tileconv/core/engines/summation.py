"""Weighted sums of rows: by which compiled loop, and in which order, so that the error is small.

A sum of n products, added one after another, may be wrong by n / 2 eps of the sum of their
magnitudes. So many products are summed in pieces, the pieces in groups, and last the groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

import numpy as np

from tileconv.core.compiling import loop
from tileconv.core.grid import Region, ceil_div
from tileconv.core.loops import vectors_in_block
from tileconv.core.pixels import CHAINED_TAPS
from tileconv.core.processor import this_processor

PIECE_TAPS = 60
"""Products of a piece, and most pieces, where there are more: again 120 roundings."""

GROUP_TAPS = 41
"""Products of a piece, pieces of a group, and most groups, where there are more than these."""

LINE_TAPS, LINE_PIECE_TAPS = 60, 31
"""The same for one of two sums that follow each other: half the roundings are the other's."""


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
    chained : int
        Most products that are added one after another.
    piece : int
        Products of a piece where there are more.
    """

    weights: np.ndarray
    chained: int = CHAINED_TAPS
    piece: int = PIECE_TAPS

    @property
    def held_bytes(self) -> int:
        """See `Summation`."""
        return self.weights.nbytes

    @property
    def _most(self) -> int:
        """Most products of a piece, and pieces of a group."""
        if self.weights.size <= self.piece**2:
            return self.piece
        return max(GROUP_TAPS, math.ceil(math.cbrt(self.weights.size)))

    @property
    def adds(self) -> bool:
        """See `Summation`."""
        return self.weights.size > self.chained

    def into(self, out: np.ndarray, x: np.ndarray, step: int, *, add: bool = False) -> None:
        """See `Summation`."""
        if not self.adds:
            correlate(x, self.weights, out, step=step, add=add)
            return
        pieces, spare, group = self._pieces(), None, self._most
        for first in range(0, len(pieces), group):
            if first and spare is None:
                spare = np.empty_like(out)
            target = out if spare is None else spare
            adding = add and not first
            for piece in pieces[first : first + group]:
                rows, columns = piece.slices
                part = x[rows.start :, step * columns.start :]
                correlate(part, self.weights[rows, columns], target, step=step, add=adding)
                adding = True
            if target is not out:
                with np.errstate(over="ignore", invalid="ignore"):
                    out += target

    def _pieces(self) -> list[Region]:
        """Rectangles of weights, about square: tall ones share loads."""
        (kr, kc), most = self.weights.shape, self._most
        down = ceil_div(kr, ceil_div(kr, max(8, most // kc)))
        across = ceil_div(kc, ceil_div(kc, most // down))
        return [
            Region((y, x), (min(y + down, kr), min(x + across, kc)))
            for y, x in product(range(0, kr, down), range(0, kc, across))
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Sums over single weights, wherever they are: the others are never multiplied.

    Parameters
    ----------
    weights : ndarray, shape (kr, kc)
        Complex ones, too.
    active : ndarray of bool, shape (kr, kc)
        Those that count.
    chained : int
        Most products that are added one after another.
    """

    weights: np.ndarray
    active: np.ndarray
    chained: int = CHAINED_TAPS
    _weights: np.ndarray = field(init=False, repr=False)
    _shifts: np.ndarray = field(init=False, repr=False)

    adds = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", self.weights[self.active])
        object.__setattr__(self, "_shifts", np.argwhere(self.active).astype(np.int64))

    @property
    def held_bytes(self) -> int:
        """See `Summation`."""
        return self._weights.nbytes + self._shifts.nbytes

    def into(self, out: np.ndarray, x: np.ndarray, step: int, *, add: bool = False) -> None:
        """See `Summation`."""
        shifts = self._shifts * np.array([1, step])
        chained = self._weights.size <= self.chained
        dtypes = x.dtype, x.dtype, shifts.dtype, x.dtype
        # float64 sums are scipy.ndimage's to the last bit.
        add_taps = loop("taps", "add_taps", dtypes, 1, fused=x.dtype == np.float32)
        if not add:
            out.fill(0)
        # Passes of eight: sums of n / 8 roundings, until there are too many of these as well.
        group = self._weights.size
        if not chained and group > 8 * (self.chained - 8):
            group = 8 * (math.isqrt(group // 8) + 1)
        for start in range(0, self._weights.size, max(group, 1)):
            target = np.zeros_like(out) if start else out
            taps = slice(start, start + group)
            add_taps(x, self._weights[None, taps], shifts[taps], target, chained)
            if start:
                with np.errstate(over="ignore", invalid="ignore"):
                    out += target
