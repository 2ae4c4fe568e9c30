"""Which method applies a kernel: what each can serve, and what it costs.

The choice is a pure function of kernel and dtypes, so that it never depends on tiles,
memory or the machine at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tileconv.core.accumulators import exact_limit, holds, whole_reach
from tileconv.core.factors import MAX_TERMS, Factors, factorise
from tileconv.core.kernels import Kernel
from tileconv.core.overlap_save import plan_cells
from tileconv.core.roundings import CHAINED_TAPS, error_factor, group_size, pass_group
from tileconv.errors import ConfigError, MethodError


class Method(StrEnum):
    """How a kernel is applied."""

    REFERENCE = "reference"
    DIRECT = "direct"
    SEPARABLE = "separable"
    FFT = "fft"


AUTO = "auto"
"""Asks `choose` for the cheapest method that serves."""

COMPILED = frozenset(np.dtype(code) for code in "bBhHiIlLqQfdFD")
"""Dtypes the compiled loops sum in."""

TRANSFORMED = frozenset(np.dtype(code) for code in "fdFD")
"""Dtypes transforms are made in."""

SCIPY = COMPILED | {np.dtype(np.longdouble), np.dtype(np.clongdouble)}
"""Dtypes scipy.signal sums in."""

# Time for one output pixel with sums in float32, fitted to CPU times of 2048 x 2048 outputs
# with kernels of 3 .. 255 weights a side on one core of a 2-core AMD EPYC x86-64 (AVX-512),
# 2026-11. Other dtypes by their bytes; complex products are several.
DIRECT_NS, DIRECT_TAP_NS = 0.55, 0.0175
DIRECT_PIECES_TAP_NS = 0.0245
"""Where there are too many products for one sum."""

SEPARABLE_NS, SEPARABLE_TAP_NS = 0.65, 0.0285
FFT_NS = 1.1
"""Besides the transforms: windows are filled, and sums looked at and cast."""

REFERENCE_NS, REFERENCE_TAP_NS = 5.0, 1.0
COMPLEX = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """A method, why it was taken, and what it should cost.

    Parameters
    ----------
    method : Method
    reason : str
        For people.
    ns_per_pixel : float
        Estimated time for one output pixel (and sample) on one core.
    limbs : int
        Pieces of `LIMB_BITS` that integers are split into, each convolved by itself and
        rounded to whole numbers, so that transforms stay exact; 1 for pixels as they are.
    """

    method: Method
    reason: str
    ns_per_pixel: float
    limbs: int = 1


LIMB_BITS = 16
"""Bits of the pieces of wide integers; see `Choice.limbs`."""


def _factors(kernel: Kernel, accumulator: np.dtype) -> Factors | None:
    return factorise(kernel, accumulator) if accumulator in COMPILED else None


def refusal(method: Method, kernel: Kernel, accumulator: np.dtype) -> str | None:
    """Why a method cannot apply a kernel with sums in `accumulator`; None if it can."""
    weights = kernel.weights.dtype
    if accumulator.kind not in "cO" and weights.kind == "c":
        return f"{method}: complex weights need complex sums, not {accumulator}"
    if accumulator.kind in "biu" and not kernel.is_integral:
        return f"{method}: sums in {accumulator} need weights that are whole numbers"
    if method is Method.REFERENCE:
        return _no_reference(kernel, accumulator)
    if accumulator not in COMPILED:
        return f"{method}: cannot sum in {accumulator}; use method 'reference'"
    if method is Method.SEPARABLE:
        return _no_factors(kernel, accumulator)
    return _no_transform(kernel, accumulator) if method is Method.FFT else None


def _no_transform(kernel: Kernel, accumulator: np.dtype) -> str | None:
    if accumulator not in TRANSFORMED:
        return f"fft: sums in {accumulator} cannot be transformed; use method 'direct'"
    with np.errstate(over="ignore"):
        weights = kernel.weights.astype(accumulator)
    if not bool(np.isfinite(weights).all()):
        return f"fft: the kernel has weights not finite in {accumulator}; use method 'direct'"
    return None


def _no_factors(kernel: Kernel, accumulator: np.dtype) -> str | None:
    rows, columns = kernel.shape
    factors = factorise(kernel, accumulator)
    if factors is not None:
        grouped = pass_group if accumulator.kind == "c" else group_size
        if accumulator.kind in "iu" or grouped(max(rows, columns), factors.roundings):
            return None
        return (
            f"separable: {rows} x {columns} weights, of rank {factors.terms}, have lines too long "
            "to be summed within the error bound; use method 'fft'"
        )
    what = (
        "a product of whole factors"
        if accumulator.kind in "iu"
        else (
            f"a sum of at most {MAX_TERMS} rank-one terms, fewer products than its weights, "
            f"within the error bound of {accumulator}"
        )
    )
    return f"separable: the {rows} x {columns} kernel is not {what}; use method 'direct' or 'fft'"


def _no_reference(kernel: Kernel, accumulator: np.dtype) -> str | None:
    if accumulator not in SCIPY:
        return f"reference: scipy cannot sum in {accumulator}; use integers, floats or complex"
    if accumulator in (np.float64, np.complex128) or bool(kernel.active.all()):
        return None
    return (
        f"reference: scipy leaves out weights of 0 in float64 and complex128 only, "
        f"not in {accumulator}; use method 'direct'"
    )


@dataclass(frozen=True, slots=True)
class _Exactness:
    """How exact integer results must be.

    Parameters
    ----------
    reach : int or None
        The bound S max|x| of whole sums; None where they may be other than whole.
    truncated : bool
        Whether results must equal scipy's to the last integer although its sums, rounded as
        they may be, are cut off towards zero.
    """

    reach: int | None
    truncated: bool


def _inexact(
    method: Method, kernel: Kernel, accumulator: np.dtype, needed: _Exactness
) -> str | None:
    """Why a method may give other integers than direct sums; None if it cannot."""
    if method in (Method.DIRECT, Method.REFERENCE):
        return None
    reach = needed.reach
    if method is Method.SEPARABLE:
        factors = _factors(kernel, accumulator)
        if factors is not None and factors.whole:
            if accumulator.kind in "iu":
                return None
            # Partial sums are no larger than those of direct sums: exact where those are.
            if reach is not None and not (needed.truncated and reach > exact_limit(accumulator)):
                return None
    # Whole results come out right after rounding if the error stays below a half.
    error = error_factor(accumulator, transformed=method is Method.FFT)
    within = reach is not None and error * reach < 0.5
    if accumulator.kind in "fc" and within and not needed.truncated:
        return None
    return (
        f"{method}: its rounding could change integer results, which must be exact; "
        "use method 'direct', or a float output"
    )


def _limbs(
    kernel: Kernel, input_dtype: np.dtype, accumulator: np.dtype, fill: complex | None
) -> int:
    """Pieces of `LIMB_BITS` by which transforms of wide integers are exact; 1 for none.

    The pixels of a block are integers then, the fill value among them.
    """
    double = np.dtype(np.float64)
    exact = accumulator in (double, np.int64, np.uint64)
    held = fill is None or holds(input_dtype, fill)
    if not (exact and held) or _no_transform(kernel, double) is not None:
        return 1
    error = error_factor(double, transformed=True) * sum(kernel.whole_sums) * 2**LIMB_BITS
    return -(-8 * input_dtype.itemsize // LIMB_BITS) if error < 0.5 else 1


def _exactness(
    kernel: Kernel,
    input_dtype: np.dtype,
    accumulator: np.dtype,
    output_dtype: np.dtype,
    truncated: bool,  # noqa: FBT001
    fill: complex | None,
) -> _Exactness | None:
    """How exact results must be; None where the float bound is all that is asked."""
    reach = whole_reach(kernel, input_dtype, fill)
    if accumulator.kind in "iu":
        return _Exactness(reach, truncated)
    whole = output_dtype.kind in "iub" and (truncated or reach is not None)
    return _Exactness(reach, truncated) if whole else None


@dataclass(frozen=True, slots=True)
class _Judged:
    """Methods judged for one kernel, dtype of pixels and accumulator; see `choose`."""

    kernel: Kernel
    input_dtype: np.dtype
    accumulator: np.dtype
    exactness: _Exactness | None
    fill: complex | None

    def limbs(self, method: Method) -> int:
        """Pieces of integers that make a method exact which is not for whole pixels; else 1."""
        needed = self.exactness
        if method is not Method.FFT or needed is None or needed.truncated or needed.reach is None:
            return 1
        if refusal(method, self.kernel, self.accumulator) is None and not self.is_inexact(method):
            return 1
        # They are put together in 64-bit integers, which would wrap.
        if self.accumulator.kind == "f" and needed.reach > exact_limit(self.accumulator):
            return 1
        return _limbs(self.kernel, self.input_dtype, self.accumulator, self.fill)

    def is_inexact(self, method: Method) -> bool:
        """Whether a method's rounding could change results that must be exact."""
        needed = self.exactness
        return needed is not None and (
            _inexact(method, self.kernel, self.accumulator, needed) is not None
        )

    def reason_against(self, method: Method) -> str | None:
        """Why a method cannot serve; None if it can."""
        if self.limbs(method) > 1:
            return None
        reason = refusal(method, self.kernel, self.accumulator)
        if reason is None and self.exactness is not None:
            reason = _inexact(method, self.kernel, self.accumulator, self.exactness)
        return reason

    def cost_ns(self, method: Method) -> float:
        """Estimated time for one output pixel."""
        return cost_ns(method, self.kernel, self.accumulator, self.limbs(method))

    def choice(self, method: Method, why: str) -> Choice:
        """A method that serves; else MethodError."""
        if (reason := self.reason_against(method)) is not None:
            raise MethodError(reason)
        limbs = self.limbs(method)
        if limbs > 1:
            why += f", exact in {limbs} pieces of {LIMB_BITS} bits"
        return Choice(method, why, self.cost_ns(method), limbs)


