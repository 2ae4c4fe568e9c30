"""Compiled: sums into integers, rounded, clipped and counted in one pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import from_dtype, types

from tileconv.core.compiling import compiled, contiguous_row, rows_type

_RUN = 4096
"""Values that are looked at again when one of them was clipped."""


def saturate(
    values: np.ndarray,
    limits: tuple[float, float],
    constants: tuple[int, int, int],
    out: np.ndarray,
) -> tuple[int, int]:
    """Round `values` half to even into `out`, clipped to its range.

    Parameters
    ----------
    values : ndarray of float32 or float64, 2-D
        Rows contiguous.
    limits : (float, float)
        Least and greatest value of `values`' dtype that are in the range of `out`'s.
    constants : (int, int, int)
        Least and greatest value and what NaN becomes, in `out`'s dtype.
    out : ndarray of integers, 2-D
        Rows contiguous.

    Returns
    -------
    (int, int)
        How many were clipped, and how many were NaN.
    """
    clipped, nans = _loops(values.dtype, out.dtype)(values, limits, constants, out)
    return int(clipped), int(nans)


@cache
def _loops(real: np.dtype, whole: np.dtype) -> Callable[..., tuple[int, int]]:
    """`_saturate`, compiled for two dtypes, or loaded."""
    limit, constant = from_dtype(real), from_dtype(whole)
    loops: Callable[..., tuple[int, int]] = compiled(
        types.UniTuple(types.int64, 2)(
            rows_type(real),
            types.UniTuple(limit, 2),
            types.UniTuple(constant, 3),
            rows_type(whole, written=True),
        )
    )(_saturate)
    return loops


def _saturate(
    values: np.ndarray,
    limits: tuple[float, float],
    constants: tuple[int, int, int],
    out: np.ndarray,
) -> tuple[int, int]:
    """See `saturate`."""
    low, high = limits
    least, greatest, fill = constants
    clipped = 0
    nans = 0
    for y in range(values.shape[0]):
        values_row, out_row = contiguous_row(values, y), contiguous_row(out, y)
        for start in range(0, values.shape[1], _RUN):
            given = values_row[start : start + _RUN]
            kept = out_row[start : start + _RUN]
            # Without counting, which LLVM makes three times as slow.
            changed = False
            for i in range(given.size):
                value = np.rint(given[i])
                inside = value if value > low else low  # noqa: FURB136 - Numba's max minds NaN
                inside = inside if inside < high else high  # noqa: FURB136
                changed |= inside != value
                kept[i] = inside
            if not changed:
                continue
            for i in range(given.size):
                value = np.rint(given[i])
                if value > high:
                    kept[i] = greatest
                    clipped += 1
                elif value < low:
                    kept[i] = least
                    clipped += 1
                elif value != value:  # noqa: PLR0124 - NaN differs from itself
                    kept[i] = fill
                    nans += 1
    return clipped, nans
