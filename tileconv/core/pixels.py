"""How sums become output pixels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tileconv.errors import ConfigError


class CastCounts(NamedTuple):
    """Output samples a cast changed beyond rounding."""

    clipped: int = 0
    nans: int = 0

    def plus(self, other: CastCounts) -> CastCounts:
        """The counts of both, each sample counted once in either."""
        return CastCounts(self.clipped + other.clipped, self.nans + other.nans)


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
    nan_fill : number or None
        What a NaN becomes in an integer output under SATURATE; with None it becomes 0, for
        the caller to refuse. `CastCounts.nans` counts them either way.

    Raises
    ------
    ConfigError
        If `nan_fill` is no value of an integer `dtype`.
    """

    dtype: np.dtype
    rule: Rule = Rule.SATURATE
    nan_fill: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if self.nan_fill is not None and self.dtype.kind in "iu":
            info = np.iinfo(self.dtype)
            if self.nan_fill != self.nan_fill // 1 or not info.min <= self.nan_fill <= info.max:
                raise ConfigError(
                    f"NaN fill {self.nan_fill!r} is no value of {self.dtype}; "
                    f"use a whole number in {info.min} .. {info.max}"
                )

    def check(self, accumulator: np.dtype) -> None:
        """Refuse outputs that sums formed in `accumulator` cannot become.

        Raises
        ------
        ConfigError
            For complex sums into a real output, and for rounded sums into bool.
        """
        if self.rule is Rule.SATURATE and self.dtype.kind == "b" and accumulator.kind != "b":
            raise ConfigError("sums do not fit a bool output; ask for uint8 or a float dtype")
        if accumulator.kind == "c" and self.dtype.kind not in "cO":
            raise ConfigError(
                f"the sums are complex ({accumulator}) and the output is {self.dtype}; "
                "ask for a complex output dtype"
            )

    def store(self, values: np.ndarray, out: np.ndarray, *, finite: bool = False) -> CastCounts:
        """Cast `values` into `out`, of the same shape and of dtype `dtype`.

        Parameters
        ----------
        values : ndarray
            Sums, in any dtype `check` lets pass; not changed. Into bool, without truncation,
            whatever is not 0 is true.
        out : ndarray
            Any strides.
        finite : bool
            Whether no value is NaN.
        """
        rounded = self.dtype.kind in "iu" or (self.dtype.kind == "b" and self.rule is Rule.TRUNCATE)
        if not rounded or values.dtype.kind == "O":
            # A sum beyond the range of a narrower float is infinite there, as in C.
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(out, values, casting="unsafe")
            if not finite:
                unify_nans(values, out)
            return CastCounts(clipped=self._overflowed(values, out))
        if values.dtype.kind in "biu":
            return self._store_integers(values, out)
        if self.rule is Rule.TRUNCATE:
            for index in np.ndindex(values.shape[:1]):  # A row at a time: it takes copies.
                out[index] = truncated(values[index], self.dtype)
            return CastCounts()
        return self._saturate(values, out)

    def _overflowed(self, values: np.ndarray, out: np.ndarray) -> int:
        """Finite sums that became infinite in a narrower float."""
        narrower = self.dtype.kind in "fc" and values.dtype.kind in "biufc"
        if not narrower or self.rule is Rule.TRUNCATE or np.can_cast(values.dtype, self.dtype):
            return 0
        return int(np.count_nonzero(np.isinf(out) & np.isfinite(values)))

    def _store_integers(self, values: np.ndarray, out: np.ndarray) -> CastCounts:
        if self.rule is Rule.TRUNCATE or values.dtype == self.dtype or values.dtype.kind == "b":
            np.copyto(out, values, casting="unsafe")
            return CastCounts()
        have, want = np.iinfo(values.dtype), np.iinfo(self.dtype)
        clipped = np.clip(values, max(have.min, want.min), min(have.max, want.max))
        np.copyto(out, clipped, casting="unsafe")
        return CastCounts(clipped=int(np.count_nonzero(clipped != values)))

    def _saturate(self, values: np.ndarray, out: np.ndarray) -> CastCounts:
        from tileconv.core.compiling import loop  # LLVM: only where it is used.

        if values.dtype == np.float16:
            values = values.astype(np.float32)
        if values.dtype not in (np.float32, np.float64):
            return self._saturate_wide(values, out)
        native = self.dtype.newbyteorder("=")
        limits, constants = _limits(values.dtype, native, self.nan_fill or 0)
        straight, given = as_rows(out, native), as_rows(values, values.dtype)
        rows = np.empty((len(out), out[:1].size), native) if straight is None else straight
        if given is None:
            given = np.ascontiguousarray(values).reshape(rows.shape)
        counts = np.empty((1, 2), np.int64)
        dtypes = values.dtype, values.dtype, native, native, counts.dtype
        loop("casts", "saturate", dtypes)(given, limits, constants, rows, counts)
        if straight is None:
            out[...] = rows.reshape(out.shape)
        return CastCounts(*counts[0].tolist())

    def _saturate_wide(self, values: np.ndarray, out: np.ndarray) -> CastCounts:
        """The same for floats wider than Numba knows, which hold every integer of `dtype`."""
        info = np.iinfo(self.dtype)
        rounded, nans = np.rint(values), np.isnan(values)
        low, high = values.dtype.type(info.min), values.dtype.type(info.max)
        clipped = (rounded < low) | (rounded > high)
        rounded = np.where(nans, values.dtype.type(self.nan_fill or 0), rounded)
        np.copyto(out, np.clip(rounded, low, high), casting="unsafe")
        return CastCounts(int(np.count_nonzero(clipped)), int(np.count_nonzero(nans)))


