"""Compiled: sums into integers, rounded, clipped and counted in one pass."""

from __future__ import annotations

import numpy as np

from tileconv.core.compiling import compiled


@compiled()
def saturate(
    values: np.ndarray,
    limits: tuple[float, float],
    constants: tuple[int, int, int],
    out: np.ndarray,
) -> tuple[int, int]:
    """Round `values` half to even into `out`, clipped to its range.

    Parameters
    ----------
    values : ndarray of float32 or float64, 1-D, contiguous
    limits : (float, float)
        Least value of the output dtype, and one more than its greatest, in `values`' dtype.
    constants : (int, int, int)
        Least and greatest value and what NaN becomes, in `out`'s dtype.
    out : ndarray of integers, 1-D, contiguous

    Returns
    -------
    (int, int)
        How many were clipped, and how many were NaN.
    """
    low, top = limits
    least, greatest, fill = constants
    clipped = 0
    nans = 0
    for i in range(values.size):
        value = np.rint(values[i])
        if value >= top:
            out[i] = greatest
            clipped += 1
        elif value < low:
            out[i] = least
            clipped += 1
        elif value == value:  # noqa: PLR0124 - NaN differs from itself
            out[i] = value
        else:
            out[i] = fill
            nans += 1
    return clipped, nans
