"""The rules of scipy's two families: dtypes, anchors, errors.

Errors, warnings and result dtypes are scipy's own, because scipy is asked, with one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from scipy import ndimage, signal

from tileconv import __version__
from tileconv.core.accumulators import Accumulate, accumulate_named, holds
from tileconv.core.boundary import Boundary, ndimage_boundary, signal_boundary
from tileconv.core.engines import engine_for
from tileconv.core.kernels import MAX_WEIGHTS, Kernel, flip
from tileconv.core.operation import Mode, Operation
from tileconv.core.pixels import Cast, Rule
from tileconv.errors import ConfigError
from tileconv.lazy.blocks import Axes, BlockWork
from tileconv.lazy.inputs import Pixels, pixels_of

Origin = int | Sequence[int]

# Held from here on, so that putting tileconv's functions in place of scipy's asks scipy still.
_SCIPY = {
    "convolve2d": signal.convolve2d,
    "correlate2d": signal.correlate2d,
    "convolve": ndimage.convolve,
    "correlate": ndimage.correlate,
}


@dataclass(frozen=True, slots=True)
class Extras:
    """The keywords that tileconv adds to scipy's.

    Parameters
    ----------
    method : str
    accumulate : str or None
        A name of `Accumulate`.
    """

    method: str = "auto"
    accumulate: str | None = None


def signal_result(
    name: str, in1: Any, in2: Any, rules: tuple[str, str, Any], extras: Extras
) -> da.Array:
    """scipy.signal's function of that name."""
    accumulate = accumulate_named(extras.accumulate)
    mode, boundary, fillvalue = rules
    raster, small = pixels_of(in1), pixels_of(in2)
    if not raster.ndim == small.ndim == 2:
        raise ValueError(f"{name} inputs must both be 2-D arrays")
    swapped = mode == "valid" and _is_smaller(raster.shape, small.shape)
    if swapped:
        raster, small = small, raster
    dtype = _signal_dtype(name, raster.dtype, small.dtype, rules)
    rule = signal_boundary(boundary)
    sums = _signal_sums(dtype, accumulate)
    fill = np.asarray(fillvalue).astype(sums).ravel()[0] if rule is Boundary.FILL else 0

    weights = _weights(small).astype(dtype)
    rows, columns = weights.shape
    if name == "convolve2d":
        kernel = Kernel(flip(weights), (rows // 2, columns // 2))
    else:
        # scipy conjugates after swapping; on even axes its `same` lies one pixel further.
        kernel = Kernel(weights.conj(), ((rows - 1) // 2, (columns - 1) // 2))
    operation = Operation(kernel, Mode(mode), rule, fill)
    work = _work(raster, operation, Axes(2, 0, 1), (sums, dtype), extras.method)
    result = _result(name, raster, work)
    return result[::-1, ::-1] if swapped and name == "correlate2d" else result


def _is_smaller(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> bool:
    """Whether mode valid swaps its inputs; ValueError, scipy's, if neither holds the other."""
    if all(a >= b for a, b in zip(shape1, shape2, strict=True)):
        return False
    if all(a <= b for a, b in zip(shape1, shape2, strict=True)):
        return True
    raise ValueError(
        "For 'valid' mode, one must be at least as large as the other in every dimension"
    )


def _signal_sums(dtype: np.dtype, accumulate: Accumulate) -> np.dtype:
    """The dtype scipy.signal sums in, or double precision; integers, which wrap, stay integers."""
    if accumulate is Accumulate.FLOAT64 and dtype.kind in "fc":
        return np.result_type(dtype, np.float64)
    return dtype


def _signal_dtype(
    name: str, dtype1: np.dtype, dtype2: np.dtype, rules: tuple[str, str, Any]
) -> np.dtype:
    """The result dtype, from scipy.signal itself, with its errors and warnings."""
    mode, boundary, fillvalue = rules
    if boundary in ("nearest", "mirror"):  # Ours; scipy treats no dtype differently for it.
        boundary = "symm"
    pixel, weight = np.zeros((1, 1), dtype1), np.zeros((1, 1), dtype2)
    found = _SCIPY[name](pixel, weight, mode, boundary, fillvalue)
    dtype: np.dtype = found.dtype
    return dtype


def ndimage_result(
    name: str,
    given: Any,
    weights: Any,
    rules: tuple[Any, str, complex, Origin, Origin | None],
    extras: Extras,
) -> da.Array:
    """scipy.ndimage's function of that name, which sums in double precision anyway."""
    accumulate_named(extras.accumulate)
    output, mode, cval, origin, axes = rules
    if not (output is None or isinstance(output, type | np.dtype | str)):
        raise ValueError(
            f"{name} returns a lazy array and cannot fill an output array "
            f"({type(output).__name__}); give its dtype, and compute or store the result"
        )
    raster, taps = pixels_of(given), _weights(pixels_of(weights))
    axes = raster.file_axes if axes is None else axes
    rule = ndimage_boundary(mode)
    dtype = _ndimage_dtype(name, raster, taps, (output, mode, cval, origin, axes))

    convolved_axes, taps, origins = _over_two_axes(raster.ndim, taps, origin, axes)
    taps = taps.astype(np.complex128 if taps.dtype.kind == "c" else np.float64)
    if name == "convolve":
        taps = flip(taps)
        origins = tuple(-o - (1 - k % 2) for o, k in zip(origins, taps.shape, strict=True))
    else:
        taps = taps.conj()
    anchor = (taps.shape[0] // 2 + origins[0], taps.shape[1] // 2 + origins[1])
    kernel = Kernel(taps, anchor, skip_zeros=True)
    is_complex = "c" in (raster.dtype.kind, taps.dtype.kind)
    sums = np.dtype(np.complex128 if is_complex else np.float64)
    fill = complex(cval) if raster.dtype.kind == "c" else float(np.real(cval))
    operation = Operation(kernel, Mode.SAME, rule, fill)
    work = _work(
        raster, operation, Axes(raster.ndim, *convolved_axes), (sums, dtype), extras.method
    )
    return _result(name, raster, work)


def _ndimage_dtype(
    name: str, raster: Pixels, weights: np.ndarray, rules: tuple[Any, ...]
) -> np.dtype:
    """The result dtype, from scipy.ndimage itself, with its errors and warnings."""
    output, _, cval, origin, axes = rules
    pixel = np.zeros((1,) * raster.ndim, raster.dtype)
    # In its other modes scipy reads out of bounds where weights reach far beyond the array.
    found = _SCIPY[name](
        pixel, weights, output=output, mode="constant", cval=cval, origin=origin, axes=axes
    )
    dtype: np.dtype = found.dtype
    return dtype


def _over_two_axes(
    ndim: int,
    weights: np.ndarray,
    origin: Origin,
    axes: Origin | None,
) -> tuple[tuple[int, int], np.ndarray, tuple[int, int]]:
    """The two convolved axes in order, and weights and origin over them.

    Arguments have passed scipy's checks. As in scipy, weights lie along the named axes in
    ascending order, whatever the order of `axes`, while origins go with the names (unless
    every axis is named). An axis along which there is one weight needs no convolving.
    """
    if weights.size == 0:
        raise ConfigError(f"the kernel is empty: shape {weights.shape}; give at least 1 x 1")
    named = range(ndim) if axes is None else np.atleast_1d(axes)
    numbers = [int(axis) % ndim for axis in named]
    origins = np.broadcast_to(origin, len(numbers))
    at = dict(zip(sorted(numbers) if len(numbers) == ndim else numbers, origins, strict=True))
    sizes = dict(zip(sorted(numbers), weights.shape, strict=True))
    chosen = [axis for axis, size in sizes.items() if size > 1]
    # Fewer than two are made up by others: named ones first, then the array's last.
    for axis in (*sizes, *reversed(range(ndim))):
        if len(chosen) < 2 and axis not in chosen:
            chosen.append(axis)
    if len(chosen) != 2:
        raise ValueError(
            f"tileconv convolves over two axes, got weights that reach along {len(chosen)} of "
            f"an array of {ndim} (weights {weights.shape}, axes {tuple(numbers)}); give 2-D "
            "weights and name the two axes"
        )
    y, x = sorted(chosen)
    shape = sizes.get(y, 1), sizes.get(x, 1)
    return (y, x), weights.reshape(shape), (int(at.get(y, 0)), int(at.get(x, 0)))


def _weights(small: Pixels) -> np.ndarray:
    """The kernel's pixels, read now."""
    size = math.prod(small.shape)
    if size > MAX_WEIGHTS:
        raise ConfigError(
            f"the kernel has {size} weights (shape {small.shape}), more than {MAX_WEIGHTS}; "
            "the raster is the first argument"
        )
    return small.whole()


def _work(
    raster: Pixels,
    operation: Operation,
    axes: Axes,
    dtypes: tuple[np.dtype, np.dtype],
    method: str,
) -> BlockWork:
    """What all blocks share; `dtypes` are those of the sums and of the result."""
    sums, dtype = dtypes
    spatial = raster.shape[axes.y], raster.shape[axes.x]
    if 0 in spatial and operation.boundary is not Boundary.FILL and operation.mode is Mode.FULL:
        raise ValueError(
            f"an empty raster (shape {raster.shape}) has no edge to extend by boundary "
            f"{operation.boundary.value!r}; use boundary 'fill'"
        )
    block = raster.dtype.newbyteorder("=")
    if operation.boundary is Boundary.FILL:
        fill = operation.fill_value
        block = block if holds(block, fill) else np.result_type(block, sums)
        kept: Any = np.asarray(fill if block.kind == "c" else np.real(fill)).astype(block)[()]
        operation = replace(operation, fill_value=kept)
    cast = Cast(dtype, Rule.TRUNCATE)
    engine = engine_for(operation.kernel, block, sums, cast, method=method)
    return BlockWork(operation, engine, cast, axes, spatial, block)


def _result(name: str, raster: Pixels, work: BlockWork) -> da.Array:
    """The lazy result, under a name that is the same for the same arguments."""
    operation = work.operation
    token = tokenize(
        __version__,
        raster.token,
        operation.kernel.weights,
        operation.kernel.anchor,
        operation.mode.value,
        operation.boundary.value,
        operation.fill_value,
        work.engine.method,
        work.engine.accumulator,
        work.cast.dtype,
        (work.axes.y, work.axes.x),
    )
    return raster.convolved(work, f"tileconv-{name}-{token}")
