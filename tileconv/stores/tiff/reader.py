"""Reads windows of a TIFF from any number of threads.

tifffile reads the structure and makes the decoder; pixels come by ``os.pread`` of a
segment's bytes and that decoder, so nothing is shared that needs a lock::

    region -> chunks it touches -> cache -> segments of a chunk -> pread, decode
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tileconv.core.grid import Region, Shape, ceil_div
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.stores.absent import AbsentChunks, Bad, BadChunks, Missing
from tileconv.stores.chunk_cache import DEFAULT_CACHE_BYTES, ChunkCache
from tileconv.stores.source import Source
from tileconv.stores.tiff.image import TiffImage, read_image
from tileconv.stores.tiff.segments import SegmentReader
from tileconv.stores.tiff.tags import TiffTags


class TiffSource(Source):
    """A TIFF's first image, at one pyramid level, as a `Source`.

    The raster is what ``tifffile.imread`` returns, pixel for pixel: ``(y, x)``,
    ``(y, x, s)`` for interleaved and ``(s, y, x)`` for separate samples, stacks of pages
    as leading axes. Close it when no thread reads any more.

    Parameters
    ----------
    path : path-like
    level : int
        Pyramid level, 0 the full size; SubIFDs and chained overviews alike.
    missing : Missing
        What to do about sparse segments.
    bad : Bad
        What to do about segments that cannot be read or decoded, or are not in the file.
    cache : ChunkCache or None
        Decoded chunks, possibly shared with other sources; None for one of its own, of
        `DEFAULT_CACHE_BYTES`. A pickled source comes back with one of its own.

    Raises
    ------
    ConfigError
        For a path that does not exist, and for a level that does not.
    BadChunkError
        For a segment that the file does not hold, unless such segments are filled.
    InputError
        For a file that cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        level: int = 0,
        missing: Missing = Missing.WARN,
        bad: Bad = Bad.ERROR,
        cache: ChunkCache | None = None,
    ) -> None:
        self._path = Path(path)
        self._level = level
        self._cache = ChunkCache(DEFAULT_CACHE_BYTES) if cache is None else cache
        # Names this source's chunks in a shared cache; an id() could be used again.
        self._token = object()
        self._file = _open_regular(self._path)
        try:
            size = os.fstat(self._file.fileno()).st_size
            self._image = image = read_image(self._file, self._path, size, level)
            if bad is Bad.ERROR:
                _refuse_faulty(image)
        except BaseException:
            self._file.close()
            raise
        geometry, segments = image.geometry, image.table.offsets.size
        self._chunk: Shape = geometry.chunk_shape(image.dtype.itemsize, raw=image.raw)
        self._absent = AbsentChunks(segments, missing)
        self._bad = BadChunks(segments, bad)
        self._segments = SegmentReader(self._file.fileno(), image, self._absent, self._bad)
        self._raster = Raster(
            shape=image.shape,
            dtype=image.dtype,
            dims=image.dims,
            chunk=self._chunk,
            chunk_planes=geometry.segment[0],
            whole_chunks=geometry.tiled,
            compression=image.compression,
            table_bytes=image.memory_bytes + ceil_div(segments, 4),
        )

    @property
    def raster(self) -> Raster:
        """Description of the raster."""
        return self._raster

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def absent(self) -> AbsentChunks:
        """Sparse segments read so far, filled with GDAL_NODATA or 0."""
        return self._absent

    @property
    def bad(self) -> BadChunks:
        """Segments that could not be read or decoded, filled with GDAL_NODATA or 0."""
        return self._bad

    @property
    def tags(self) -> TiffTags:
        """What an output TIFF should carry over."""
        return self._image.tags

    @property
    def cache(self) -> ChunkCache:
        """Its decoded chunks; the capacity may be changed."""
        return self._cache

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`; see `Source.read`."""
        if self._file.closed:
            raise ValueError(f"{self._path} is closed")
        geometry = self._image.geometry
        page, inner = divmod(plane, geometry.planes)
        separate, z = divmod(inner, geometry.depth)
        deep, layer = divmod(z, geometry.segment[0])
        whole = Region.of_shape((geometry.rows, geometry.columns))
        height, width = self._chunk
        cells = region.align_out(self._chunk)
        for top, left in product(
            range(cells.start[0], cells.stop[0], height),
            range(cells.start[1], cells.stop[1], width),
        ):
            cell = Region((top, left), (top + height, left + width))
            part = region.intersect(cell)
            into = out[part.within(region).slices]
            load: Callable[[], np.ndarray]
            if geometry.tiled:
                index = geometry.index(separate, deep, top // height, left // width)
                if self._segments.fill_absent(page, index, into):
                    continue
                load = partial(self._segments.tile, page, index)
                numbers = range(index, index + 1)
            else:
                box = cell.intersect(whole)
                load = partial(self._segments.strips, page, separate, deep, box)
                numbers = geometry.strips(separate, deep, box)
            chunk = self._cache.get((self._token, page, separate, deep, top, left), load)
            into[...] = chunk[(layer, *part.within(cell).slices)]
            self._segments.meet(page, numbers)

    def require_chunks(self) -> None:
        """Refuse an image whose every segment is sparse; see `Source.require_chunks`."""
        if self._raster.nbytes and not self._image.table.counts.any():
            raise InputError(
                f"{self._path}: every one of its {self._absent.chunks} tiles or strips is missing; "
                "check the path, and that the file was written"
            )

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        missing, bad = self._absent.missing, self._bad.bad
        reopen = partial(TiffSource, level=self._level, missing=missing, bad=bad)
        return reopen, (self._path.absolute(),)


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device would block or never end."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise InputError(f"{path} is {kind}; give the path of a TIFF file")
        return path.open("rb")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; check the input path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error


def _refuse_faulty(image: TiffImage) -> None:
    """Said at once rather than after hours: a file cut short is the commonest damage."""
    faulty = image.table.faulty()
    if faulty.size:
        page, index = divmod(int(faulty[0]), image.geometry.segments)
        what = f"{image.table.fault(page, index)} ({faulty.size} {image.geometry.kind}s are bad)"
        raise image.bad_segment(page, index, what)
