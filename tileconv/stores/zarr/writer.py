"""Writes a Zarr v3 array, shard by shard, each by one file written once.

zarr-python is not used here. Writing a whole shard through it reads the shard first (3.1,
always; 3.4, at the edges of the array), holds the whole of it encoded, and takes turns on one
event-loop thread. The format of a shard is its chunks, one after another, and an index.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np

from tileconv.core.bitmap import Bitmap
from tileconv.core.buffers import ThreadBuffers
from tileconv.core.grid import Region
from tileconv.errors import OutputExistsError, StorageError
from tileconv.stores.disk import make_folder, storage_error, write_all
from tileconv.stores.layout import Layout
from tileconv.stores.sink import (
    Receipt,
    changed,
    check_block,
    parts_folder,
    unit_grid,
    unit_name,
    unit_place,
    unit_regions,
)
from tileconv.stores.zarr.layout import CODECS, array_metadata

Encoded = bytes | memoryview

_ABSENT = (1 << 64) - 1


class ZarrWriter:
    """Encodes shards and stores each in a file of its own; see `tileconv.stores.sink.Writer`.

    A shard is written beside the array and takes its name when it is whole: a task that is
    run twice, perhaps at the same time, replaces what is there by the same bytes, and one that
    is cut short leaves it alone.

    Parameters
    ----------
    layout : Layout
        From `tileconv.stores.zarr.layout.zarr_layout`.
    path : Path
        The array's folder, which has to be there.
    """

    def __init__(self, layout: Layout, path: Path) -> None:
        self.layout = layout
        self._path = path
        self._parts = parts_folder(path)
        self._encode = _encoder(layout)
        self._buffers = ThreadBuffers()
        self._stored_bytes = 0
        self._lock = threading.Lock()
        self._closed = False

    def __reduce__(self) -> tuple[type[ZarrWriter], tuple[Layout, Path]]:
        return ZarrWriter, (self.layout, self._path.absolute())

    def write(self, plane: int, region: Region, block: np.ndarray) -> Receipt:
        """Encode and store the pixels of `region`; see `Writer.write`."""
        if self._closed:
            raise ValueError(f"the writer of {self._path} is closed")
        check_block(self.layout, plane, region, block)
        lengths = []
        for number, shard in unit_regions(self.layout, plane, region):
            path = self._path / shard_key(self.layout, number)
            stored = self._write_shard(path, block[shard.within(region).slices])
            with self._lock:
                self._stored_bytes += stored
            lengths.append((0, stored))
        return Receipt.of(self.layout, plane, region, lengths)

    def close(self) -> None:
        """Write no more; nothing is held open."""
        self._closed = True

    def _chunk(self, part: np.ndarray) -> np.ndarray:
        """The bytes of the chunk of which `part` is in the raster: little-endian, padded by 0.

        They stand in memory of the calling thread, until it asks for another.
        """
        raster, (rows, columns, samples) = self.layout.raster, part.shape
        assert raster.chunk is not None
        shape = (*raster.chunk, samples)
        whole = self._buffers.take("chunk", shape, raster.dtype.newbyteorder("<"))
        whole[:rows, :columns] = part
        whole[rows:] = 0
        whole[:rows, columns:] = 0
        return whole.reshape(-1).view(np.uint8)

    def _write_shard(self, path: Path, pixels: np.ndarray) -> int:
        """Store a shard's chunks as they are encoded, then its index; returns its bytes."""
        chunk, unit = self.layout.raster.chunk, self.layout.unit
        assert chunk is not None
        grid = unit[0] // chunk[0], unit[1] // chunk[1]
        index = np.full((*grid, 2), _ABSENT, "<u8")
        size = 0
        part = self._parts / os.urandom(8).hex()
        try:
            handle = _create(part)
            try:
                for row, column in np.ndindex(grid):
                    y, x = row * chunk[0], column * chunk[1]
                    piece = pixels[y : y + chunk[0], x : x + chunk[1]]
                    if piece.size == 0:
                        continue  # Beyond the raster's edge.
                    encoded = self._encode(self._chunk(piece))
                    write_all(handle, encoded, size)
                    index[row, column] = size, len(encoded)
                    size += len(encoded)
                table = index.tobytes()
                table += google_crc32c.value(table).to_bytes(4, "little")
                write_all(handle, table, size)
            finally:
                os.close(handle)
            self._name(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            needed = max(self.layout.max_bytes - self._stored_bytes, 0)
            raise storage_error(path, error, doing="write", needed_bytes=needed) from error
        return size + len(table)

    def _name(self, part: Path, path: Path) -> None:
        """Give a shard its name, and make the folders it lies in."""
        try:
            part.replace(path)
        except FileNotFoundError:
            make_folder(path.parent, root=self._path)
            part.replace(path)


def shard_key(layout: Layout, number: int) -> str:
    """Path of a shard in the array's folder, by its number in `unit_grid`."""
    raster = layout.raster
    plane, row, column = unit_place(layout, number)
    samples = (0,) * len(raster.sample_shape)
    return "/".join(map(str, ("c", *raster.plane_index(plane), row, column, *samples)))


class ZarrSink:
    """A Zarr array being written; see `tileconv.stores.sink.Sink`.

    Until `finish` the folder has no metadata, so that no reader takes it for an array. Every
    chunk is stored, also one of zeros: a chunk that is not there was never written.

    Parameters
    ----------
    path : path
        Must not exist.
    layout : Layout
        From `tileconv.stores.zarr.layout.zarr_layout`.
    resume : bool
        Whether to go on with the folder that stands there.
    """

    def __init__(self, path: str | Path, layout: Layout, *, resume: bool = False) -> None:
        self.layout = layout
        self._path = Path(path)
        self.writer = ZarrWriter(layout, self._path)
        self._written = Bitmap(len(unit_grid(layout)))
        try:
            self._path.mkdir(exist_ok=resume)
        except FileExistsError:
            raise OutputExistsError(
                f"{self._path} exists; remove it or write to another path"
            ) from None
        except OSError as error:
            raise self._failed("create", error) from error

    def record(self, receipt: Receipt) -> None:
        """Take shards for written; see `Sink.record`."""
        self._written.set(receipt.units[:, 0].astype(np.int64))

    def recall(self, receipt: Receipt) -> None:
        """Record shards of a run before this one; see `Sink.recall`."""
        for number, _, length in receipt.units.tolist():
            path = self._path / shard_key(self.layout, number)
            try:
                size = path.stat().st_size
            except OSError:
                size = 0
            if size != length:
                raise changed(path, length, size)
        self.record(receipt)

    def finish(self) -> None:
        """Write the metadata, last, and close.

        Raises
        ------
        StorageError
            A shard was never written, or the metadata cannot be.
        """
        missing = self._written.size - self._written.count()
        if missing:
            first = unit_name(self.layout, next(self._written.clear()))
            raise StorageError(
                f"{missing} of {self._written.size} shards of {self._path} were never written, "
                f"the first is {first}; run the job again"
            )
        try:
            (self._path / "zarr.json").write_bytes(array_metadata(self.layout))
        except OSError as error:
            raise self._failed("write", error) from error
        self.close()

    def close(self) -> None:
        """Write no more; nothing is held open."""
        self.writer.close()

    def _failed(self, doing: str, error: OSError) -> StorageError:
        return storage_error(self._path, error, doing=doing, needed_bytes=self.layout.max_bytes)


def _encoder(layout: Layout) -> Callable[[Any], Encoded]:
    """Encodes the bytes of a chunk; Any, because imagecodecs takes every buffer, its stubs less."""
    level = layout.level
    match CODECS[layout.compression].name:
        case "zstd":
            return lambda chunk: bytes(imagecodecs.zstd_encode(chunk, level=level))
        case "gzip":
            return lambda chunk: bytes(imagecodecs.gzip_encode(chunk, level=level))
        case _:
            return memoryview


def _create(part: Path) -> int:
    """Open a new file, and make the folder it lies in."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(part, flags, 0o666)
    except FileNotFoundError:
        make_folder(part.parent)
        return os.open(part, flags, 0o666)