def choose(  # noqa: PLR0913 - each is said by name
    kernel: Kernel,
    input_dtype: np.dtype,
    accumulator: np.dtype,
    *,
    output_dtype: np.dtype,
    exact: bool = False,
    forced: str = AUTO,
    fill: complex | None = None,
) -> Choice:
    """The method that applies a kernel, a pure function of its arguments.

    Parameters
    ----------
    kernel : Kernel
    input_dtype, accumulator, output_dtype : numpy.dtype
        Of pixels, sums and results.
    exact : bool
        Whether an integer output must equal scipy's to the last integer although its sums
        are cut off towards zero (scipy.ndimage's rule): a sum of 7.999... is then a 7.
    forced : str
        ``"auto"``, or the method to use.
    fill : number or None
        The value of pixels outside the raster, where the edge rule reads one.

    Raises
    ------
    MethodError
        If the forced method cannot serve; the message starts with its name.
    ConfigError
        For an unknown method.
    """
    input_dtype, accumulator = np.dtype(input_dtype), np.dtype(accumulator)
    needed = _exactness(kernel, input_dtype, accumulator, np.dtype(output_dtype), exact, fill)
    served = _Judged(kernel, input_dtype, accumulator, needed, fill)
    if forced != AUTO:
        return served.choice(_named(forced), "asked for")
    if accumulator not in COMPILED:
        return served.choice(Method.REFERENCE, f"only scipy sums in {accumulator}")
    methods = (Method.DIRECT, Method.SEPARABLE, Method.FFT)
    costs = {m: served.cost_ns(m) for m in methods if served.reason_against(m) is None}
    best = min(costs, key=lambda method: costs[method])
    equal = best is Method.DIRECT and any(served.is_inexact(method) for method in methods)
    return served.choice(best, _why(best, kernel, accumulator, equal=equal))


