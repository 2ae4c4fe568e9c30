"""Reads windows of a TIFF from any number of threads.

tifffile reads the structure and makes the decoder; pixels come by ``os.pread`` of a
segment's bytes and that decoder, so nothing is shared that needs a lock::

    region -> chunks it touches -> cache -> segments of a chunk -> pread, decode
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tileconv.core.grid import Region, Shape, ceil_div
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.stores.absent import AbsentChunks, Missing
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.tiff_pages import Geometry, SegmentTable, expands_too_far
from tileconv.stores.tiff_structure import TiffImage, one_line, read_structure
from tileconv.stores.tiff_tags import TiffTags

DEFAULT_CACHE_BYTES = 64 << 20
"""Size of the cache a source makes for itself when it is given none."""


class TiffSource:
    """A TIFF's first image, at one pyramid level, as a `Source`.

    The raster is what ``tifffile.imread`` returns, pixel for pixel: ``(y, x)``,
    ``(y, x, s)`` for interleaved and ``(s, y, x)`` for separate samples, stacks of pages
    as leading axes. Close it when no thread reads any more.

    Parameters
    ----------
    path : path-like
    level : int
        Pyramid level, 0 the full size: SubIFDs and chained overviews alike.
    missing : Missing
        What to do about sparse segments.
    cache : ChunkCache or None
        Decoded chunks, possibly shared with other sources; None for one of its own of
        `DEFAULT_CACHE_BYTES`.

    Raises
    ------
    ConfigError
        For a path that does not exist, and for a level that does not.
    InputError
        For a file that cannot be read, or whose tables reach beyond its end.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        level: int = 0,
        missing: Missing = Missing.WARN,
        cache: ChunkCache | None = None,
    ) -> None:
        self._path = Path(path)
        self._level = level
        self._missing = missing
        self._cache = ChunkCache(DEFAULT_CACHE_BYTES) if cache is None else cache
        # Names this source's chunks in a shared cache; an id() could be used again.
        self._token = object()
        self._file = open_regular(self._path)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._image = image = read_structure(self._file, self._path, self._size, level)
            self._refuse_truncated()
        except BaseException:
            self._file.close()
            raise
        chunk = image.geometry.chunk_shape(image.dtype.itemsize, raw=image.raw)
        self._chunk: Shape = chunk
        self._absent = AbsentChunks(image.table.offsets.size, missing)
        self._raster = Raster(
            shape=image.shape,
            dtype=image.dtype,
            dims=image.dims,
            chunk=chunk,
            chunk_planes=image.geometry.segment[0],
            compression=image.compression,
            table_bytes=image.memory_bytes + ceil_div(image.table.offsets.size, 8),
        )

    @property
    def raster(self) -> Raster:
        """What the raster is."""
        return self._raster

    @property
    def absent(self) -> AbsentChunks:
        """Sparse segments read so far, filled with GDAL_NODATA or 0."""
        return self._absent

    @property
    def tags(self) -> TiffTags:
        """What an output TIFF should carry over."""
        return self._image.tags

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`; see `Source.read`."""
        if self._file.closed:
            raise ValueError(f"{self._path} is closed")
        geometry = self._image.geometry
        page, inner = divmod(plane, geometry.planes)
        separate, depth = divmod(inner, geometry.depth)
        deep, layer = divmod(depth, geometry.segment[0])
        height, width = self._chunk
        for y, x in _cells(region, self._chunk):
            cell = Region((y * height, x * width), ((y + 1) * height, (x + 1) * width))
            part = region.intersect(cell)
            into = out[part.within(region).slices]
            if geometry.tiled:
                index = geometry.index(separate, deep, y, x)
                if self._fill_absent(page, index, into):
                    continue
                load: Callable[[], np.ndarray] = partial(self._load_tile, page, index)
            else:
                load = partial(self._load_strips, page, (separate, deep), cell)
            chunk = self._cache.get((self._token, page, separate, deep, y, x), load)
            into[...] = chunk[(layer, *part.within(cell).slices)]

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(TiffSource, level=self._level, missing=self._missing), (self._path,)

    # ------------------------------------------------------------------ chunks

    def _load_tile(self, page: int, index: int) -> np.ndarray:
        """A whole tile, of shape (depth, rows, columns, samples)."""
        image = self._image
        offset, count = self._range(page, index)
        data = self._pread(offset, count, page, index)
        if not image.raw:
            return self._decode(data, page, index)
        shape = (*image.geometry.segment, image.geometry.samples)
        wanted = math.prod(shape) * image.dtype.itemsize
        if count < wanted:
            raise self._short(page, index, wanted)
        return np.frombuffer(data, image.stored_dtype, math.prod(shape)).reshape(shape)

    def _load_strips(self, page: int, plane: tuple[int, int], cell: Region) -> np.ndarray:
        """Rows and columns of consecutive strips, of shape (1, rows, columns, samples)."""
        image, geometry = self._image, self._image.geometry
        cell = cell.intersect(Region.of_shape((geometry.rows, geometry.columns)))
        shape = (1, *cell.shape, geometry.samples)
        height = geometry.segment[1]
        first, last = cell.start[0] // height, (cell.stop[0] - 1) // height
        numbers = range(geometry.index(*plane, first, 0), geometry.index(*plane, last, 0) + 1)
        if not image.raw and len(numbers) == 1 and self._is_present(page, numbers[0]):
            data = self._pread(*self._range(page, numbers[0]), page, numbers[0])
            return self._decode(data, page, numbers[0])
        out = np.empty(shape, image.stored_dtype)
        for run in self._runs(page, numbers):
            rows = out[0, max(0, (run[0] - numbers[0] + first) * height - cell.start[0]) :]
            if self._fill_absent(page, run[0], rows[: geometry.segment_rows(run[0])]):
                continue
            if image.raw:
                self._copy_raw(page, run, (run[0] - numbers[0] + first) * height, cell, rows)
            else:
                self._copy_decoded(page, run, rows)
        return out

    def _runs(self, page: int, numbers: range) -> Iterator[range]:
        """Strips that lie one behind the other in the file, to be read at once.

        An absent strip is a run of its own, and so is one whose rows are cut: raw strips
        may be larger than a chunk.
        """
        offsets, counts = self._image.table.offsets[page], self._image.table.counts[page]
        begin = numbers.start
        for number in numbers:
            following = number + 1
            joined = (
                following < numbers.stop
                and self._is_present(page, number)
                and offsets[following] == offsets[number] + counts[number]
            )
            if not joined:
                yield range(begin, following)
                begin = following

    def _copy_decoded(self, page: int, run: range, rows: np.ndarray) -> None:
        start = self._range(page, run[0])[0]
        last_offset, last_count = self._range(page, run[-1])
        data = self._pread(start, last_offset + last_count - start, page, run[0])
        height = self._image.geometry.segment[1]
        for position, index in enumerate(run):
            offset, count = self._range(page, index)
            strip = self._decode(data[offset - start : offset - start + count], page, index)
            rows[position * height : position * height + strip.shape[1]] = strip[0]
