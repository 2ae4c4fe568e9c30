"""Which method applies a kernel: what each can serve, and what it costs.

The choice is a pure function of kernel and dtypes, so that it never depends on tiles,
memory or the machine at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tileconv.core.factors import MAX_TERMS, Factors, factorise
from tileconv.core.kernels import Kernel
from tileconv.core.overlap_save import plan_cells
from tileconv.core.pixels import CHAINED_TAPS, EXACT_FLOAT32, error_bound, largest_magnitude
from tileconv.core.roundings import group_size, pass_group
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
    """

    method: Method
    reason: str
    ns_per_pixel: float


def _factors(kernel: Kernel, accumulator: np.dtype) -> Factors | None:
    return factorise(kernel, accumulator) if accumulator in COMPILED else None


def refusal(method: Method, kernel: Kernel, accumulator: np.dtype) -> str | None:
    """Why a method cannot apply a kernel with sums in `accumulator`; None if it can."""
    weights = kernel.weights.dtype
    if accumulator.kind not in "cO" and weights.kind == "c":
        return f"{method}: complex weights need complex sums, not {accumulator}"
    if accumulator.kind in "biu" and weights.kind not in "biu":
        return f"{method}: sums in {accumulator} need weights that are integers"
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


def _inexact(
    method: Method, kernel: Kernel, input_dtype: np.dtype, accumulator: np.dtype
) -> str | None:
    """Why a method's sums may differ from scipy's in the last bit; None if they cannot."""
    if method in (Method.DIRECT, Method.REFERENCE):
        return None
    factors = _factors(kernel, accumulator) if method is Method.SEPARABLE else None
    if factors is not None and factors.whole:
        if accumulator.kind in "iu":
            return None
        limit = EXACT_FLOAT32 if accumulator in (np.float32, np.complex64) else 2**53
        if input_dtype.kind in "biu" and kernel.gain * largest_magnitude(input_dtype) <= limit:
            return None
    return (
        f"{method}: its rounding could change integer results, which must equal scipy's; "
        "use method 'direct', or a float output"
    )


def _must_equal(
    kernel: Kernel,
    input_dtype: np.dtype,
    accumulator: np.dtype,
    output_dtype: np.dtype,
    *,
    exact: bool,
) -> bool:
    """Whether results are integers that must be scipy's, so that no rounding may show."""
    if accumulator.kind in "iu":
        return True
    if output_dtype.kind not in "iub":
        return False
    if exact:
        return True
    # Whole results come out right after rounding if the error stays below a half.
    whole = input_dtype.kind in "biu" and kernel.is_integral
    return whole and (error_bound(kernel.gain, largest_magnitude(input_dtype), accumulator) >= 0.5)


def choose(
    kernel: Kernel,
    input_dtype: np.dtype,
    accumulator: np.dtype,
    *,
    output_dtype: np.dtype,
    exact: bool = False,
    forced: str = AUTO,
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

    Raises
    ------
    MethodError
        If the forced method cannot serve; the message starts with its name.
    ConfigError
        For an unknown method.
    """
    input_dtype, accumulator = np.dtype(input_dtype), np.dtype(accumulator)
    equal = _must_equal(kernel, input_dtype, accumulator, np.dtype(output_dtype), exact=exact)

    def reason_against(method: Method) -> str | None:
        reason = refusal(method, kernel, accumulator)
        if reason is None and equal:
            reason = _inexact(method, kernel, input_dtype, accumulator)
        return reason

    if forced != AUTO:
        method = _named(forced)
        if (reason := reason_against(method)) is not None:
            raise MethodError(reason)
        return Choice(method, "asked for", cost_ns(method, kernel, accumulator))
    if accumulator not in COMPILED:
        if (reason := reason_against(Method.REFERENCE)) is not None:
            raise MethodError(reason)
        why = f"only scipy sums in {accumulator}"
        return Choice(Method.REFERENCE, why, cost_ns(Method.REFERENCE, kernel, accumulator))
    served = [m for m in (Method.DIRECT, Method.SEPARABLE, Method.FFT) if not reason_against(m)]
    costs = {method: cost_ns(method, kernel, accumulator) for method in served}
    best = min(costs, key=lambda method: costs[method])
    return Choice(best, _why(best, kernel, accumulator, equal=equal), costs[best])


def _named(name: str) -> Method:
    try:
        return Method(name)
    except ValueError:
        allowed = ", ".join([AUTO, *Method])
        raise ConfigError(f"unknown method {name!r}; use one of {allowed}") from None


def cost_ns(method: Method, kernel: Kernel, accumulator: np.dtype) -> float:
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
            return FFT_NS * width + plan_cells(kernel.shape, accumulator).cost_ns
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
            return "integer results must equal scipy's"
        case _:
            taps = int(np.count_nonzero(kernel.active))
            return f"{taps} products a pixel are cheapest as they are"
