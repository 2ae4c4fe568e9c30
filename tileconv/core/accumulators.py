"""The dtype sums are formed in, from kernel, dtypes, fill value and what is asked for alone.

Integer outputs of integer rasters under whole weights are exact: S, the sum of the magnitudes
of the weights, and the range of the pixels bound every sum, in Python's own integers, and the
narrowest accumulator is taken that is exact up to there.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import numpy as np

from tileconv.core.kernels import Kernel
from tileconv.errors import ConfigError

EXACT_FLOAT32, EXACT_FLOAT64 = 2**24, 2**53
"""Whole numbers up to here are exact in float32 and in float64 (IEEE 754: 24 and 53 bits)."""

ROUNDING = "sums may round above 2^53"
"""Said of integer outputs whose sums no accumulator holds exactly."""


class Accumulate(StrEnum):
    """Choice of accumulator: the one `accumulation_dtype` finds, or double precision."""

    AUTO = "auto"
    FLOAT64 = "float64"


def accumulate_named(name: str | None) -> Accumulate:
    """The `Accumulate` of that name; None is ``"auto"``.

    Raises
    ------
    ConfigError
        For any other name.
    """
    try:
        return Accumulate("auto" if name is None else name)
    except ValueError:
        allowed = ", ".join(repr(str(one)) for one in Accumulate)
        raise ConfigError(f"accumulate {name!r} is not one of {allowed}; leave it out") from None


def exact_limit(accumulator: np.dtype) -> int:
    """Whole numbers up to here are exact in a float accumulator."""
    return EXACT_FLOAT32 if accumulator in (np.float32, np.complex64) else EXACT_FLOAT64


def holds(dtype: np.dtype, value: complex | np.number) -> bool:
    """Whether `value` is exactly a number of `dtype`; NaN is one of every float."""
    if isinstance(value, complex | np.complexfloating):
        if dtype.kind == "c":
            part = dtype.type(0).real.dtype
            return holds(part, value.real) and holds(part, value.imag)
        return value.imag == 0 and holds(dtype, value.real)
    if not _is_finite(value):
        return dtype.kind in "fc"
    numerator, denominator = _ratio(value)
    if dtype.kind in "biu":
        least, greatest = integer_range(dtype)
        return denominator == 1 and least <= numerator <= greatest
    with np.errstate(over="ignore"):
        held = dtype.type(value).real
    return bool(np.isfinite(held)) and _ratio(held) == (numerator, denominator)


def _is_finite(value: float | np.number) -> bool:
    """Whether a real number is neither infinite nor NaN; integers may have any size."""
    return isinstance(value, int) or bool(np.isfinite(value))


def _ratio(value: float | np.number) -> tuple[int, int]:
    """A finite number as a fraction in lowest terms, exactly."""
    if isinstance(value, int | np.integer | np.bool):
        return int(value), 1
    numerator, denominator = value.as_integer_ratio()  # type: ignore[union-attr]
    return int(numerator), int(denominator)


def integer_range(dtype: np.dtype) -> tuple[int, int]:
    """Least and greatest number of an integer or bool `dtype`."""
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def pixel_range(dtype: np.dtype, fill: complex | None = None) -> tuple[int, int] | None:
    """Range of the pixels of an integer raster and of a finite fill value; None for others."""
    if dtype.kind not in "biu":
        return None
    least, greatest = integer_range(dtype)
    if fill is None or not _is_finite(fill.real) or fill.imag != 0:
        return least, greatest
    return min(least, math.floor(fill.real)), max(greatest, math.ceil(fill.real))


def whole_reach(kernel: Kernel, dtype: np.dtype, fill: complex | None = None) -> int | None:
    """The bound S max|x| of sums of integers under whole weights, exactly; None for others.

    Where the fill value is no whole number the sums that it is not in are.
    """
    pixels = pixel_range(dtype, fill)
    if pixels is None or not kernel.is_integral:
        return None
    return sum(kernel.whole_sums) * max(-pixels[0], pixels[1])


def accumulation_dtype(
    input_dtype: np.dtype,
    output_dtype: np.dtype | None,
    kernel: Kernel,
    *,
    accumulate: Accumulate = Accumulate.AUTO,
    fill: complex | None = None,
) -> np.dtype:
    """The dtype a job forms its sums in.

    float32 for inputs of 16 bits or less and for float32, float64 or longdouble for wider ones,
    under `accumulate` and for weights that float32 would round to nothing or to infinity, and the
    complex dtype of that precision if the input or the kernel is complex. For integer outputs of
    more than 16 bits, or whose whole sums may pass `EXACT_FLOAT32`, float64; int64 or uint64
    where whole sums may pass `EXACT_FLOAT64` and every sum fits, which is exact; see `may_round`
    for those that do not.

    Parameters
    ----------
    input_dtype : numpy.dtype
    output_dtype : numpy.dtype or None
        The dtype asked for; None for the default, which is a float.
    kernel : Kernel
    accumulate : Accumulate
        Whether double precision is asked for.
    fill : number or None
        The value of pixels outside the raster, where the edge rule reads one.

    Raises
    ------
    ConfigError
        For pixels that are not numbers.
    """
    if input_dtype.kind not in "biufc" or kernel.weights.dtype.kind == "O":
        raise ConfigError(
            f"pixels of dtype {input_dtype} with weights of dtype {kernel.weights.dtype} "
            "are no numbers a job can sum; use integers, floats or complex numbers"
        )
    real = np.result_type(np.float32, input_dtype.type(0).real.dtype)
    if accumulate is Accumulate.FLOAT64 or (real == np.float32 and not kernel.fits_float32):
        real = np.result_type(real, np.float64)
    if input_dtype.kind == "c" or kernel.weights.dtype.kind == "c":
        return np.result_type(real, np.complex64)
    if output_dtype is None or output_dtype.kind not in "iu":
        return real
    reach = whole_reach(kernel, input_dtype, fill)
    if output_dtype.itemsize > 2 or (reach is not None and reach > EXACT_FLOAT32):
        real = np.result_type(real, np.float64)
    if reach is not None and reach > EXACT_FLOAT64:
        return _integers(kernel, input_dtype, fill) or real
    return real


def _integers(kernel: Kernel, input_dtype: np.dtype, fill: complex | None) -> np.dtype | None:
    """The 64-bit integers that hold every whole sum, if there are any."""
    pixels = pixel_range(input_dtype, fill)
    assert pixels is not None, "whole_reach() has said so"
    (least, greatest), (above, below) = pixels, kernel.whole_sums
    lowest, highest = above * least - below * greatest, above * greatest - below * least
    for dtype in (np.dtype(np.int64), np.dtype(np.uint64)):
        low, high = integer_range(dtype)
        if low <= lowest and highest <= high and (fill is None or holds(dtype, fill)):
            return dtype
    return None


def may_round(
    input_dtype: np.dtype,
    output_dtype: np.dtype,
    kernel: Kernel,
    accumulator: np.dtype,
    fill: complex | None = None,
) -> bool:
    """Whether an integer output of whole sums may not be exact in the accumulator."""
    if output_dtype.kind not in "iu" or accumulator.kind in "iu":
        return False
    reach = whole_reach(kernel, input_dtype, fill)
    return reach is not None and reach > exact_limit(accumulator)


def default_output_dtype(input_dtype: np.dtype, kernel: Kernel) -> np.dtype:
    """The dtype of a job's output when none is asked for: a float, whatever `accumulate` says."""
    return accumulation_dtype(input_dtype, None, kernel)


def held_fill(dtype: np.dtype, accumulator: np.dtype, fill: complex) -> tuple[np.dtype, Any]:
    """The dtype of blocks and the fill value in it: rounded once, to the accumulator.

    Blocks have the raster's dtype where that holds the value exactly, and the accumulator's
    otherwise.

    Parameters
    ----------
    dtype, accumulator : numpy.dtype
        Of the raster and of the sums.
    fill : number
    """
    with np.errstate(over="ignore"):
        value = accumulator.type(fill)
    block = dtype if holds(dtype, value) else accumulator
    if block.kind != "c" and value.dtype.kind == "c":
        value = value.real
    return block, block.type(value)
