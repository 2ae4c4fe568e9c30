"""tifffile's reading of a TIFF: its pages, its byte ranges, its decoder, its places."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import one_line
from tileconv.stores.tiff.codestreams import SIZED, codestream_fault, declared_size
from tileconv.stores.tiff.pages import expands_too_far
from tileconv.verification.reading import BAND_BYTES, Kept, Unreadable, read_bands

_SLACK_BYTES = 1 << 20
"""An encoded segment may be larger than its pixels by its tables and metadata."""

_HEADER_BYTES = 8


class TiffReader:
    """Reads windows by tifffile's page layer; see `tileconv.verification.reading.Reader`.

    Parameters
    ----------
    path : Path
        Of a file that tileconv's reader has opened, so that its structure is sound.
    raster : Raster
        What that reader says it is.
    level : int
    refuse_absent : bool
        Whether absent segments are `Unreadable`.

    Raises
    ------
    Unreadable
        tifffile sees another raster, or none.
    """

    name = "tifffile"

    def __init__(
        self, path: Path, raster: Raster, level: int, *, refuse_absent: bool = False
    ) -> None:
        import tifffile

        self._raster, self._refuse_absent = raster, refuse_absent
        self._path, self.kept = path, Kept()
        try:
            # Other files that this one names are not opened.
            self._tif = tifffile.TiffFile(path, _multifile=False)
        except Exception as error:
            raise Unreadable(f"tifffile: {one_line(error)}") from error
        try:
            self._tif.is_mmstack = False
            self._series = self._tif.series[0].levels[level]
            self._take_pages()
        except Exception as error:
            self._tif.close()
            if isinstance(error, Unreadable):
                raise
            raise Unreadable(f"tifffile: {one_line(error)}") from error

    def _take_pages(self) -> None:
        series, raster = self._series, self._raster
        key = self._key = series.keyframe
        stored = self._stored = np.dtype(key.dtype).newbyteorder(self._tif.byteorder)
        if tuple(series.shape) != raster.shape or stored.newbyteorder("=") != raster.dtype:
            raise Unreadable(f"tifffile finds {tuple(series.shape)} {series.dtype}")
        self._size = os.fstat(self._tif.filehandle.fileno()).st_size
        self._maps: list[int | None]
        if series.is_truncated:
            # One page describes many that follow it, bytes behind bytes.
            if not series.dataoffset:
                raise Unreadable("tifffile finds no one block of pixels")
            self._pages, self._maps, self._depth = [], [int(series.dataoffset)], 1
            self.segment_bytes, self._block = BAND_BYTES, tuple(series.shape)
            return
        self._pages = list(series)
        separate, self._depth = int(key.shaped[0]), int(key.shaped[1])
        self._planes = separate * self._depth
        if len(self._pages) * self._planes != raster.planes:
            raise Unreadable(f"tifffile finds {len(self._pages)} pages")
        if key.is_tiled:
            self._segment = int(key.tiledepth), int(key.tilelength), int(key.tilewidth)
        else:
            self._segment = 1, int(key.rowsperstrip), int(key.shaped[3])
        if min(self._segment) < 1:
            raise Unreadable("a raster without pixels")
        self._block = (separate, self._depth, *raster.spatial, raster.samples)
        self._ranges = [_ranges(page) for page in self._pages]
        self._maps = [self._mappable(number) for number in range(len(self._pages))]
        volume = math.prod(self._segment) * raster.pixel_bytes
        mapped = all(offset is not None for offset in self._maps)
        self.segment_bytes = BAND_BYTES if mapped else volume
        self._decode = key.decode

    def _mappable(self, number: int) -> int | None:
        """Where the pixels of a page begin, if they lie in the file as in memory."""
        if not self._key.is_memmappable or self._key.is_tiled or self._pages[number] is None:
            return None
        offsets, counts = self._ranges[number]
        joined = (offsets[:-1] + counts[:-1] == offsets[1:]).all() if len(offsets) else False
        nbytes = math.prod(self._block) * self._raster.dtype.itemsize
        if not joined or int(counts.sum()) != nbytes or not self._inside(int(offsets[0]), nbytes):
            return None
        return int(offsets[0])

    def _inside(self, offset: int, count: int) -> bool:
        return _HEADER_BYTES <= offset <= self._size - count

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """See `tileconv.verification.reading.Reader.read`."""
        if not self._pages:
            mapped = partial(self._mapped, self._maps[0] or 0, self._block)
            read_bands(mapped, self._raster, plane, region, out)
            return
        number, inner = divmod(plane, self._planes)
        separate, depth = divmod(inner, self._depth)
        if (begin := self._maps[number]) is not None:
            flat = Raster(
                (self._planes, *self._block[2:]), self._raster.dtype, ("q", "y", "x", "s")
            )
            mapped = partial(self._mapped, begin, flat.shape)
            read_bands(mapped, flat, inner, region, out)
            return
        deep, layer = divmod(depth, self._segment[0])
        for index, corner in self._touched(separate, deep, region):
            segment = self.kept.get(
                (number, index), partial(self._load, number, index, (separate, deep, *corner))
            )
            rows, columns = self._segment[1:]
            cell = Region(corner, (corner[0] + rows, corner[1] + columns))
            part = region.intersect(cell)
            into = out[part.within(region).slices]
            into[...] = segment[(layer, *part.within(cell).slices)] if segment.ndim else segment

    def _mapped(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        try:
            mapped = np.memmap(self._path, self._stored, "r", offset, shape)
        except (OSError, ValueError) as error:
            raise Unreadable(f"numpy: {one_line(error)}") from error
        return np.asarray(mapped)

    def _touched(
        self, separate: int, deep: int, region: Region
    ) -> Iterator[tuple[int, tuple[int, int]]]:
        """Numbers of the segments that a region touches, and where each begins."""
        (depth, height, width), (rows, columns) = self._segment, self._raster.spatial
        counts = -(-self._depth // depth), -(-rows // height), -(-columns // width)
        first = (separate * counts[0] + deep) * counts[1]
        for y, x in product(
            range(region.start[0] // height, -(-region.stop[0] // height)),
            range(region.start[1] // width, -(-region.stop[1] // width)),
        ):
            yield (first + y) * counts[2] + x, (y * height, x * width)

    def _load(self, number: int, index: int, place: tuple[int, int, int, int]) -> np.ndarray:
        """A segment of shape (depth, rows, columns, samples); of an absent one, its value."""
        offsets, counts = self._ranges[number]
        if index >= len(counts):
            raise Unreadable("a segment that the file does not list")
        offset, count = int(offsets[index]), int(counts[index])
        if not count:
            # Old writers leave out the length of a single raw strip.
            if self._refuse_absent or (offset and len(counts) == 1):
                raise Unreadable("an absent segment")
            return np.asarray(self._key.nodata).astype(self._raster.dtype)
        most = 2 * math.prod(self._segment) * self._raster.pixel_bytes + _SLACK_BYTES
        if count > most or not self._inside(offset, count):
            raise Unreadable("a segment of a size or place that cannot be right")
        data = os.pread(self._tif.filehandle.fileno(), count, offset)
        if len(data) != count:
            raise Unreadable("a segment that ends early")
        needed = self._needed(place)
        self._refuse_bombs(data, needed, most)
        page = self._pages[number]
        options = {"jpegtables": page.jpegtables, "jpegheader": self._key.jpegheader}
        try:
            given = {name: value for name, value in options.items() if value is not None}
            pixels, at, _ = self._decode(data, index, **given)
        except Exception as error:
            raise Unreadable(f"tifffile: {one_line(error)}") from error
        separate, deep, top, left = place
        if tuple(at[:4]) != (separate, deep * self._segment[0], top, left) or pixels.ndim != 4:
            raise Unreadable(f"tifffile puts segment {index} at {at}")
        if any(has < need for has, need in zip(pixels.shape, needed, strict=True)):
            raise Unreadable(f"tifffile decodes {pixels.shape}, not {needed}")
        if pixels.dtype.newbyteorder("=") != self._raster.dtype:
            raise Unreadable(f"tifffile decodes {pixels.dtype}")
        return np.asarray(pixels)

    def _needed(self, place: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """The part of a segment that lies in the image."""
        (depth, height, width), (rows, columns) = self._segment, self._raster.spatial
        _, deep, top, left = place
        return (
            min(depth, self._depth - deep * depth),
            min(height, rows - top),
            min(width, columns - left),
            self._block[4],
        )

    def _refuse_bombs(self, data: bytes, needed: tuple[int, ...], most: int) -> None:
        """Refuse bytes that cannot become a segment, or say that they become more than one."""
        code, bits = int(self._key.compression), self._key.bitspersample
        wanted = math.prod(needed) * (bits if isinstance(bits, int) else 1) // 8
        if expands_too_far(code, len(data), wanted):
            raise Unreadable("a segment that has too few bytes")
        if self._key.jpegheader is not None:
            return  # Hamamatsu's tiles are pieces of one codestream.
        if codestream_fault(code, data):
            raise Unreadable("a segment that cannot be decoded")
        if code in SIZED:
            declared, samples = declared_size(code, data, most), max(1, needed[3])
            area = math.prod(self._segment) * samples
            if declared is None or declared.rows * declared.columns > area:
                raise Unreadable("a segment that says it is larger than it can be")

    def close(self) -> None:
        """Release the file."""
        self._tif.close()


def _ranges(page: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and byte counts of a page's segments."""
    if page is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    limit = np.uint64(1 << 62)
    offsets, counts = (
        np.minimum(np.array(values[:listed], np.uint64), limit).astype(np.int64)
        for values in (page.dataoffsets, page.databytecounts)
    )
    return offsets, counts
