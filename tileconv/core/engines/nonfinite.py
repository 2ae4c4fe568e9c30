"""NaN and infinity for engines that mix pixels: taken out first, put back where they reach.

Sums by terms or transforms spread a NaN beyond the kernel. So non-finite pixels are
replaced by 0, the finite result is computed, and every output that a non-finite pixel
reaches gets what direct arithmetic gives there. That is never finite, so it follows from
the non-finite pixels alone::

    NaN times any weight, infinity times 0, infinities of both signs   NaN
    infinities times weights, all of one sign                          that infinity

Which outputs are reached is a question of counts over rectangles of the kernel, answered
by a summed-area table (F. Crow, Summed-area tables for texture mapping, 1984): its cost
does not grow with the kernel's area, nor with the number of NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tileconv.core.factors import effective_weights
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel


def is_finite(x: np.ndarray) -> bool:
    """Whether no value of `x` is NaN or infinite; allocates only when the sum is neither."""
    if x.dtype.kind not in "fc":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(x.sum()) or np.isfinite(x).all())


def rectangles(mask: np.ndarray) -> np.ndarray:
    """Disjoint rectangles that cover a mask exactly.

    Parameters
    ----------
    mask : ndarray of bool, 2-D

    Returns
    -------
    ndarray of int64, shape (n, 4)
        First row, row after the last, first column, column after the last.
    """
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    row, begin = np.nonzero(steps == 1)
    _, end = np.nonzero(steps == -1)
    order = np.lexsort((row, end, begin))
    row, begin, end = row[order], begin[order], end[order]
    # Runs of the same columns in rows that follow each other are one rectangle.
    starts = np.ones(row.size, dtype=bool)
    starts[1:] = (np.diff(begin) != 0) | (np.diff(end) != 0) | (np.diff(row) != 1)
    first = np.flatnonzero(starts)
    last = np.append(first[1:], row.size)[: first.size] - 1
    return np.stack([row[first], row[last] + 1, begin[first], end[first]], axis=1)


def reached(marked: np.ndarray, footprint: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Outputs with a marked pixel under a footprint.

    Parameters
    ----------
    marked : ndarray of bool, shape (rows + kr - 1, columns + kc - 1, samples)
    footprint : ndarray
        Rectangles of the kernel.
    shape : (rows, columns, samples)

    Returns
    -------
    ndarray of bool
    """
    hit = np.zeros(shape, dtype=bool)
    if not len(footprint) or not marked.any():
        return hit
    # Differences of counts are right even where the counts themselves wrap around.
    table = np.zeros((marked.shape[0] + 1, marked.shape[1] + 1, marked.shape[2]), np.int32)
    np.cumsum(marked, axis=1, dtype=np.int32, out=table[1:, 1:])
    np.cumsum(table, axis=0, dtype=np.int32, out=table)
    rows, columns, _ = shape
    for top, bottom, left, right in footprint:
        below = table[bottom : bottom + rows]
        above = table[top : top + rows]
        count = below[:, right : right + columns] - below[:, left : left + columns]
        count -= above[:, right : right + columns]
        count += above[:, left : left + columns]
        hit |= count != 0
    return hit


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """Where a kernel carries non-finite pixels, and what they become there.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
        float32, float64, complex64, complex128; with integers nothing is ever non-finite.
    """

    kernel: Kernel
    accumulator: np.dtype
    _active: np.ndarray = field(init=False, repr=False)
    _positive: np.ndarray = field(init=False, repr=False)
    _negative: np.ndarray = field(init=False, repr=False)
    _zero: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        active, weights = self.kernel.active, effective_weights(self.kernel, self.accumulator)
        real = weights.real
        for name, mask in (
            ("_active", active),
            ("_positive", real > 0),
            ("_negative", real < 0),
            ("_zero", active & (weights == 0)),
        ):
            object.__setattr__(self, name, rectangles(mask))

    @property
    def held_bytes(self) -> int:
        """Bytes held besides the kernel."""
        footprints = (self._active, self._positive, self._negative, self._zero)
        return sum(footprint.nbytes for footprint in footprints)

    def workspace_bytes(self, shape: Shape, samples: int) -> int:
        """Bytes `put_back` allocates for an output of `shape`, the window included."""
        (rows, columns), (kr, kc) = shape, self.kernel.shape
        values = (rows + kr) * (columns + kc) * samples
        if self.accumulator.kind != "c":
            return values * (self.accumulator.itemsize + 24)
        return values * (3 * self.accumulator.itemsize + 4)

    def touched(self, marked: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Outputs of `shape` with a marked pixel under an active weight; see `reached`.

        Columns and rows beyond the window of `shape` are not looked at.
        """
        kr, kc = self.kernel.shape
        return reached(marked[: shape[0] + kr - 1, : shape[1] + kc - 1], self._active, shape)

    def put_back(self, window: np.ndarray, out: np.ndarray) -> None:
        """Give the outputs that non-finite pixels reach the value of direct arithmetic.

        Parameters
        ----------
        window : ndarray, shape (rows + kr - 1, columns + kc - 1, samples)
            The pixels as they came, in the accumulation dtype.
        out : ndarray, shape (rows, columns, samples)
            Their sums with 0 in place of non-finite pixels; changed in place.
        """
        if window.dtype.kind == "c":
            self._put_back_complex(window, out)
            return
        plus, minus = window == np.inf, window == -np.inf
        shape = out.shape
        nans = reached(np.isnan(window), self._active, shape)
        if plus.any() or minus.any():
            nans |= reached(plus | minus, self._zero, shape)
            up = reached(plus, self._positive, shape) | reached(minus, self._negative, shape)
            down = reached(plus, self._negative, shape) | reached(minus, self._positive, shape)
            with np.errstate(invalid="ignore"):
                np.add(out, np.inf, out=out, where=up)
                np.subtract(out, np.inf, out=out, where=down)
        out[nans] = np.nan

    def _put_back_complex(self, window: np.ndarray, out: np.ndarray) -> None:
        """Complex products mix real and imaginary parts: the non-finite ones are summed."""
        from tileconv.core.engines.direct import DirectEngine  # It needs nothing of this.
        from tileconv.core.pixels import Cast

        alone = np.where(np.isfinite(window), window.dtype.type(0), window)
        sums = np.empty_like(out)
        DirectEngine(self.kernel, self.accumulator).apply(alone, sums, Cast(out.dtype))
        with np.errstate(over="ignore", invalid="ignore"):
            np.add(out, sums, out=out, where=sums != 0)
