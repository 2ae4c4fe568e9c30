"""How large pixels are: in the windows of a cell, and in the window of each output.

Transforms spread their rounding over all that they compute, so what they may be used for depends
on how large the pixels are that lie together. `Meter` finds, in one pass, what decides for most
rasters; `levels` and `window_maxima` find the rest, for each output, where it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tileconv.core.compiling import loop
from tileconv.core.grid import Shape, ceil_div
from tileconv.core.processor import this_processor

PART = 64
"""Rows, or columns, of what is looked at in parts: little memory, and few calls."""

BLOCK_SIDE = 8
"""Rows and columns of a block of pixels that is looked at as one, at most."""


class Magnitudes(NamedTuple):
    """How large the values of one or two arrays are.

    Parameters
    ----------
    total : float
        Sum of squares; not finite if a value is not, or if it leaves the range.
    peak : float
        Largest magnitude.
    least : float
        Every window of the kernel's shape holds a magnitude of this or more.
    """

    total: float
    peak: float
    least: float


def measure_loop(dtype: np.dtype) -> tuple[str, str, tuple[np.dtype, ...], int]:
    """The loop of a `Meter` of values of a dtype, as `loop` takes it, fused."""
    return "magnitudes", "measure", (dtype, dtype, dtype, np.dtype(np.float64)), 7


def levels_loop(dtype: np.dtype) -> tuple[str, str, tuple[np.dtype, ...], int]:
    """The loop of `levels` of values of a real dtype, as `loop` takes it."""
    whole, kind, _ = _BITS[dtype.itemsize]
    return "magnitudes", "levels", (whole, kind), 1


def energies_loop(dtype: np.dtype) -> tuple[str, str, tuple[np.dtype, ...], int]:
    """The loop of `Meter.densest`, as `loop` takes it, fused."""
    return "magnitudes", "energies", (dtype, dtype, np.dtype(np.float64)), 3


class Meter:
    """Measures two arrays of the same dtype, again and again.

    Parameters
    ----------
    planes : ndarray of float32 or float64, shape (2, rows, columns)
        Rows contiguous; columns are followed by zeros, 16 at least.
    kernel_shape : (int, int)
    """

    def __init__(self, planes: np.ndarray, kernel_shape: Shape) -> None:
        dtype = planes.dtype
        lanes = this_processor().vector_bytes // dtype.itemsize
        down, across = (_block_side(length) for length in kernel_shape)
        across = min(across, lanes)
        # A window of k holds so many whole blocks of those that begin at multiples of a side.
        runs = [(k - b + 1) // b for k, b in zip(kernel_shape, (down, across), strict=True)]
        self._sides = down, across, *runs
        self._planes, self._kernel_shape = planes, kernel_shape
        self._scratch = np.empty((5 + runs[0], planes.shape[2] + lanes), dtype)
        self._found = np.empty((2, 3))
        self._arrays = *planes, self._scratch, self._found
        self._measure = loop(*measure_loop(dtype), fused=True).bound(*self._arrays)

    def measure(self, rows: int, columns: tuple[int, int], *, together: bool) -> Magnitudes:
        """The magnitudes of the first rows, and of the first columns of each array.

        Parameters
        ----------
        rows : int
        columns : (int, int)
        together : bool
            Whether the arrays are two parts of the same pixels, instead of pixels each.
        """
        self._measure(rows, *columns, *self._sides)
        (total, peak, least), (second_total, second_peak, second_least) = self._found.tolist()
        lesser = max if together else min
        return Magnitudes(total + second_total, max(peak, second_peak), lesser(least, second_least))

    def densest(self, rows: int, columns: tuple[int, int]) -> float:
        """Sum of squares in no window of the kernel's shape is more; of both arrays together."""
        blocks = np.zeros([ceil_div(n, BLOCK_SIDE) for n in (rows, max(columns))])
        for plane, width in zip(self._planes, columns, strict=True):
            add = loop(*energies_loop(plane.dtype), fused=True)
            add(plane, self._scratch, blocks, rows, width, BLOCK_SIDE)
        for axis, length in enumerate(self._kernel_shape):
            # So many blocks a window may touch.
            count = ceil_div(length - 1, BLOCK_SIDE) + 1
            total = np.cumsum(np.moveaxis(blocks, axis, 0), axis=0)
            if count < len(total):
                total[count:] -= total[:-count].copy()
                total = total[count - 1 :]
            else:
                total = total[-1:]
            blocks = np.moveaxis(total, 0, axis)
        return float(blocks.max())


def _block_side(length: int) -> int:
    """Side of a block such that windows of `length` hold a whole one; a power of two."""
    return min(BLOCK_SIDE, 1 << ((length + 1) // 2).bit_length() - 1)


def levels(x: np.ndarray) -> np.ndarray:
    """How large finite values are, by powers of two: exponents as IEEE 754 stores them.

    Parameters
    ----------
    x : ndarray of float32 or float64, shape (rows, columns)
        Rows contiguous.

    Returns
    -------
    ndarray of uint8 or uint16
        0 for 0, and 1 for subnormal values. Otherwise a level n stands for magnitudes from
        ``2**(n - bias)`` to twice that; the bias is 127 or 1023.
    """
    whole, kind, shift = _BITS[x.dtype.itemsize]
    found: np.ndarray = np.empty(x.shape, kind)
    loop(*levels_loop(x.dtype))(x.view(whole), found, shift)
    return found


_BITS: dict[int, tuple[np.dtype, np.dtype, int]] = {
    4: (np.dtype(np.int32), np.dtype(np.uint8), 23),
    8: (np.dtype(np.int64), np.dtype(np.uint16), 52),
}
"""Integers of a float's bits, what holds its exponent, and the bits behind that, by bytes."""


def window_maxima(x: np.ndarray, shape: Shape) -> np.ndarray:
    """The largest value of each window of a shape, axis by axis.

    Parameters
    ----------
    x : ndarray, shape (rows + shape[0] - 1, columns + shape[1] - 1)
    shape : (int, int)

    Returns
    -------
    ndarray, shape (rows, columns)
    """
    rows, columns = (n - k + 1 for n, k in zip(x.shape, shape, strict=True))
    down = np.empty((rows, x.shape[1]), x.dtype)
    # A few columns or rows at a time: copies of the whole would be many times as large.
    for part in parts_of(x.shape[1]):
        down[:, part] = _line_maxima(x[:, part], shape[0])
    found = np.empty((rows, columns), x.dtype)
    for part in parts_of(rows):
        found[part] = _line_maxima(down[part].T, shape[1]).T
    return found


def _line_maxima(x: np.ndarray, length: int) -> np.ndarray:
    """The largest of each run of so many rows, by runs twice as long with each step."""
    count, width = len(x) - length + 1, 1
    while width < length:
        step = min(width, length - width)
        x = np.maximum(x[:-step], x[step:])
        width += step
    return x[:count]


def parts_of(length: int) -> Iterator[slice]:
    """Parts of an axis that are worked on at a time."""
    return (slice(start, start + PART) for start in range(0, length, PART))