def unify_nans(values: np.ndarray, out: np.ndarray) -> None:
    """Give each NaN in `out` one sign and payload, in both components of complex numbers.

    Those of a sum are of its operands, by the order in which the processor was given them;
    with these, equal pixels have equal bytes, whatever the tiling.

    Parameters
    ----------
    values : ndarray
        Of the same shape; NaN where `out` is. It is asked, for it may be quicker to sum.
    out : ndarray
        Changed in place.
    """
    if out.dtype.kind not in "fc" or values.dtype.kind not in "fc":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isnan(values.sum()):
            return
    for part in (out.real, out.imag) if out.dtype.kind == "c" else (out,):
        part[np.isnan(part)] = np.nan


@lru_cache
def _limits(real: np.dtype, whole: np.dtype, nan_fill: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits and constants of `tileconv.core.loops.casts.saturate`."""
    info = np.iinfo(whole)
    # One more than the greatest is a power of two, exact in every float; the greatest is not.
    high = np.nextafter(real.type(2.0 ** (info.bits - (info.min < 0))), real.type(0))
    return (
        np.array([[info.min, min(high, real.type(info.max))]], real),
        np.array([[info.min, info.max, int(nan_fill)]], whole),
    )


TRUNCATED_BYTES = 64
"""Upper bound of what `truncated` allocates for one value, its result included."""


def truncated(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`values` as scipy.ndimage writes its double sums into an integer output.

    NI_Correlate (scipy/ndimage/src/ni_filters.c) casts in C: towards zero, and into
    unsigned types by negating the cast of the negated value, so that they wrap. Beyond the
    range of the machine's own conversion C leaves the result open; this is x86-64's, whose
    instruction gives the least integer then: of 32 bits for 8 and 16 bit outputs and int32,
    of 64 bits for the others.

    Parameters
    ----------
    values : ndarray of float
    dtype : numpy.dtype
        Integer or bool. Bool is what uint8 would be, compared with 0.
    """
    if dtype.kind == "b":
        return np.asarray(truncated(values, np.dtype(np.uint8)) != 0)
    sums = np.asarray(values, dtype=np.float64)
    bound = 2.0**31 if dtype.itemsize < 4 or dtype == np.int32 else 2.0**63
    if dtype.kind == "i":
        return _converted(sums, bound).astype(dtype)
    positive = sums > -1.0
    size = np.where(positive, sums, -sums)
    if dtype.itemsize == 8:
        high = size >= bound
        whole = _converted(np.where(high, size - bound, size), bound)
        whole = np.where(high, whole ^ np.iinfo(np.int64).min, whole)
    else:
        whole = _converted(size, bound)
    return np.where(positive, whole, -whole).astype(dtype)


def _converted(sums: np.ndarray, bound: float) -> np.ndarray:
    """Towards zero into int64; ``-bound`` for what lies outside ``-bound .. bound``."""
    inside = (sums > -bound - 1) & (sums < bound)
    return np.where(inside, sums, -bound).astype(np.int64)


def as_rows(pixels: np.ndarray, dtype: np.dtype | type) -> np.ndarray | None:
    """Pixels as compiled loops take them, without a copy; None where that cannot be.

    Parameters
    ----------
    pixels : ndarray, shape (rows, ...)
    dtype : numpy.dtype
        What the loops are compiled for.

    Returns
    -------
    ndarray, shape (rows, values), or None
        Rows contiguous.
    """
    size = 1
    if pixels.ndim < 2 or pixels.dtype != dtype or not pixels.dtype.isnative:
        return None
    for length, stride in zip(
        reversed(pixels.shape[1:]), reversed(pixels.strides[1:]), strict=True
    ):
        if length != 1 and stride != size * pixels.itemsize:
            return None
        size *= length
    return pixels.reshape(len(pixels), size) if pixels.flags.aligned else None
