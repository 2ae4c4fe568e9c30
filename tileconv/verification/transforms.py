"""Correlation by scipy.fft with an error that is known for every sum.

A transform spreads the rounding of its largest pixel over everything. So pixels are transformed
in bands of their magnitude, and what comes back of a band counts only where the kernel reaches
one of its pixels: the error of a sum is then measured by the pixels of its own window.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from tileconv.core.grid import Shape

BANDS = 12
"""Most bands; pixels below all of them are taken together."""

_POINT_NS = {8: 22.0, 16: 125.0}
"""Time of a point that is transformed and back, by the bytes of its dtype; 2-core x86-64,
2026-11."""


def window_most(x: np.ndarray, kernel: Shape) -> np.ndarray:
    """Largest value of every window of the kernel's shape, by maxima of doubled length."""
    for axis, width in enumerate(kernel):
        length, reach = x.shape[axis] - width + 1, 1
        while 2 * reach <= width:
            x = np.maximum(_part(x, axis, 0, -reach), _part(x, axis, reach, None))
            reach *= 2
        begin = width - reach
        x = np.maximum(_part(x, axis, 0, length), _part(x, axis, begin, begin + length))
    return x


def _part(x: np.ndarray, axis: int, start: int, stop: int | None) -> np.ndarray:
    return x[start:stop] if axis == 0 else x[:, start:stop]


class Transforms:
    """Correlation with real weights.

    Parameters
    ----------
    weights : ndarray, 2-D
        float64 or longdouble.
    side : int
        Rows and columns of what is computed at a time, at most.
    width : int
        Of a band: its largest pixel over its least, as a power of two.
    """

    def __init__(self, weights: np.ndarray, side: int, width: int) -> None:
        self._weights, self._side, self._width = weights, side, width
        self._size = _size(weights.shape, side)
        self._spectrum: np.ndarray | None = None
        self._total = float(np.abs(weights).sum())
        points = math.prod(self._size)
        self._relative = _relative_error(points, weights.dtype) * self._total
        self.ns_per_pixel = 20 + _POINT_NS.get(weights.itemsize, 125.0) * points / side**2

    @classmethod
    def plan(cls, weights: np.ndarray, slack: float, side: int) -> Self | None:
        """Transforms whose error may be `slack`, see `Sums`; None if that cannot be kept."""
        points = math.prod(_size(weights.shape, side))
        worst = _relative_error(points, weights.dtype) * math.sqrt(points)
        # Pixels of a raster are seldom all as large as the largest: half the digits are typical.
        width = math.floor(math.log2(slack / worst)) if worst else 0
        return cls(weights, side, width) if width >= 1 else None

    @property
    def held_bytes(self) -> int:
        """Bytes of the spectrum."""
        return math.prod(self._size) * self._weights.itemsize

    def workspace_bytes(self, window: int) -> int:
        """Bytes that sums over a window of so many pixels allocate."""
        item = self._weights.itemsize
        return 5 * math.prod(self._size) * item + 8 * window * item

    def prepare(self) -> None:
        """Transform the weights, before threads would all do it."""
        from scipy import fft

        spectrum = fft.rfft2(self._weights, self._size, workers=1)
        self._spectrum = np.conj(spectrum, out=spectrum)

    def __call__(self, x: np.ndarray, enough: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the valid part, and how far each may be off.

        Parameters
        ----------
        x : ndarray, 2-D
        enough : ndarray
            How far each sum may be off; a window of zeros alone has none.
        """
        kernel = self._weights.shape
        rows, columns = (n - k + 1 for n, k in zip(x.shape, kernel, strict=True))
        sums, error = np.zeros((rows, columns), x.dtype), np.zeros((rows, columns))
        least = enough.min(where=enough > 0, initial=np.inf)
        size = np.abs(x)
        for band in range(BANDS):
            top = size.max()
            if not top:
                break
            # Nobody notices the error of what is left: it is taken together.
            last = band == BANDS - 1 or self._error(x, size > 0, top) + error.max() <= least
            inside = size > (0 if last else np.ldexp(top, -self._width))
            part = np.where(inside, x, x.dtype.type(0))
            found = self._correlate(part)[:rows, :columns]
            reached = window_most(inside, kernel)
            sums += np.where(reached, found, 0)
            error += np.where(reached, self._error(x, inside, top), 0.0)
            size[inside] = 0
        return sums, error

    def _error(self, x: np.ndarray, inside: np.ndarray, top: np.floating[Any]) -> float:
        """Error of sums over a part of the pixels, of which `top` is the largest."""
        squares = np.square(x / top).sum(where=inside)
        with np.errstate(over="ignore"):
            return float(self._relative * np.sqrt(squares) * top)

    def _correlate(self, x: np.ndarray) -> np.ndarray:
        from scipy import fft

        if self._spectrum is None:
            self.prepare()
        spectrum = fft.rfft2(x, self._size, workers=1)
        spectrum *= self._spectrum
        return np.asarray(fft.irfft2(spectrum, self._size, overwrite_x=True, workers=1))


def _size(kernel: Shape, side: int) -> Shape:
    """Rows and columns of a transform, with no factor but 2, 3, 5, 7 and 11."""
    rows, columns = (_smooth(side + length - 1) for length in kernel)
    return rows, columns


def _smooth(length: int) -> int:
    while True:
        rest = length
        for factor in (2, 3, 5, 7, 11):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def _relative_error(points: int, dtype: np.dtype) -> float:
    """Error of a sum over the sum of |weights| times the root of the pixels' squares.

    Three transforms, each with at most 4 roundings for a doubling of its length (Brisebarre,
    Joldes, Muller, Nanes and Picot, Error analysis of some operations involved in the
    Cooley-Tukey fast Fourier transform, ACM TOMS 46, 2020), and a product.
    """
    roundings = 3 * (4 * math.log2(max(2, points)) + 3)
    return roundings * float(np.finfo(dtype).eps) / 2
