"""The array door: scipy's functions, lazily, over rasters that do not fit in memory.

Nothing is computed here but kernels: every function checks its arguments, prepares the
engine once, and returns a dask array whose blocks are worked out when they are asked for.
Errors, warnings and result dtypes are scipy's own, because scipy is asked, with one pixel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from tileconv import __version__
from tileconv.core.boundary import Boundary, ndimage_boundary, signal_boundary
from tileconv.core.engines import build_engine
from tileconv.core.kernels import MAX_WEIGHTS, Kernel, flip
from tileconv.core.operation import Mode, Operation
from tileconv.core.pixels import Cast, Rule
from tileconv.errors import ConfigError
from tileconv.lazy_graph import Axes, BlockWork
from tileconv.lazy_inputs import Pixels, file_pixels, pixels_of

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "open"]


def convolve2d(
    in1: Any,
    in2: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: Any = 0,
    *,
    method: str = "auto",
) -> da.Array:
    """Convolve two 2-D arrays, as scipy.signal.convolve2d does.

    Parameters
    ----------
    in1 : array_like, dask or zarr array, or path
        The raster, 2-D. It is not read.
    in2 : array_like, dask or zarr array, or path
        The kernel, 2-D. It is read, or computed, now. In mode valid the smaller one of
        the two is the kernel.
    mode : {'full', 'same', 'valid'}
    boundary : {'fill', 'wrap', 'symm', 'nearest', 'mirror'}
        The last two are not scipy's.
    fillvalue : scalar
        For boundary fill.
    method : {'auto', 'direct', 'separable', 'fft', 'reference'}

    Returns
    -------
    dask.array.Array
        Of the dtype scipy.signal gives; integers wrap as scipy's do. Its chunks are those
        of the raster, moved by the mode.

    Raises
    ------
    ValueError
        Where scipy raises it, and scipy's words; a method that cannot serve; a dask array
        of unknown chunk sizes.
    InputError
        A path that cannot be read.
    """
    return _signal("convolve2d", in1, in2, (mode, boundary, fillvalue), method)


def correlate2d(
    in1: Any,
    in2: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: Any = 0,
    *,
    method: str = "auto",
) -> da.Array:
    """Cross-correlate two 2-D arrays, as scipy.signal.correlate2d does; `in2` is conjugated.

    Parameters, result and errors are those of `convolve2d`.
    """
    return _signal("correlate2d", in1, in2, (mode, boundary, fillvalue), method)


def convolve(
    input: Any,  # noqa: A002 - scipy's name
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
    method: str = "auto",
) -> da.Array:
    """Convolve over two axes, as scipy.ndimage.convolve does.

    Parameters
    ----------
    input : array_like, dask or zarr array, or path
        It is not read.
    weights : array_like, dask or zarr array, or path
        It is read, or computed, now. As scipy's, it has as many axes as `axes` names;
        no more than two of them may be longer than 1.
    output : dtype, optional
        Of the result; that of the input without it. An array is refused: the result is lazy.
    mode : {'reflect', 'constant', 'nearest', 'mirror', 'wrap'} and scipy's ``grid-`` names
    cval : scalar
        For mode constant.
    origin : int or sequence of int
    axes : int or tuple of int, optional
        The convolved axes; the others are bands. All of them without it, or y and x of a
        file.
    method : {'auto', 'direct', 'separable', 'fft', 'reference'}

    Returns
    -------
    dask.array.Array
        Sums are formed in float64 (complex128) over the weights that are not 0, and cast as
        scipy casts them. Chunks are the input's.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        Where scipy raises them, in scipy's words.
    ValueError
        An `output` array; more than two convolved axes; a method that cannot serve; a dask
        array of unknown chunk sizes.
    InputError
        A path that cannot be read.
    """
    return _ndimage("convolve", input, weights, (output, mode, cval, origin, axes), method)


def correlate(
    input: Any,  # noqa: A002 - scipy's name
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
    method: str = "auto",
) -> da.Array:
    """Correlate over two axes, as scipy.ndimage.correlate does; complex weights conjugated.

    Parameters, result and errors are those of `convolve`.
    """
    return _ndimage("correlate", input, weights, (output, mode, cval, origin, axes), method)


def open(path: str | os.PathLike[str], **options: Any) -> da.Array:  # noqa: A001 - the public name
    """A lazy array of a TIFF, Zarr or ``.npy`` file, in the file's own axis order.

    Parameters
    ----------
    path : path
    **options
        Of `open_source`: ``level``, the pyramid level, and how to treat missing chunks.

    Returns
    -------
    dask.array.Array
        Each block is one task that reads whole storage chunks, about 32 MiB of them.

    Raises
    ------
    InputError
        The file is missing or cannot be read.
    """
    return file_pixels(Path(path), **options).opened()


def _signal(
    name: str, in1: Any, in2: Any, rules: tuple[str, str, Any], method: str
) -> da.Array:
    """scipy.signal's function of that name."""
    mode, boundary, fillvalue = rules
    raster, small = pixels_of(in1), pixels_of(in2)
    if not raster.ndim == small.ndim == 2:
        raise ValueError(f"{name} inputs must both be 2-D arrays")
    swapped = mode == "valid" and _is_smaller(raster.shape, small.shape)
    if swapped:
        raster, small = small, raster
    dtype = _signal_dtype(name, raster.dtype, small.dtype, rules)
    rule = signal_boundary(boundary)
    fill = np.asarray(fillvalue).astype(dtype).ravel()[0] if rule is Boundary.FILL else 0

    weights = _weights(small).astype(dtype)
    # scipy conjugates its second argument after swapping.
    weights = flip(weights) if name == "convolve2d" else weights.conj()
    kernel = Kernel(weights, (weights.shape[0] // 2, weights.shape[1] // 2))
    operation = Operation(kernel, Mode(mode), rule, fill)
    work = _work(raster, operation, Axes(2, 0, 1), (dtype, dtype), method)
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


def _signal_dtype(
    name: str, dtype1: np.dtype, dtype2: np.dtype, rules: tuple[str, str, Any]
) -> np.dtype:
    """The result dtype, from scipy.signal itself, with its errors and warnings."""
    from scipy import signal

    mode, boundary, fillvalue = rules
    if boundary in ("nearest", "mirror"):  # Ours; scipy treats no dtype differently for it.
        boundary = "symm"
    pixel, weight = np.zeros((1, 1), dtype1), np.zeros((1, 1), dtype2)
    found = getattr(signal, name)(pixel, weight, mode, boundary, fillvalue)
    return np.dtype(found.dtype)


def _ndimage(
    name: str,
    given: Any,
    weights: Any,
    rules: tuple[Any, str, complex, int | Sequence[int], int | Sequence[int] | None],
    method: str,
) -> da.Array:
    """scipy.ndimage's function of that name."""
    output, mode, cval, origin, axes = rules
    if hasattr(output, "shape") and hasattr(output, "__array__") and not np.isscalar(output):
        raise ValueError(
            f"{name} returns a lazy array and cannot fill an output array of shape "
            f"{output.shape}; give its dtype, and compute or store the result"
        )
    raster, taps = pixels_of(given), _weights(pixels_of(weights))
    if axes is None and raster.source is not None:
        y = raster.source.raster.y_axis
        axes = (y, y + 1)
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
    work = _work(raster, operation, Axes(raster.ndim, *convolved_axes), (sums, dtype), method)
    return _result(name, raster, work)


def _ndimage_dtype(
    name: str, raster: Pixels, weights: np.ndarray, rules: tuple[Any, ...]
) -> np.dtype:
    """The result dtype, from scipy.ndimage itself, with its errors and warnings."""
    from scipy import ndimage

    output, _, cval, origin, axes = rules
    pixel = np.zeros((1,) * raster.ndim, raster.dtype)
    # In its other modes scipy reads out of bounds where weights reach far beyond the array.
    found = getattr(ndimage, name)(
        pixel, weights, output=output, mode="constant", cval=cval, origin=origin, axes=axes
    )
    return np.dtype(found.dtype)


def _over_two_axes(
    ndim: int,
    weights: np.ndarray,
    origin: int | Sequence[int],
    axes: int | Sequence[int] | None,
) -> tuple[tuple[int, int], np.ndarray, tuple[int, int]]:
    """The two convolved axes in order, and weights and origin over them.

    Arguments have passed scipy's checks. As in scipy, weights lie along the named axes in
    ascending order, whatever the order of `axes`, while origins go with the names (unless
    every axis is named). An axis along which there is one weight needs no convolving.
    """
    named = range(ndim) if axes is None else [axes] if np.isscalar(axes) else axes
    numbers = [int(axis) % ndim for axis in named]
    origins = [origin] * len(numbers) if np.isscalar(origin) else list(origin)
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
    if operation.boundary is Boundary.FILL and not _holds(block, operation.fill_value):
        block = np.result_type(block, sums)
    cast = Cast(dtype, Rule.TRUNCATE)
    engine = build_engine(operation.kernel, block, sums, cast, method=method)
    return BlockWork(operation, engine, cast, axes, spatial, block)


def _holds(dtype: np.dtype, value: Any) -> bool:
    """Whether `value` is a value of `dtype`."""
    given = np.asarray(value)
    if given.dtype.kind == "c" and dtype.kind != "c":
        if given.imag != 0:
            return False
        given = given.real
    with np.errstate(all="ignore"):
        return bool(np.array_equal(given.astype(dtype), given, equal_nan=given.dtype.kind in "fc"))


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
        work.cast.dtype,
        (work.axes.y, work.axes.x),
    )
    return raster.convolved(work, f"tileconv-{name}-{token}")
