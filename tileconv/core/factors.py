"""Kernels as sums of rank-one terms: a column of weights times a row of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tileconv.core.kernels import Kernel
from tileconv.core.roundings import ERROR_FACTOR, scaled

MAX_TERMS = 16
"""More terms than this have never been faster than transforms (see methods.py)."""

TRUNCATION = 8
"""Part of `roundings.ERROR_FACTOR` that what a sum of terms leaves out of a kernel may use."""

GROWTH = 4
"""Largest ratio of the terms' gains to the kernel's: beyond it, cancellation costs accuracy."""


GAINS = 1e-250, 1e250
"""Sums of the magnitudes of weights that are factorised: in double precision factors would be
subnormal below, or infinite above."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """``weights[j, i] = sum over t of columns[t, j] * rows[t, i]``.

    Parameters
    ----------
    columns : ndarray, shape (terms, kernel rows)
    rows : ndarray, shape (terms, kernel columns)
    whole : bool
        Whether the factors are whole numbers, times powers of two, whose products are the
        weights exactly: then sums of whole numbers stay exact.
    growth : float
        Sum of the magnitudes of all products of factors, over that of the weights.
    rest : float
        Sum of the magnitudes of what the terms leave out of the weights, in eps of their sum.
    """

    columns: np.ndarray
    rows: np.ndarray
    whole: bool
    growth: float = 1.0
    rest: float = 0.0

    @property
    def terms(self) -> int:
        """Number of rank-one terms."""
        return len(self.columns)

    @property
    def roundings(self) -> int:
        """Most that a product may go through in either of the two sums of a term.

        Each is half an eps, of sums `growth` times as large as the kernel's; the terms are added
        up as well.
        """
        half_eps = 2 * (ERROR_FACTOR - self.rest) / max(self.growth, 1.0)
        return int((half_eps - self.terms) / 2) - 1


def effective_weights(kernel: Kernel, accumulator: np.dtype) -> np.ndarray:
    """The weights in the accumulation dtype, with 0 for those that are skipped."""
    with np.errstate(over="ignore"):  # Too large for it: infinite, as scipy has it.
        weights = kernel.weights.astype(accumulator)
    return np.where(kernel.active, weights, accumulator.type(0))


def factorise(kernel: Kernel, accumulator: np.dtype) -> Factors | None:
    """Fewest rank-one terms that stand for the kernel, or None where none are good enough.

    Whole factors if the weights are whole numbers of rank one, which alone serve integer
    accumulators. Else the crosses of Gaussian elimination with complete pivoting: the column
    and the row through the largest element, their product over that element taken off, and
    again. What is left over must have a sum of absolute values below `TRUNCATION` eps times
    the gain. Unlike singular vectors, one cross is exact where the rank is one, and the
    factors have the same bits on every machine.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
        Integers, float32, float64, complex64 or complex128.
    """
    weights = effective_weights(kernel, accumulator)
    if not np.all(np.isfinite(weights)):
        return None
    if kernel.is_integral and weights.dtype.kind != "c":
        whole = _whole_factors(weights)
        if whole is not None:
            return whole
    if accumulator.kind in "iu":
        return None
    return _line(weights) if 1 in weights.shape else _crosses(weights)


def _line(weights: np.ndarray) -> Factors:
    """A single row or column: the other factor is 1, and rounds nothing."""
    one = np.ones((1, 1), weights.dtype)
    if len(weights) == 1:
        return Factors(one, weights, whole=False)
    return Factors(weights.T, one, whole=False)


def _whole_factors(weights: np.ndarray) -> Factors | None:
    if weights.dtype.kind == "f" and not np.abs(weights).max() < 2.0**53:
        return None
    w = weights.astype(np.int64)  # uint64 wraps, as its sums do.
    occupied = np.flatnonzero(w.any(axis=1))
    first = w[occupied[0]] if occupied.size else w[0]
    row = first // max(math.gcd(*first.tolist()), 1)
    at = int(np.argmax(row != 0))
    column = w[:, at] // (int(row[at]) or 1)
    if not np.array_equal(np.outer(column, row), w):
        return None
    columns, rows = (f.astype(weights.dtype)[None] for f in (column, row))
    if weights.dtype.kind == "f":
        columns, rows = _balanced(columns, rows)
    return Factors(columns, rows, whole=True)


def _crosses(weights: np.ndarray) -> Factors | None:
    wide = np.result_type(weights.dtype, np.float64)
    rest = weights.astype(wide)
    with np.errstate(over="ignore"):
        gain = float(np.abs(rest).sum())
    if gain and not GAINS[0] < gain < GAINS[1]:
        return None
    tolerance = TRUNCATION * float(np.finfo(weights.dtype).eps) * gain
    kr, kc = weights.shape
    limit = min(MAX_TERMS, max(1, kr * kc // (kr + kc)))
    columns: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    while not columns or float(np.abs(rest).sum()) > tolerance:
        if len(columns) == limit:
            return None
        y, x = np.unravel_index(int(np.argmax(np.abs(rest))), rest.shape)
        column, row = rest[:, x].copy(), rest[y] / (rest[y, x] or 1)
        rest -= np.outer(column, row)
        columns.append(column)
        rows.append(row)
    with np.errstate(over="ignore"):
        pairs = _balanced(np.array(columns), np.array(rows))
        down, along = (factors.astype(weights.dtype) for factors in pairs)
    if not np.isfinite(along).all():
        return None
    products = [np.outer(c, r) for c, r in zip(down.astype(wide), along.astype(wide), strict=True)]
    growth = sum(float(np.abs(product).sum()) for product in products) / (gain or 1.0)
    left_out = float(np.abs(weights.astype(wide) - sum(products)).sum()) / (gain or 1.0)
    eps = float(np.finfo(weights.dtype).eps)
    if growth > GROWTH:
        return None
    return Factors(down, along, whole=False, growth=growth, rest=left_out / eps)


def _balanced(columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same terms, columns scaled by powers of two until their magnitudes sum to 1 .. 2.

    So that sums along rows leave the dtype's range at neither end unless the result may: they
    are no larger than the whole term's, and what subnormal ones of them lose is not multiplied.
    Powers of two lose no bit.
    """
    exponents = [math.frexp(float(np.abs(column).sum()))[1] - 1 for column in columns]
    return (
        np.array([scaled(c, -e) for c, e in zip(columns, exponents, strict=True)]),
        np.array([scaled(r, e) for r, e in zip(rows, exponents, strict=True)]),
    )
