"""What lazy functions take: paths, numpy, zarr and dask arrays, seen as one thing.

Nothing is read here but descriptions: shape, dtype, chunks.
"""

from __future__ import annotations

import math
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import normalize_chunks
from dask.base import tokenize

from tileconv.core.grid import align_down, ceil_div
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError
from tileconv.lazy.blocks import BlockWork, Chunks, OpenFile
from tileconv.lazy.graph import convolved, convolved_dask, file_array
from tileconv.stores.absent import Missing
from tileconv.stores.formats import open_source
from tileconv.stores.kernel_file import read_kernel

BLOCK_BYTES = 32 << 20
"""Size of the blocks a file or an array is cut into: large beside a halo, small beside memory."""

HASHED_BYTES = 1 << 20
"""Largest numpy array whose pixels are hashed, so that the same array gives the same name."""

EVEN_PIXELS = 1024
"""Sides of blocks are multiples of it, where an array has no chunks of its own."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """An input, not read, of one of three kinds.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    file : OpenFile or None
    dask : dask.array.Array or None
    array : object or None
        What is indexed by slices: a numpy or zarr array.
    token : str
        The same for the same pixels; large numpy arrays have another each time.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    token: str
    file: OpenFile | None = None
    dask: da.Array | None = None
    array: Any = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def whole(self) -> np.ndarray:
        """Every pixel, read or computed now: for kernels."""
        if self.array is not None:
            return np.asarray(self.array[...])
        return np.asarray((self.opened() if self.dask is None else self.dask).compute())

    @property
    def file_axes(self) -> tuple[int, int] | None:
        """Which axes a file's y and x are; None where the input is no file."""
        if self.file is None:
            return None
        y = self.file.raster.y_axis
        return y, y + 1

    def opened(self) -> da.Array:
        """The lazy array of a file."""
        assert self.file is not None
        chunks = file_chunks(self.file.raster)
        return file_array(self.file, chunks, f"tileconv-open-{self.token}")

    def convolved(self, work: BlockWork, name: str) -> da.Array:
        """The lazy result of `work`, whose axes are this input's."""
        if self.dask is not None:
            return convolved_dask(self.dask, work, name)
        if self.file is None:
            return convolved(self.array, _array_chunks(self.array), work, name)
        if self.file_axes == (work.axes.y, work.axes.x):
            return convolved(self.file, file_chunks(self.file.raster), work, name)
        # The kernel runs over other axes than the file's own y and x.
        return convolved_dask(self.opened(), work, name)


def pixels_of(given: Any) -> Pixels:
    """An input of any kind, described.

    Raises
    ------
    InputError
        A path that cannot be read as a raster.
    ValueError
        A dask array whose chunk sizes are not known.
    """
    if isinstance(given, Pixels):
        return given
    if isinstance(given, (str, os.PathLike)):
        if Path(given).suffix.lower() not in (".csv", ".txt"):
            return file_pixels(given)
        given, _ = read_kernel(Path(given))
    if isinstance(given, da.Array):
        refuse_unknown_chunks(given)
        if isinstance(given._meta, np.ma.MaskedArray):  # noqa: SLF001 - dask has no other word
            raise TypeError(
                "this is a masked dask array, of whose mask nothing would be left; say what "
                "hidden pixels become: dask.array.ma.filled(array, value)"
            )
        return Pixels(given.shape, given.dtype, given.name, dask=given)
    if not all(hasattr(given, name) for name in ("shape", "dtype", "chunks", "__getitem__")):
        given = np.asarray(given)
    return Pixels(tuple(given.shape), np.dtype(given.dtype), _array_token(given), array=given)


def _array_token(array: Any) -> str:
    """A token of an array: its own each time where to hash it would take longer than to use it."""
    large = isinstance(array, np.ndarray) and array.nbytes > HASHED_BYTES
    return uuid.uuid4().hex if large else tokenize(array)


def refuse_unknown_chunks(array: da.Array) -> None:
    """Raise ValueError for a dask array of which dask itself does not know where blocks lie."""
    if any(math.isnan(size) for size in array.shape):
        raise ValueError(
            f"the chunk sizes of this dask array are not known (shape {array.shape}); "
            "call its compute_chunk_sizes() first"
        )


def file_pixels(path: str | os.PathLike[str], *, level: int = 0, missing: str = "warn") -> Pixels:
    """A raster file, opened and described."""
    try:
        absence = Missing(missing)
    except ValueError:
        allowed = ", ".join(Missing)
        raise ConfigError(f"missing must be one of {allowed}, got {missing!r}") from None
    source = open_source(path, level=level, missing=absence)
    raster = source.raster
    token = tokenize(source.identity, level, missing)
    return Pixels(raster.shape, raster.dtype, token, file=OpenFile(source, token))


def _array_chunks(array: Any) -> Chunks:
    """Chunks for an array that tasks read themselves: whole stored ones, where it has them."""
    stored = getattr(array, "shards", None) or getattr(array, "chunks", None)
    if stored is None:
        # Anything will do that transforms divide evenly.
        stored = tuple(min(length, EVEN_PIXELS) for length in array.shape)
    found = normalize_chunks(
        "auto", array.shape, limit=BLOCK_BYTES, dtype=array.dtype, previous_chunks=stored
    )
    return tuple(tuple(int(size) for size in sizes) for sizes in found)


def file_chunks(raster: Raster) -> Chunks:
    """Chunks a file is read by: whole storage chunks, about `BLOCK_BYTES` each.

    Rows first where chunks are as wide as the raster (strips), square otherwise. Small
    planes are read several at once; samples are never taken apart.
    """
    rows, columns = raster.spatial
    chunk_rows, chunk_columns = raster.chunk or (1, 1)
    pixels = max(1, BLOCK_BYTES // max(1, raster.pixel_bytes))
    side = math.isqrt(pixels)
    width = min(columns, max(chunk_columns, align_down(side, chunk_columns)))
    height = min(rows, max(chunk_rows, align_down(pixels // max(1, width), chunk_rows)))
    width = min(columns, max(width, align_down(pixels // max(1, height), chunk_columns)))
    planes = max(raster.chunk_planes, pixels // max(1, rows * columns)) if height == rows else 1
    sizes = [*raster.plane_shape, height, width, *raster.sample_shape]
    for axis in reversed(range(raster.y_axis)):
        sizes[axis] = min(raster.shape[axis], max(1, planes))
        planes = planes // max(1, raster.shape[axis])
    return tuple(_cut(length, size) for length, size in zip(raster.shape, sizes, strict=True))


def _cut(length: int, size: int) -> tuple[int, ...]:
    """`length` in pieces of `size`, the last perhaps smaller; one empty piece for nothing."""
    if length == 0:
        return (0,)
    count = ceil_div(length, size)
    return (size,) * (count - 1) + (length - size * (count - 1),)
