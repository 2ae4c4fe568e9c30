"""TIFF as a sink: tiles are encoded and appended in any order, by any number of processes.

Four things, each on its own: `directory` says which bytes go where, `codec` makes bytes of
pixels, `PartFile` gives them a place in a file, and `commit` writes the tables that lead to
them. The process that holds the sink appends to the TIFF itself; every other one to a part
file of its own, which `TiffSink.finish` copies in.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tileconv.core.buffers import ThreadBuffers
from tileconv.core.grid import Region
from tileconv.errors import StorageError
from tileconv.stores.checksums import checksum, stored_checksum
from tileconv.stores.disk import make_folder, storing
from tileconv.stores.layout import Layout
from tileconv.stores.sink import (
    Receipt,
    check_block,
    parts_folder,
    unit_name,
    unit_regions,
)
from tileconv.stores.tiff.codec import encoder, fill_tile
from tileconv.stores.tiff.compression import predictor
from tileconv.stores.tiff.directory import FileMap
from tileconv.stores.tiff.layout import BATCH_BYTES, tiff_map
from tileconv.stores.tiff.part_file import PartFile


class TiffWriter:
    """Encodes tiles and appends them to one file; see `tileconv.stores.sink.Writer`.

    Parameters
    ----------
    layout : Layout
        From `tileconv.stores.tiff.layout.tiff_layout`.
    parts : Path
        The folder for a part file of its own, made when the first tile is written.
    durable : bool
        Whether what is stored must survive a loss of power.
    part : PartFile or None
        The TIFF itself, in the process that holds the sink.
    """

    def __init__(
        self, layout: Layout, parts: Path, *, durable: bool = False, part: PartFile | None = None
    ) -> None:
        self.layout = layout
        self._parts, self._durable = parts, durable
        self._part, self._name = part, ""
        self._lock = threading.Lock()
        self._closed = False
        self._buffers = ThreadBuffers()
        self._predictor = predictor(layout.raster.dtype, layout.compression)
        self._encode = encoder(layout.compression, layout.level, self._predictor)

    def __reduce__(self) -> tuple[partial[TiffWriter], tuple[Layout, Path]]:
        reopen = partial(TiffWriter, durable=self._durable)
        return reopen, (self.layout, self._parts.absolute())

    def write(self, plane: int, region: Region, block: np.ndarray) -> Receipt:
        """Encode and store the pixels of `region`; see `Writer.write`."""
        if self._closed:
            raise ValueError(f"the writer of {self._parts} is closed")
        check_block(self.layout, plane, region, block)
        part = self._own_part()
        tiles = self._tiles()
        places: list[tuple[int, int, int]] = []
        batch: list[memoryview] = []
        held = 0
        for _, place in unit_regions(self.layout, plane, region):
            # What is not compressed lies there until it is in the file.
            tile = tiles[len(batch) % len(tiles)]
            pixels = block[place.within(region).slices]
            fill_tile(tile, pixels, differences=self._predictor == 2)
            encoded = self._encode(tile)
            batch.append(encoded)
            held += len(encoded)
            if held + self.layout.raster.chunk_bytes > BATCH_BYTES:
                places += _append(part, batch)
                batch, held = [], 0
        places += _append(part, batch)
        return Receipt.of(self.layout, plane, region, places, self._name)

    def close(self) -> None:
        """Write no more; nothing is held open."""
        self._closed = True

    def _tiles(self) -> np.ndarray:
        """Memory of a thread for tiles: one that is compressed, or a batch that is not."""
        raster, raw = self.layout.raster, self.layout.compression == "none"
        count = max(1, BATCH_BYTES // raster.chunk_bytes) if raw else 1
        shape = (count, *self.layout.unit, raster.samples)
        return self._buffers.take("tiles", shape, raster.dtype.newbyteorder("<"))

    def _own_part(self) -> PartFile:
        with self._lock:
            if self._part is None:
                name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
                with storing(self._parts, "create", needed_bytes=self.layout.max_bytes):
                    make_folder(self._parts, durable=self._durable)
                self._part = PartFile(
                    self._parts / name,
                    expected_bytes=self.layout.max_bytes,
                    durable=self._durable,
                )
                self._name = name
            return self._part


def _append(part: PartFile, batch: list[memoryview]) -> Iterator[tuple[int, int, int]]:
    """Store a batch; offset, length and checksum of each piece."""
    at = part.append(batch)
    for encoded in batch:
        yield at, len(encoded), checksum(encoded)
        at += len(encoded)


class TiffSink:
    """A TIFF being written; see `tileconv.stores.sink.Sink`.

    Until `finish` the file has no header, so that no reader takes it for an image. Of a tile
    that is written twice, by a task that is retried, the bytes that no receipt names stay in
    the file, unused.

    Parameters
    ----------
    path : path
        Must not exist.
    layout : Layout
        From `tileconv.stores.tiff.layout.tiff_layout`.
    resume : bool
        Whether to go on with the file that stands there.
    durable : bool
        Whether what is stored must survive a loss of power.
    """

    def __init__(
        self, path: str | Path, layout: Layout, *, resume: bool = False, durable: bool = False
    ) -> None:
        self.layout = layout
        self._map = tiff_map(layout)
        self._part = PartFile(
            path,
            start=self._map.data_at,
            expected_bytes=layout.max_bytes,
            resume=resume,
            durable=durable,
        )
        self._parts = parts_folder(self._part.path)
        self.writer = TiffWriter(layout, self._parts, durable=durable, part=self._part)
        # A tile is there when its length is not 0: encoded, it has at least one byte.
        self._offsets = np.zeros(self._map.tiles, np.uint64)
        self._counts = np.zeros(self._map.tiles, np.uint64)
        # Which part each is in; 0 is the file itself.
        self._part_of = np.zeros(self._map.tiles, np.uint32)
        self._names = {"": 0}

    def record(self, receipt: Receipt) -> None:
        """Take tiles for written; see `Sink.record`."""
        numbers = receipt.units[:, 0]
        self._offsets[numbers], self._counts[numbers] = receipt.units[:, 1:3].T
        self._part_of[numbers] = self._names.setdefault(receipt.part, len(self._names))
        if not receipt.part:
            self._part.keep(_end(receipt))

    def holds(self, receipt: Receipt) -> bool:
        """Whether all of some tiles is there; see `Sink.holds`."""
        try:
            return self._place(receipt).stat().st_size >= _end(receipt)
        except OSError:
            return False

    def intact(self, receipt: Receipt, check: Callable[[], None]) -> bool:
        """Whether tiles are as they were stored; see `Sink.intact`."""
        try:
            handle = os.open(self._place(receipt), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return all(
                    stored_checksum(handle, offset, length, check) == value
                    for _, offset, length, value in receipt.units.tolist()
                )
            finally:
                os.close(handle)
        except OSError:
            return False

    def finish(self) -> None:
        """Gather the parts, write tables, directories and, last, the header; then close.

        Raises
        ------
        StorageError
            A tile was never written, or the file cannot be written.
        """
        missing = self._counts.size - int(np.count_nonzero(self._counts))
        if missing:
            first = unit_name(self.layout, int(np.argmin(self._counts)))
            raise StorageError(
                f"{missing} of {self._counts.size} tiles of {self._part.path} were never written, "
                f"the first is {first}; run the job again"
            )
        # Without what an earlier attempt at this has copied in already, or was killed over.
        own = self._part_of == 0
        ends = self._offsets[own] + self._counts[own]
        self._part.cut(max(self._map.data_at, int(ends.max(initial=0))))
        for name, number in self._names.items():
            own = np.flatnonzero(self._part_of == number)
            # A part may hold nothing but tiles that were stored again elsewhere.
            if number and own.size:
                self._offsets[own] = self._part.join(
                    self._parts / name, self._offsets[own], self._counts[own]
                )
        commit(self._part, self._map, self._offsets, self._counts)
        self.close()

    def close(self) -> None:
        """Write no more; nothing is held open."""
        self.writer.close()

    def _place(self, receipt: Receipt) -> Path:
        """The file that the tiles of a receipt are in."""
        return self._parts / receipt.part if receipt.part else self._part.path


def _end(receipt: Receipt) -> int:
    """Where the last byte of a receipt's tiles is followed by others."""
    return int((receipt.units[:, 1] + receipt.units[:, 2]).max(initial=0))


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
