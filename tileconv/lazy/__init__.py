"""The array door: scipy's functions, lazily, over rasters that do not fit in memory.

Nothing is computed here but kernels: every function checks its arguments, prepares the
engine once, and returns a dask array whose blocks are worked out when they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import dask.array as da

from tileconv.errors import ConfigError
from tileconv.jobs.config import Output, Run, checked_table
from tileconv.jobs.report import Report
from tileconv.lazy.inputs import file_pixels
from tileconv.lazy.rules import Extras, ndimage_result, signal_result
from tileconv.lazy.saving import save_array

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "open", "save"]


def convolve2d(  # noqa: PLR0913 - scipy's signature and ours
    in1: Any,
    in2: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: Any = 0,
    *,
    method: str = "auto",
    accumulate: str | None = None,
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
    accumulate : {'auto', 'float64'}, optional
        ``"float64"`` forms sums of floats and of complex numbers in double precision;
        the result's dtype stays scipy's. Integer sums, which wrap as scipy's do, are exact
        and stay as they are.

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
    rules = mode, boundary, fillvalue
    return signal_result("convolve2d", in1, in2, rules, Extras(method, accumulate))


def correlate2d(  # noqa: PLR0913 - scipy's signature and ours
    in1: Any,
    in2: Any,
    mode: str = "full",
    boundary: str = "fill",
    fillvalue: Any = 0,
    *,
    method: str = "auto",
    accumulate: str | None = None,
) -> da.Array:
    """Cross-correlate two 2-D arrays, as scipy.signal.correlate2d does; `in2` is conjugated.

    As in scipy, ``same`` starts at ``k // 2`` of the full result along an axis of k weights,
    `convolve2d`'s at ``(k - 1) // 2``.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue, method, accumulate
        As for `convolve2d`.

    Returns
    -------
    dask.array.Array
        As from `convolve2d`.

    Raises
    ------
    ValueError, InputError
        As by `convolve2d`.
    """
    rules = mode, boundary, fillvalue
    return signal_result("correlate2d", in1, in2, rules, Extras(method, accumulate))


def convolve(  # noqa: PLR0913 - scipy's signature
    input: Any,  # noqa: A002 - scipy's name
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
    method: str = "auto",
    accumulate: str | None = None,
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
    accumulate : {'auto', 'float64'}, optional
        Of no effect: sums are formed in float64 as scipy's are.

    Returns
    -------
    dask.array.Array
        Sums are formed in float64 over the weights that are not 0, those of complex numbers
        for either part by itself, and cast as scipy casts them. Chunks are the input's.

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
    rules = output, mode, cval, origin, axes
    return ndimage_result("convolve", input, weights, rules, Extras(method, accumulate))


def correlate(  # noqa: PLR0913 - scipy's signature
    input: Any,  # noqa: A002 - scipy's name
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: complex = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
    method: str = "auto",
    accumulate: str | None = None,
) -> da.Array:
    """Correlate over two axes, as scipy.ndimage.correlate does; complex weights are conjugated.

    Parameters
    ----------
    input, weights, output, mode, cval, origin, axes, method, accumulate
        As for `convolve`.

    Returns
    -------
    dask.array.Array
        As from `convolve`.

    Raises
    ------
    RuntimeError, ValueError, TypeError, InputError
        As by `convolve`.
    """
    rules = output, mode, cval, origin, axes
    return ndimage_result("correlate", input, weights, rules, Extras(method, accumulate))


def open(  # noqa: A001 - the public name
    path: str | os.PathLike[str], *, level: int = 0, missing: str = "warn"
) -> da.Array:
    """A lazy array of a TIFF, Zarr or ``.npy`` file, in the file's own axis order.

    Parameters
    ----------
    path : path
    level : int
        Level of a pyramid, 0 the largest.
    missing : {'warn', 'fill', 'error'}
        What to do about chunks that the format allows to be absent.

    Returns
    -------
    dask.array.Array
        Each block is one task that reads whole storage chunks, about 32 MiB of them.

    Raises
    ------
    InputError
        The file cannot be read.
    ConfigError
        There is no such file or level.
    """
    return file_pixels(path, level=level, missing=missing).opened()


def save(  # noqa: PLR0913 - each is one of a job's options
    array: da.Array,
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    compression: str | None = None,
    compression_level: int | None = None,
    tile: int | None = None,
    overwrite: bool = False,
    memory: int | str | None = None,
    workers: int | None = None,
) -> Report:
    """Stream a lazy array into a TIFF or Zarr, whose name appears when it is complete.

    The lazy result of one of tileconv's functions over a file is run as a job: its memory
    stays under the cap, and if it is killed, the same call goes on. Any other dask array is
    computed by dask, once, rechunked to whole pieces of the output where its chunks are not;
    what its graph holds in memory is dask's to decide. With a `distributed.Client`, either is
    done by its workers, who must see the output's folder.

    Parameters
    ----------
    array : dask.array.Array
    path : path
        Ends in ``.tif`` or ``.zarr``.
    axes : str, optional
        A letter for each axis, like ``"yxs"``, where `array` is not one of a file.
    compression, compression_level, tile, overwrite
        As the options of the same names on the command line.
    memory : int or str, optional
        Cap of a job, for each process, like ``"512MiB"``; a quarter of what it may use without
        it. Of an array that dask computes it says nothing.
    workers : int, optional
        Threads; the cores the process may use without it.

    Returns
    -------
    Report
        What was done, and what it took.

    Raises
    ------
    TileconvError
        As a job does. Nothing stands under `path` then.
    Exception
        What computing the array raises.
    """
    if not isinstance(array, da.Array):
        raise ConfigError(
            f"save takes a dask array, got {type(array).__name__}; "
            "wrap it with dask.array.from_array"
        )
    run = {"memory": memory, "workers": workers}
    output = {
        "path": os.fspath(path),
        "compression": compression,
        "compression_level": compression_level,
        "tile": tile,
        "overwrite": overwrite,
    }
    return save_array(
        array, checked_table(Output, output, "output"), checked_table(Run, run, "run"), axes=axes
    )
