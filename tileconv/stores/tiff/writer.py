"""TIFF as a sink: tiles are encoded and appended in any order, by any number of threads.

Four things, each on its own: `directory` says which bytes go where, `codec`
makes bytes of pixels, `PartFile` gives them a place in a file, and `commit` writes the
tables that lead to them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tileconv.core.grid import Region, TileGrid
from tileconv.errors import OutputExistsError, StorageError
from tileconv.stores.disk import storage_error
from tileconv.stores.layout import Layout
from tileconv.stores.tiff.codec import encoder, tile_pixels
from tileconv.stores.tiff.compression import predictor
from tileconv.stores.tiff.directory import FileMap
from tileconv.stores.tiff.layout import BATCH_BYTES, tiff_map


class PartFile:
    """A file that threads append to; each gets a place of its own and writes there unhindered.

    Parameters
    ----------
    path : path
        Must not exist.
    start : int
        Where the first bytes go; what lies before is written by `put`.
    expected_bytes : int
        Most bytes the file will have, named when the disk is full.

    Raises
    ------
    OutputExistsError
        Something stands at `path`.
    StorageError
        The file cannot be created.
    """

    def __init__(self, path: str | Path, *, start: int = 0, expected_bytes: int = 0) -> None:
        self.path = Path(path)
        self._end = start
        self._expected = expected_bytes
        self._lock = threading.Lock()
        self._fd: int | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags, 0o666)
        except FileExistsError:
            raise OutputExistsError(
                f"{self.path} exists; remove it or write to another path"
            ) from None
        except OSError as error:
            raise self._failed("create", error, 0) from error

    def append(self, pieces: list[memoryview]) -> int:
        """Store `pieces` one after another; returns the position of the first."""
        length = sum(len(piece) for piece in pieces)
        with self._lock:
            start = self._end
            self._end += length
        at = start
        for piece in pieces:
            self.put(at, piece)
            at += len(piece)
        return start

    def put(self, at: int, data: bytes | memoryview) -> None:
        """Store `data` at position `at`."""
        if self._fd is None:
            raise ValueError(f"{self.path} is closed")
        left = memoryview(data)
        try:
            # A write may stop short: at 2 GiB, at a signal, on a disk that fills up.
            while left:
                written = os.pwrite(self._fd, left, at)
                left = left[written:]
                at += written
        except OSError as error:
            raise self._failed("write", error, len(left)) from error

    def close(self) -> None:
        """Close the file; may be called again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                os.close(fd)
            except OSError as error:
                raise self._failed("close", error, 0) from error

    def _failed(self, doing: str, error: OSError, unwritten: int) -> StorageError:
        """The error to raise, with the bytes this write and the rest of the file still need."""
        needed = unwritten + max(self._expected - self._end, 0)
        return storage_error(self.path, error, doing=doing, needed_bytes=needed)