def _named(name: str) -> Method:
    try:
        return Method(name)
    except ValueError:
        allowed = ", ".join([AUTO, *Method])
        raise ConfigError(f"unknown method {name!r}; use one of {allowed}") from None


def cost_ns(method: Method, kernel: Kernel, accumulator: np.dtype, limbs: int = 1) -> float:
    """Estimated time for one output pixel."""
    taps, (kr, kc) = int(np.count_nonzero(kernel.active)), kernel.shape
    width = accumulator.itemsize / 4 * (COMPLEX if accumulator.kind == "c" else 1)
    match method:
        case Method.DIRECT:
            tap_ns = DIRECT_TAP_NS if taps <= CHAINED_TAPS else DIRECT_PIECES_TAP_NS
            return (DIRECT_NS + tap_ns * taps) * width
        case Method.SEPARABLE:
            factors = _factors(kernel, accumulator)
            terms = factors.terms if factors else MAX_TERMS
            return (SEPARABLE_NS + SEPARABLE_TAP_NS * terms * (kr + kc)) * width
        case Method.FFT:
            transformed = np.dtype(np.float64) if limbs > 1 else accumulator
            return limbs * (FFT_NS * width + plan_cells(kernel.shape, transformed).cost_ns)
        case _:
            return (REFERENCE_NS + REFERENCE_TAP_NS * taps) * width


def _why(method: Method, kernel: Kernel, accumulator: np.dtype, *, equal: bool) -> str:
    rows, columns = kernel.shape
    match method:
        case Method.SEPARABLE:
            factors = _factors(kernel, accumulator)
            terms = factors.terms if factors else 0
            products = terms * (rows + columns)
            return f"rank {terms}: {products} products a pixel instead of {rows * columns}"
        case Method.FFT:
            return f"{rows} x {columns} weights are cheaper by transforms"
        case _ if equal:
            return "integer results must be exact"
        case _:
            taps = int(np.count_nonzero(kernel.active))
            return f"{taps} products a pixel are cheapest as they are"
