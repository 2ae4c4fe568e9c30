"""Correlation of finite pixels, so exact that a job's error stands out; and of whole numbers.

Sums are formed in double where a job forms them in single precision, else in long double. Each
product is added to its own window's sum, or a transform is used, whose error is known and
reported: see `tileconv.verification.transforms`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tileconv.core.grid import Shape
from tileconv.verification.transforms import Transforms, window_most

GATHERED_BYTES = 1 << 22
"""Most bytes of windows that are gathered at a time."""

_TAP_NS = {8: 0.7, 16: 13.0}
"""Time of a product that is added, by the bytes of its dtype; 2-core x86-64, 2026-11."""

_COMPENSATED_NS = 130.0
_WEIGHTS_EXPONENT = 100
"""scipy.ndimage leaves out weights up to 2e-16; with the largest at about 2**100, none counts."""


class Found(NamedTuple):
    """Sums, and how far each may be off; 0 where that is far below what is asked for."""

    sums: np.ndarray
    error: np.ndarray | float


class Factors(NamedTuple):
    """A column times a row, and what that leaves out, as a part of the sum of magnitudes."""

    column: np.ndarray
    row: np.ndarray
    rest: float


class Sums:
    """``out[i] = sum over t of weights[t] * x[i + t]`` for real weights and finite real pixels.

    Parameters
    ----------
    weights : ndarray, 2-D
        float64 or longdouble; pixels come in the same dtype.
    slack : float
        How far sums may be off, as a part of the sum of |weights| times the window's largest
        pixel.
    compensated : bool
        Whether roundings are summed as well, where long double by itself does not suffice.
    side : int
        Rows and columns of what is computed at a time, at most.
    """

    def __init__(
        self, weights: np.ndarray, slack: float, side: int, *, compensated: bool = False
    ) -> None:
        self.weights = weights
        self._compensated = compensated
        self._total = float(min(np.abs(weights).sum(), np.finfo(np.float64).max))
        self._factors = None if compensated else _factorised(weights, slack)
        transforms = None if compensated else Transforms.plan(weights, slack, side)
        self.ns_per_pixel = self._direct_ns(side)
        if transforms is not None and transforms.ns_per_pixel < self.ns_per_pixel:
            self.ns_per_pixel = transforms.ns_per_pixel
        else:
            transforms = None
        self._transforms = transforms

    def _direct_ns(self, side: int) -> float:
        """Time of an output that is summed product by product, or line by line."""
        rows, columns = (int(n) for n in self.weights.shape)
        tap: float = _TAP_NS.get(self.weights.itemsize, 13.0)
        if self._compensated:
            return _COMPENSATED_NS * rows * columns
        across = float(side + rows - 1) / side
        if self._factors is not None:
            return tap * (rows + across * columns)
        around = across * (side + columns - 1) / side if self.weights.dtype == np.float64 else 1.0
        return tap * around * rows * columns

    @property
    def held_bytes(self) -> int:
        """Bytes of weights and their spectrum."""
        transforms = self._transforms
        return 4 * self.weights.nbytes + (0 if transforms is None else transforms.held_bytes)

    def workspace_bytes(self, window: int) -> int:
        """Bytes that sums over a window of so many pixels allocate."""
        item = self.weights.itemsize
        if self._transforms is not None:
            return self._transforms.workspace_bytes(window) + GATHERED_BYTES
        return (16 if self._compensated else 4) * window * item + GATHERED_BYTES

    def __call__(self, x: np.ndarray, enough: np.ndarray) -> Found:
        """The valid part, each sum off by `enough` at most, or by what is said."""
        if not self._total:
            return Found(np.zeros(_valid(x, self.weights.shape), x.dtype), 0.0)
        if self._transforms is not None:
            return Found(*self._transforms(x, enough))
        if self._compensated:
            return Found(_compensated(x, self.weights), 0.0)
        if self._factors is None:
            return Found(_direct(x, self.weights), 0.0)
        column, row, rest = self._factors
        sums = _direct(_direct(x, row[None]), column[:, None])
        lines = 8 + sum(self.weights.shape)
        error = rest + lines * float(np.finfo(x.dtype).eps)
        return Found(sums, error * self._total * window_most(np.abs(x), self.weights.shape))

    def at(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The sums at some places of the valid part, each from its own window.

        Parameters
        ----------
        x : ndarray, 2-D
        places : ndarray, shape (places, 2)
            Rows and columns.
        """
        windows = np.lib.stride_tricks.sliding_window_view(x, self.weights.shape)
        step = max(1, GATHERED_BYTES // (2 * self.weights.nbytes))
        out = np.empty(len(places), x.dtype)
        for start in range(0, len(places), step):
            rows, columns = places[start : start + step].T
            products = windows[rows, columns] * self.weights
            # numpy adds along a line in pairs of pairs.
            out[start : start + step] = products.reshape(len(rows), -1).sum(axis=1)
        return out


def _valid(x: np.ndarray, kernel: Shape) -> Shape:
    rows, columns = (n - k + 1 for n, k in zip(x.shape, kernel, strict=True))
    return rows, columns


def _direct(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The valid part, product by product."""
    (kr, kc), (rows, columns) = weights.shape, _valid(x, weights.shape)
    if x.dtype == np.float64:
        from scipy import ndimage

        shift = _WEIGHTS_EXPONENT - math.frexp(float(np.abs(weights).max()))[1]
        sums = ndimage.correlate(x, np.ldexp(weights, shift), mode="constant")
        top, left = kr // 2, kc // 2
        return np.asarray(np.ldexp(sums[top : top + rows, left : left + columns], -shift))
    sums, product = np.zeros((rows, columns), x.dtype), np.empty((rows, columns), x.dtype)
    line = np.empty_like(sums)
    for r in range(kr):
        line.fill(0)
        for c in range(kc):
            np.multiply(x[r : r + rows, c : c + columns], weights[r, c], out=product)
            line += product
        sums += line
    return sums


def _compensated(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The valid part with twice the digits: what products and sums lose is summed as well.

    Ogita, Rump and Oishi, Accurate sum and dot product, SIAM J. Sci. Comput. 26 (2005).
    """
    (kr, kc), (rows, columns) = weights.shape, _valid(x, weights.shape)
    sums, lost = np.zeros((rows, columns), x.dtype), np.zeros((rows, columns), x.dtype)
    high, low = _halves(x)
    for r in range(kr):
        for c in range(kc):
            part = slice(r, r + rows), slice(c, c + columns)
            weight = weights[r, c]
            first, second = (h[()] for h in _halves(np.asarray(weight)))
            product = x[part] * weight
            rest = high[part] * first - product
            rest += high[part] * second
            rest += low[part] * first
            rest += low[part] * second
            total = sums + product
            moved = total - sums
            rest += (sums - (total - moved)) + (product - moved)
            lost += rest
            sums = total
    return sums + lost


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two numbers of half the digits whose sum is `x`, so that products of them are exact."""
    digits = np.finfo(x.dtype).nmant + 1
    fraction, exponent = np.frexp(x)
    scale = x.dtype.type(2.0) ** ((digits + 1) // 2)
    high = np.ldexp(np.rint(fraction * scale) / scale, exponent)
    return high, x - high


def _factorised(weights: np.ndarray, slack: float) -> Factors | None:
    """The cross through the largest weight, if its column times its row is the kernel."""
    if min(weights.shape) < 2 or max(weights.shape) < 3:
        return None
    sizes = np.abs(weights)
    r, c = np.unravel_index(int(np.argmax(sizes)), weights.shape)
    if not sizes[r, c]:
        return None
    # In long double, as what is left out has to be told from rounding; row by row, as a kernel
    # may have millions of weights.
    column, row = (line.astype(np.longdouble) for line in (weights[:, c], weights[r]))
    column /= column[r]
    rest = sum(np.abs(line - by * row).sum() for line, by in zip(weights, column, strict=True))
    rest /= sum(np.abs(line.astype(np.longdouble)).sum() for line in weights)
    if rest > slack / 8:
        return None
    return Factors(column.astype(weights.dtype), row.astype(weights.dtype), float(rest))


def whole_sums(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of products of whole numbers, exact but for multiples of 2**64.

    Parameters
    ----------
    x : ndarray of uint64, 2-D
    weights : ndarray of uint64, 2-D
        Both modulo 2**64.
    """
    (kr, kc), (rows, columns) = weights.shape, _valid(x, weights.shape)
    sums, product = np.zeros((rows, columns), np.uint64), np.empty((rows, columns), np.uint64)
    for r in range(kr):
        for c in range(kc):
            np.multiply(x[r : r + rows, c : c + columns], weights[r, c], out=product)
            sums += product
    return sums


def modulo(values: np.ndarray) -> np.ndarray:
    """Whole numbers of any dtype, modulo 2**64, as uint64."""
    if values.dtype.kind in "ub":
        return values.astype(np.uint64)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64)
    numbers = [int(value) % (1 << 64) for value in values.ravel().tolist()]
    return np.array(numbers, np.uint64).reshape(values.shape)


def resolved(remainder: np.ndarray, near: np.ndarray | None) -> np.ndarray:
    """Whole sums in long double, from what they are modulo 2**64 and nearly.

    Long double holds every whole number of 64 bits and a sign. Sums far outside come out as
    `near`: they only have to be outside.

    Parameters
    ----------
    remainder : ndarray of uint64
    near : ndarray of longdouble or None
        Off by less than 2**62; None where every sum is of a signed 64-bit integer.
    """
    signed = remainder.view(np.int64).astype(np.longdouble)
    if near is None:
        return signed
    turn = np.longdouble(2.0) ** 64
    turns = np.rint((near - signed) / turn)
    sums = np.where(turns == 0, signed, np.where(turns == 1, signed + turn, near))
    return np.asarray(sums)