class TiffSink:
    """A TIFF being written; see `tileconv.stores.sink.Sink`.

    Until `finish` the file has no header, so that no reader takes it for an image.
    A region that is written again, by a task that is retried, replaces the first: its
    bytes stay in the file, unused.

    Parameters
    ----------
    path : path
        Must not exist.
    layout : Layout
        From `tileconv.stores.tiff.layout.tiff_layout`.
    """

    def __init__(self, path: str | Path, layout: Layout) -> None:
        self.layout = layout
        raster = layout.raster
        self._grid = TileGrid(raster.spatial, layout.unit, raster.planes)
        self._places = tiff_map(layout)
        self._encode = encoder(
            layout.compression, layout.level, predictor(raster.dtype, layout.compression)
        )
        self._part = PartFile(path, start=self._places.data_at, expected_bytes=layout.max_bytes)
        # A tile is there when its count is not 0: encoded, it has at least one byte.
        self._offsets = np.zeros(self._places.tiles, np.uint64)
        self._counts = np.zeros(self._places.tiles, np.uint64)

    def write(self, plane: int, region: Region, block: np.ndarray) -> int:
        """Encode and store the pixels of `region`; returns the bytes stored.

        Memory besides the block is at most ``layout.write_bytes``.

        Raises
        ------
        ValueError
            The region is not made of whole tiles, or the block has another shape or dtype.
        StorageError
            The file cannot be written.
        """
        self._check(plane, region, block)
        stored = held = 0
        batch: list[memoryview] = []
        indices: list[int] = []
        for index, part in self._tiles(plane, region):
            pixels = block[part.within(region).slices]
            encoded = self._encode(tile_pixels(pixels, self.layout.unit, self.layout.raster.dtype))
            batch.append(encoded)
            indices.append(index)
            held += len(encoded)
            if held >= BATCH_BYTES:
                self._append(indices, batch)
                stored, held, batch, indices = stored + held, 0, [], []
        self._append(indices, batch)
        return stored + held

    def finish(self) -> None:
        """Write tables, directories and, last, the header; then close.

        Raises
        ------
        StorageError
            A tile was never written, or the file cannot be written.
        """
        missing = self._counts.size - int(np.count_nonzero(self._counts))
        if missing:
            plane, row, column = np.unravel_index(
                int(np.argmin(self._counts)), (self._grid.planes, *self._grid.grid_shape)
            )
            raise StorageError(
                f"{missing} of {self._counts.size} tiles of {self._part.path} were never written, "
                f"the first is row {row}, column {column} of plane {plane}; run the job again"
            )
        commit(self._part, self._places, self._offsets, self._counts)
        self.close()

    def close(self) -> None:
        """Close the file without making it whole."""
        self._part.close()

    def _check(self, plane: int, region: Region, block: np.ndarray) -> None:
        """A task owns whole tiles: anything else would leave some half written."""
        whole = Region.of_shape(self._grid.shape)
        if not 0 <= plane < self._grid.planes or region.area == 0 or not whole.contains(region):
            raise ValueError(f"{region} of plane {plane} is not in a raster of {whole.shape}")
        if region.align_out(self.layout.unit).intersect(whole) != region:
            raise ValueError(f"{region} is not made of whole tiles of {self.layout.unit}")
        raster = self.layout.raster
        if block.shape != (*region.shape, raster.samples):
            raise ValueError(f"a block of {block.shape} is not {region}")
        if block.dtype.newbyteorder("=") != raster.dtype.newbyteorder("="):
            raise ValueError(f"a block of {block.dtype} is not {raster.dtype}")

    def _tiles(self, plane: int, region: Region) -> Iterator[tuple[int, Region]]:
        """Number and region of each TIFF tile of `region`, row by row."""
        down, across = self._grid.grid_shape
        whole = Region.of_shape(self._grid.shape)
        (y0, x0), (y1, x1), (uy, ux) = region.start, region.stop, self.layout.unit
        for y in range(y0, y1, uy):
            for x in range(x0, x1, ux):
                index = (plane * down + y // uy) * across + x // ux
                yield index, Region((y, x), (y + uy, x + ux)).intersect(whole)

    def _append(self, indices: list[int], batch: list[memoryview]) -> None:
        """Store a batch, and note its tiles once they are stored."""
        at = self._part.append(batch)
        for index, encoded in zip(indices, batch, strict=True):
            length = len(encoded)
            self._offsets[index], self._counts[index] = at, length
            at += length


def commit(part: PartFile, places: FileMap, offsets: np.ndarray, counts: np.ndarray) -> None:
    """Make a TIFF of a file that holds its tiles.

    Parameters
    ----------
    part : PartFile
        Tiles stand from ``places.data_at`` on.
    places : FileMap
    offsets, counts : ndarray of uint64, shape (tiles,)
        Position and length of every tile.
    """
    part.put(places.offsets_at, offsets.astype("<u8", copy=False).view(np.uint8).data)
    part.put(places.counts_at, counts.astype("<u8", copy=False).view(np.uint8).data)
    part.put(places.first_at - len(places.values), places.values)
    for at, directories in places.directories(offsets, counts):
        part.put(at, directories)
    part.put(0, places.header())
