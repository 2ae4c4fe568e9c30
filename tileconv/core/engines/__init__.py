"""Engines: they take an extended block and a kernel, and return the valid part.

Adding one: a module here, a line in `build_engine`, what it refuses and what it costs in
:mod:`tileconv.core.methods`. The test that all engines share does the rest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tileconv.core.engines.base import Engine
from tileconv.core.factors import factorise
from tileconv.core.kernels import Kernel
from tileconv.core.methods import AUTO, Method, choose, refusal
from tileconv.core.pixels import Cast, Rule
from tileconv.errors import MethodError

__all__ = ["Engine", "build_engine", "engine_for"]


def build_engine(
    method: str, kernel: Kernel, accumulator: np.dtype, *, exact: bool = False, limbs: int = 1
) -> Engine:
    """An engine that applies a kernel by a method.

    An engine is immutable and picklable. A process compiles on its first `Engine.apply`
    for an accumulation dtype (or loads what an earlier one compiled): apply it to a block of
    the kernel's own size before threads start.

    Parameters
    ----------
    method : str
        ``reference``, ``direct``, ``separable`` or ``fft``; `methods.choose` has found it.
    kernel : Kernel
    accumulator : numpy.dtype
        What sums are formed in.
    exact : bool
        Whether float64 sums must be scipy.ndimage's to the last bit: direct then adds
        products strictly one after another. scipy.ndimage truncates into integers, where
        the last bit decides.
    limbs : int
        Pieces that integers are split into; see `methods.Choice`.

    Raises
    ------
    MethodError
        If the method cannot serve this kernel or dtype.
    """
    accumulator = np.dtype(accumulator)
    method = Method(method)
    if limbs > 1:
        from tileconv.core.engines.limbs import LimbsEngine

        return LimbsEngine(kernel, accumulator, limbs)
    if (reason := refusal(method, kernel, accumulator)) is not None:
        raise MethodError(reason)
    match method:
        case Method.DIRECT:
            from tileconv.core.engines.direct import DirectEngine

            return DirectEngine(kernel, accumulator, exact)
        case Method.SEPARABLE:
            from tileconv.core.engines.separable import SeparableEngine

            factors = factorise(kernel, accumulator)
            assert factors is not None, "refusal() has said so"
            return SeparableEngine(kernel, factors)
        case Method.FFT:
            from tileconv.core.engines.fft import FftEngine

            return FftEngine(kernel, accumulator)
        case _:
            from tileconv.core.engines.reference import ReferenceEngine

            return ReferenceEngine(kernel, accumulator, exact)


def engine_for(
    kernel: Kernel,
    input_dtype: np.dtype,
    accumulator: np.dtype,
    cast: Cast,
    *,
    method: str = AUTO,
) -> Engine:
    """The engine of the method that `choose` finds for a kernel, dtypes and cast.

    Where the cast truncates, results are scipy.ndimage's to the last integer.

    Parameters
    ----------
    kernel : Kernel
    input_dtype, accumulator : numpy.dtype
        Of pixels and sums.
    cast : Cast
        How sums become results.
    method : str
        ``"auto"``, or the method to use.

    Raises
    ------
    MethodError
        If the method asked for cannot serve.
    ConfigError
        For an unknown method, or complex sums into a real output.
    """
    cast.check(np.dtype(accumulator))
    if kernel.skip_zeros and np.dtype(accumulator).kind == "c":
        return _by_parts(kernel, np.dtype(input_dtype), np.dtype(accumulator), cast, method)
    # Only a sum that is cut off to an integer shows its last bit; floats keep the bound.
    exact = cast.rule is Rule.TRUNCATE and cast.dtype.kind in "biu"
    choice = choose(
        kernel, input_dtype, accumulator, output_dtype=cast.dtype, exact=exact, forced=method
    )
    return build_engine(choice.method, kernel, accumulator, exact=exact, limbs=choice.limbs)


def _by_parts(
    kernel: Kernel, input_dtype: np.dtype, accumulator: np.dtype, cast: Cast, method: str
) -> Engine:
    """Complex sums of a kernel that skips weights of 0, in either part of its own."""
    from tileconv.core.engines.parts import PartsEngine

    sums, output = accumulator.type(0).real.dtype, cast.dtype.type(0).real.dtype
    pixels = input_dtype.type(0).real.dtype
    engines: list[Engine | None] = []
    costs: dict[str, float] = {}
    for weights in (kernel.weights.real, kernel.weights.imag):
        part = replace(kernel, weights=weights)
        # The first is there anyway, to refuse a method that cannot serve.
        if engines and not part.active.any():
            engines.append(None)
            continue
        choice = choose(part, pixels, sums, output_dtype=output, forced=method)
        costs[choice.method] = choice.ns_per_pixel
        engines.append(build_engine(choice.method, part, sums))
    dearest = max(costs, key=lambda name: costs[name])
    return PartsEngine(kernel, accumulator, dearest, *engines)
