"""Dtype rules: what sums are formed in, and how they become output pixels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np


class CastCounts(NamedTuple):
    """Output samples a cast changed beyond rounding."""

    clipped: int = 0
    nans: int = 0


class Rule(StrEnum):
    """How an accumulated value becomes an integer; floats and complex are plainly cast."""

    SATURATE = "saturate"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True)
class Cast:
    """How accumulated values become output pixels.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the output.
    rule : Rule
        SATURATE, a job's: round half to even, clip to the dtype's range and count.
        TRUNCATE, scipy.ndimage's and C's: towards zero, overflowing as scipy's does.
    nan_fill : float or None
        What a NaN becomes in an integer output under SATURATE; with None it is counted in
        `CastCounts.nans`, for the caller to refuse, and written as 0.
    """

    dtype: np.dtype
    rule: Rule = Rule.SATURATE
    nan_fill: float | None = None

    def store(self, values: np.ndarray, out: np.ndarray) -> CastCounts:
        """Cast `values` into `out`, of the same shape and of dtype `dtype`."""
        raise NotImplementedError
