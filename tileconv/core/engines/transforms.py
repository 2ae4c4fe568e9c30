"""Circular correlation of pairs of windows with one kernel: its tables, and the call.

What is done with them is in `tileconv.core.loops.transforms`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tileconv.core.buffers import aligned
from tileconv.core.compiling import loop
from tileconv.core.grid import Shape
from tileconv.core.loops import RADICES
from tileconv.core.processor import this_processor


def factors(length: int) -> list[int]:
    """`length` as a product of `RADICES`, the first of them as often as possible."""
    found = []
    for radix in RADICES:
        while length % radix == 0:
            found.append(radix)
            length //= radix
    if length != 1:
        raise ValueError(f"a transform's length has factors of {RADICES}, and {length} is left")
    return found


def frequencies(radices: list[int], last: int = 1) -> np.ndarray:
    """Which frequency stands where after steps of `radices` and a transform of `last` points."""
    if not radices:
        return np.arange(last)
    rest = frequencies(radices[1:], last)
    return np.concatenate([q + radices[0] * rest for q in range(radices[0])])


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """The steps of a transform along one axis.

    Parameters
    ----------
    stages : ndarray of int64, shape (stages, 3)
        Points of each step, how far they are apart, and where its roots begin.
    roots_re, roots_im : ndarray, shape (1, values)
        Powers of roots of unity, step after step.
    """

    stages: np.ndarray
    roots_re: np.ndarray
    roots_im: np.ndarray

    @classmethod
    def of(cls, length: int, last: int, dtype: np.dtype) -> Line:
        """Of `length` points, of which each `last` are left to another transform."""
        stages, roots = [], [np.zeros(0, np.clongdouble)]
        for radix in factors(length // last):
            step = length // radix
            stages.append((radix, step, sum(part.size for part in roots)))
            q, j = np.arange(1, radix)[:, None], np.arange(step)[None]
            roots.append(_roots(q * j % length, length).ravel())
            length = step
        table = np.concatenate(roots)[None]
        return cls(
            np.array(stages, np.int64).reshape(-1, 3),
            np.ascontiguousarray(table.real, dtype),
            np.ascontiguousarray(table.imag, dtype),
        )


def _roots(k: np.ndarray, n: int) -> np.ndarray:
    """``exp(-2 pi i k / n)``; in double precision an error of their angles would be the largest."""
    angles = k.astype(np.longdouble) * (8 * np.arctan(np.longdouble(1)) / n)
    return np.asarray(np.cos(angles) - 1j * np.sin(angles))


def convolve_loop(dtype: np.dtype) -> tuple[str, str, tuple[np.dtype, ...], int]:
    """The loop of transforms in a dtype, as `loop` takes it."""
    line = np.dtype(np.int64), dtype, dtype
    return "transforms", "convolve", (*[dtype] * 2, *line * 2, *[dtype] * 2), 1


class Transform:
    """Circular correlation of pairs of windows with one kernel.

    Parameters
    ----------
    weights : ndarray, shape (kr, kc)
        Real or complex.
    size : (int, int)
        Rows and columns of the windows, multiples of 16 and no smaller than the kernel.
    dtype : numpy.dtype
        Of the windows, float32 or float64.

    Attributes
    ----------
    size, dtype
        As given.
    most : float
        Largest magnitude of the kernel's spectrum.
    """

    def __init__(self, weights: np.ndarray, size: Shape, dtype: np.dtype) -> None:
        # Compiled first: what that takes is not there any more when the tables are made.
        self._convolve = loop(*convolve_loop(dtype))
        rows, columns = size
        lanes = this_processor().vector_bytes // dtype.itemsize
        self._down, self._along = Line.of(rows, 1, dtype), Line.of(columns, lanes, dtype)
        down = frequencies(factors(rows))
        along = frequencies(factors(columns // lanes), lanes)
        # Of a correlation: the conjugate's conjugate. In double, then rounded once.
        lines = np.fft.fft(np.conj(weights).astype(np.complex128), columns, axis=1)[:, along]
        table = aligned((2, rows // lanes, columns // lanes, lanes, lanes), dtype)
        most = 0.0
        # A vector of columns at a time: in double the whole would take far more than the result.
        for x in range(0, columns, lanes):
            spectrum = np.fft.fft(lines[:, x : x + lanes], rows, axis=0)[down].conj()
            most = max(most, float(np.abs(spectrum).max()))
            # Without another normalisation: forward and back multiply by the number of points.
            squares = (spectrum / (rows * columns)).reshape(-1, lanes, lanes)
            # Squares of rows and elements, turned over.
            table[:, :, x // lanes] = np.array([squares.real, squares.imag]).swapaxes(2, 3)
        self._re, self._im = table.reshape(2, 1, -1)
        self._lanes = lanes
        self.size = size
        self.dtype = dtype
        self.most = most

    def apply(self, re: np.ndarray, im: np.ndarray) -> None:
        """Correlate two windows in place.

        Parameters
        ----------
        re, im : ndarray, shape (rows, columns)
            Rows contiguous.
        """
        self.bound(re, im)()

    def bound(self, re: np.ndarray, im: np.ndarray) -> Callable[[], None]:
        """`apply` to these windows, which have to stay, as often as it is called."""
        down, along = self._down, self._along
        run = self._convolve.bound(
            re, im, down.stages, down.roots_re, down.roots_im,
            along.stages, along.roots_re, along.roots_im, self._re, self._im,
        )  # fmt: skip
        return partial(run, self._lanes)
