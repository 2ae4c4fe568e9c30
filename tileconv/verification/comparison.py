"""Whether pixels are what sums become, if those may be off by a bound; pure.

Casts are monotone, so one rule serves every output dtype: a value is right if it lies between
what the least and what the greatest sum within the bound become. A sum at a tie may go either
way, a saturated one must be the limit, a float may be off by its own rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_OVER = float(np.nextafter(1.0, 2.0))


@dataclass(frozen=True, slots=True)
class Difference:
    """The value that is farthest off.

    Parameters
    ----------
    at : tuple of int
        Its index.
    found, expected : int, float or complex
        What is there, and what scipy's sum becomes in that dtype.
    error : float
        Their difference.
    units : float
        How far scipy's sum is from the nearest one that would become `found`, in units of the
        bound; above 1 exactly if the value is wrong.
    """

    at: tuple[int, ...]
    found: complex
    expected: complex
    error: float
    units: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison has found.

    Parameters
    ----------
    values : int
        Compared.
    wrong : int
        Out of the bound.
    error : float
        Largest difference of any, infinite where only one of two is finite.
    worst : Difference or None
        None where no value differs.
    """

    values: int = 0
    wrong: int = 0
    error: float = 0.0
    worst: Difference | None = None

    def plus(self, other: Comparison) -> Comparison:
        """Both together; of two equally bad values, the one that comes first."""
        found = [c.worst for c in (self, other) if c.worst is not None]
        return Comparison(
            self.values + other.values,
            self.wrong + other.wrong,
            max(self.error, other.error),
            min(found, key=lambda d: (-d.units, -d.error, d.at), default=None),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """How far sums may be off.

    Parameters
    ----------
    allowed : float or ndarray
        For each value, or for all; 0 where sums must be exact.
    unit : float or ndarray
        What errors are measured in: the bound, also where sums must be exact.
    beyond : bool or ndarray of bool
        Where sums may have left their dtype's range on the way: infinity and NaN are right
        there as well.
    """

    allowed: float | np.ndarray
    unit: float | np.ndarray
    beyond: bool | np.ndarray = False


@dataclass(frozen=True, slots=True)
class Target:
    """Outputs of sums: rounded half to even and saturated in integers.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the output.
    nan_fill : number or None
        What a NaN becomes in an integer dtype; None where a job refuses it.
    """

    dtype: np.dtype
    nan_fill: float | None = None


def compare(found: np.ndarray, sums: np.ndarray, bound: Bound, target: Target) -> Comparison:
    """Compare pixels with the sums they should come from.

    Complex values are judged by their parts; where the sum is not finite, a value that is not
    finite in either part is right, because which of them depends on how products are formed.

    Parameters
    ----------
    found : ndarray
        In ``target.dtype``.
    sums : ndarray of float64, longdouble or complex, the same shape
        scipy's. Complex where `found` is.
    bound : Bound
        Of numbers that broadcast against the shape.
    target : Target
    """
    if found.size == 0:
        return Comparison()
    expected = rounded(sums, target)
    right, error, units = _judge(found, expected, sums, bound, target)
    values = found.size
    wrong = values - int(np.count_nonzero(right))
    units = np.where(right, np.minimum(units, 1.0), np.maximum(units, _OVER))
    largest = float(error.max())
    if not wrong and not largest:
        return Comparison(values)
    # Of equal units, as of two that are infinite, the larger error is the worse.
    top = units == units.max()
    at = np.unravel_index(int(np.argmax(np.where(top, error, -1.0))), found.shape)
    # A NaN that has no place in an integer output: what the sum was, not what it would become.
    told = sums if np.isnan(sums[at]) and target.nan_fill is None else expected
    worst = Difference(
        at=tuple(int(i) for i in at),
        found=found[at].item(),
        expected=told[at].item(),
        error=float(error[at]),
        units=float(units[at]),
    )
    return Comparison(values, wrong, largest, worst)


def rounded(sums: np.ndarray, target: Target) -> np.ndarray:
    """`sums` in ``target.dtype``, in numpy alone.

    NaN becomes the fill in an integer dtype, and 0 where there is none.
    """
    dtype = target.dtype
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype == np.float16:
            return _odd(sums).astype(dtype)
        if dtype.kind not in "iu":
            return sums.astype(dtype)
        info = np.iinfo(dtype)
        # The greatest integer may be no float, but one more than it is.
        whole, top = np.rint(sums), 2.0 ** (info.bits - (info.min < 0))
        inside = (whole >= info.min) & (whole < top)
        out = np.where(inside, whole, 0).astype(dtype)
        out[whole >= top] = info.max
        out[whole < info.min] = info.min
        out[np.isnan(sums)] = 0 if target.nan_fill is None else int(target.nan_fill)
    return out


def _odd(sums: np.ndarray) -> np.ndarray:
    """`sums` in double, the last bit set where that is not exact, so that it does not end a tie.

    numpy rounds long double to half precision by way of single, that is twice.
    """
    near = sums.astype(np.float64)
    inexact = near != sums
    even = near.view(np.int64) & 1 == 0
    beside = np.nextafter(near, np.where(sums > near, np.inf, -np.inf))
    return np.where(inexact & even & np.isfinite(near), beside, near)


def _judge(
    found: np.ndarray, expected: np.ndarray, sums: np.ndarray, bound: Bound, target: Target
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each value is right, its error, and that in units of the bound."""
    if found.dtype.kind == "c":
        return _judge_complex(found, expected, sums, bound)
    most = np.finfo(sums.dtype).max
    # A sum that has just left the range here may just have stayed inside there.
    inside = np.where(bound.beyond, np.clip(sums, -most, most), sums)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = (rounded(inside + by, target) for by in (-bound.allowed, bound.allowed))
    same = found == expected
    right = (low <= found) & (found <= high)
    lost = np.isnan(sums)
    if found.dtype.kind == "f":
        both = lost & np.isnan(found)
        right |= both
        same |= both
        excused = ~np.isfinite(found)
    else:
        # Without a fill the job could not have written anything here.
        right &= ~(lost & (target.nan_fill is None))
        same &= right | ~lost
        info, fill = np.iinfo(target.dtype), target.nan_fill
        excused = (found == info.max) | (found == info.min)
        if fill is not None:
            excused |= found == int(fill)
    # A NaN of the input stays one, whatever else is lost on the way.
    excused &= bound.beyond & ~lost
    error, units = _distances(found, expected, sums, bound, same | excused)
    error[lost & ~(right | excused)] = np.inf
    return right | excused, error, units


def _judge_complex(
    found: np.ndarray, expected: np.ndarray, sums: np.ndarray, bound: Bound
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    part = Target(found.real.dtype)
    real = _judge(found.real, expected.real, sums.real, bound, part)
    imaginary = _judge(found.imag, expected.imag, sums.imag, bound, part)
    right = real[0] & imaginary[0]
    error, units = (np.maximum(a, b) for a, b in zip(real[1:], imaginary[1:], strict=True))
    either = ~np.isfinite(found)
    excused = either & (~np.isfinite(expected) | bound.beyond)
    error[excused], units[excused] = 0, 0
    return right | excused, error, units


def _distances(
    found: np.ndarray, expected: np.ndarray, sums: np.ndarray, bound: Bound, same: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Difference from what was expected, and that of the sums in units; 0 where `same`."""
    real = sums.dtype.type
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        error = np.abs(found.astype(real) - expected.astype(real))
        # Rounding took the sum at most half a step away.
        if found.dtype.kind == "f":
            step = np.spacing(np.abs(found)).astype(real) / 2
        else:
            step = np.full(found.shape, 0.5, real)
            # Large integers that differ may be the same float.
            error = np.maximum(error, found != expected)
        excess = np.maximum(np.abs(found.astype(real) - sums) - step, 0)
        # Of NaN, and of infinities, whose step is NaN: no sum near this one becomes them.
        excess[np.isnan(excess)] = np.inf
        units = np.where(excess > 0, excess / bound.unit, 0)
    for values in (error, units):
        values[np.isnan(values)] = np.inf
        values[same] = 0
    return error.astype(np.float64), units.astype(np.float64)
