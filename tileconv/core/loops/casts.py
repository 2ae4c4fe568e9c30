"""Sums into integers: rounded, clipped and counted in one pass."""

from __future__ import annotations

import numpy as np

from tileconv.core.loops.vectors import contiguous_row

_RUN = 4096
"""Values that are looked at again when one of them was clipped."""


def saturate(
    values: np.ndarray,
    limits: np.ndarray,
    constants: np.ndarray,
    out: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Round `values` half to even into `out`, clipped to its range.

    Parameters
    ----------
    values : ndarray of float32 or float64
        Rows contiguous.
    limits : ndarray, shape (1, 2)
        Least and greatest value of `values`' dtype that are in the range of `out`'s.
    constants : ndarray, shape (1, 3)
        Least and greatest value and what NaN becomes, in `out`'s dtype.
    out : ndarray of integers
        Rows contiguous.
    counts : ndarray of int64, shape (1, 2)
        How many were clipped, and how many were NaN.
    """
    low, high = limits[0, 0], limits[0, 1]
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
                    kept[i] = constants[0, 1]
                    clipped += 1
                elif value < low:
                    kept[i] = constants[0, 0]
                    clipped += 1
                elif value != value:  # noqa: PLR0124 - NaN differs from itself
                    kept[i] = constants[0, 2]
                    nans += 1
    counts[0, 0] = clipped
    counts[0, 1] = nans
