"""Rounding: what sums may lose by it, how long ones are cut up, and scaling that has none."""

from __future__ import annotations

import numpy as np

from tileconv.core.grid import ceil_div

ERROR_FACTOR = 64
"""A float sum may be wrong by so many eps of the kernel's gain times its window's largest pixel."""

CHAINED_TAPS = 124
"""Most float products that can be added one after another within that: half an eps each."""


def error_factor(accumulator: np.dtype, *, transformed: bool) -> float:
    """Error a sum may have, over the kernel's gain and the largest pixel of its window.

    ``64 eps`` of the accumulator, and of transforms in double precision ``2**-40``; 0 for
    integers.
    """
    if accumulator.kind not in "fc":
        return 0.0
    if transformed and accumulator in (np.float64, np.complex128):
        return 2.0**-40
    return ERROR_FACTOR * float(np.finfo(accumulator).eps)


def group_size(count: int, roundings: int) -> int | None:
    """Most things that are added one after another, so that none is rounded more than so often.

    Parameters
    ----------
    count : int
        Things to be summed.
    roundings : int

    Returns
    -------
    int or None
        All, if they are few enough. Otherwise m for groups of m things, groups of m groups, and
        so on, which is ``m * levels`` roundings; with as few levels as may be. None if no number
        of levels will do.
    """
    if count <= roundings:
        return count
    for levels in range(2, roundings // 2 + 1):
        most = roundings // levels
        if most**levels >= count:
            return most
    return None


PASS_TAPS = 8
"""Products that are added up at a time where weights are far between, or complex."""


def pass_group(taps: int, roundings: int) -> int | None:
    """`group_size` of passes of `PASS_TAPS` products, whose own sums have as many roundings."""
    return group_size(ceil_div(taps, PASS_TAPS), roundings - PASS_TAPS)


def spare_sums(count: int, most: int) -> int:
    """Sums that are held besides the result where groups of `most` are added up."""
    held = 0
    while count > most:
        count, held = ceil_div(count, most), held + 1
    return held


def scaled(x: np.ndarray, power: int) -> np.ndarray:
    """`x` times a power of 2, which may itself be out of the range of its dtype."""
    if x.dtype.kind != "c":
        return np.asarray(np.ldexp(x, power))
    result = np.empty_like(x)
    result.real, result.imag = np.ldexp(x.real, power), np.ldexp(x.imag, power)
    return result
