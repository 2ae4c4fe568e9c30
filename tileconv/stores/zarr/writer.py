"""Writes a Zarr v3 array, shard by shard, each by one file written once.

zarr-python is not used here. Writing a whole shard through it reads the shard first (3.1,
always; 3.4, at the edges of the array), holds the whole of it encoded, and takes turns on one
event-loop thread. The format of a shard is its chunks, one after another, and an index.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np

from tileconv.core.bitmap import Bitmap
from tileconv.core.buffers import ThreadBuffers
from tileconv.core.grid import Region
from tileconv.errors import OutputExistsError, StorageError
from tileconv.stores.checksums import checksum, stored_checksum
from tileconv.stores.disk import make_folder, storage_error, sync_folder, write_all
from tileconv.stores.layout import Layout
from tileconv.stores.sink import (
    Receipt,
    check_block,
    parts_folder,
    unit_grid,
    unit_name,
    unit_place,
    unit_regions,
)
from tileconv.stores.zarr.layout import CODECS, array_metadata, shard_index_bytes

Encoded = bytes | memoryview

_ABSENT = (1 << 64) - 1

LOOKED_AT_MAX = 250_000
"""Most shards of a run before this one whose lengths are looked at before it goes on: a few
seconds. The checksums of all of them are looked at while it does."""


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
    durable : bool
        Whether what is stored must survive a loss of power.
    """

    def __init__(self, layout: Layout, path: Path, *, durable: bool = False) -> None:
        self.layout = layout
        self._path, self._durable = path, durable
        self._parts = parts_folder(path)
        self._encode = _encoder(layout)
        self._buffers = ThreadBuffers()
        self._stored_bytes = 0
        self._lock = threading.Lock()
        self._closed = False

    def __reduce__(self) -> tuple[partial[ZarrWriter], tuple[Layout, Path]]:
        reopen = partial(ZarrWriter, durable=self._durable)
        return reopen, (self.layout, self._path.absolute())

    def write(self, plane: int, region: Region, block: np.ndarray) -> Receipt:
        """Encode and store the pixels of `region`; see `Writer.write`."""
        if self._closed:
            raise ValueError(f"the writer of {self._path} is closed")
        check_block(self.layout, plane, region, block)
        places = []
        for number, shard in unit_regions(self.layout, plane, region):
            path = self._path / shard_key(self.layout, number)
            stored, value = self._write_shard(path, block[shard.within(region).slices])
            with self._lock:
                self._stored_bytes += stored
            places.append((0, stored, value))
        return Receipt.of(self.layout, plane, region, places)

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

    def _write_shard(self, path: Path, pixels: np.ndarray) -> tuple[int, int]:
        """Store a shard's chunks as they are encoded, then its index.

        Returns
        -------
        (int, int)
            Bytes of the shard, and their checksum.
        """
        chunk, unit = self.layout.raster.chunk, self.layout.unit
        assert chunk is not None
        grid = unit[0] // chunk[0], unit[1] // chunk[1]
        index = np.full((*grid, 2), _ABSENT, "<u8")
        size = value = 0
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
                    size, value = size + len(encoded), checksum(encoded, value)
                table = index.tobytes()
                table += google_crc32c.value(table).to_bytes(4, "little")
                write_all(handle, table, size)
                if self._durable:
                    os.fsync(handle)
            finally:
                os.close(handle)
            self._name(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            needed = max(self.layout.max_bytes - self._stored_bytes, 0)
            raise storage_error(path, error, doing="write", needed_bytes=needed) from error
        return size + len(table), checksum(table, value)

    def _name(self, part: Path, path: Path) -> None:
        """Give a shard its name, and make the folders it lies in."""
        try:
            part.replace(path)
        except FileNotFoundError:
            make_folder(path.parent, root=self._path)
            part.replace(path)
        if self._durable:
            # Also of folders that another thread, or another process, has only just made.
            _sync_names(path, self._path)


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
    durable : bool
        Whether what is stored must survive a loss of power.
    """

    def __init__(
        self, path: str | Path, layout: Layout, *, resume: bool = False, durable: bool = False
    ) -> None:
        self.layout = layout
        self._path, self._durable = Path(path), durable
        self.writer = ZarrWriter(layout, self._path, durable=durable)
        self._written = Bitmap(len(unit_grid(layout)))
        self._looked_at = 0
        try:
            self._path.mkdir(exist_ok=resume)
            if durable:
                sync_folder(self._path.parent)
        except FileExistsError:
            raise OutputExistsError(
                f"{self._path} exists; remove it or write to another path"
            ) from None
        except OSError as error:
            raise self._failed("create", error) from error
        if resume:
            # Shards that a kill has left half written, and that nobody will name.
            shutil.rmtree(parts_folder(self._path), ignore_errors=True)

    def record(self, receipt: Receipt) -> None:
        """Take shards for written; see `Sink.record`."""
        self._written.set(receipt.units[:, 0].astype(np.int64))

    def holds(self, receipt: Receipt) -> bool:
        """Whether all of some shards is there; see `Sink.holds`.

        Looking takes some microseconds for each: not all of ten million are looked at.
        """
        for number, _, length, _ in receipt.units.tolist():
            self._looked_at += 1
            if self._looked_at > LOOKED_AT_MAX:
                return True
            try:
                if self._place(number).stat().st_size != length:
                    return False
            except OSError:
                return False
        return True

    def intact(self, receipt: Receipt, check: Callable[[], None]) -> bool:
        """Whether shards are as they were stored; see `Sink.intact`.

        The run that has stored them need not have been durable: a durable sink sees to theirs.
        """
        for number, _, length, value in receipt.units.tolist():
            place = self._place(number)
            try:
                handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if os.fstat(handle).st_size != length:
                        return False
                    if stored_checksum(handle, 0, length, check) != value:
                        return False
                    if self._durable:
                        os.fsync(handle)
                finally:
                    os.close(handle)
                if self._durable:
                    _sync_names(place, self._path)
            except OSError:
                return False
        return True

    def finish(self) -> None:
        """Look at every shard, write the metadata, last, and close.

        Raises
        ------
        StorageError
            A shard is not there, or the metadata cannot be written.
        """
        missing = self._written.size - self._written.count()
        if missing:
            first = unit_name(self.layout, next(self._written.clear()))
            raise StorageError(
                f"{missing} of {self._written.size} shards of {self._path} were never written, "
                f"the first is {first}; run the job again"
            )
        for number in range(self._written.size):
            if not self._is_whole(number):
                raise StorageError(
                    f"{self._place(number)}, the shard at {unit_name(self.layout, number)}, is "
                    "gone or cut short; run the same command again"
                )
        try:
            self._write_metadata()
        except OSError as error:
            raise self._failed("write", error) from error
        self.close()

    def close(self) -> None:
        """Write no more; nothing is held open."""
        self.writer.close()

    def _place(self, number: int) -> Path:
        """The file of a shard."""
        return self._path / shard_key(self.layout, number)

    def _is_whole(self, number: int) -> bool:
        """Whether a shard is there and as long as its index, which has a checksum, says.

        Raises
        ------
        StorageError
            It cannot be looked at.
        """
        chunk = self.layout.raster.chunk
        assert chunk is not None
        length, place = shard_index_bytes(chunk, self.layout.unit), self._place(number)
        try:
            handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(handle).st_size
                table = os.pread(handle, length, max(0, size - length))
            finally:
                os.close(handle)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise storage_error(place, error, doing="read") from error
        index, value = table[:-4], int.from_bytes(table[-4:], "little")
        if len(table) < length or google_crc32c.value(index) != value:
            return False
        places = np.frombuffer(index, "<u8").reshape(-1, 2)
        there = places[places[:, 0] != _ABSENT]
        return int(there.sum(axis=1).max(initial=0)) == size - length

    def _write_metadata(self) -> None:
        """Write what makes an array of the folder. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        handle = os.open(self._path / "zarr.json", flags, 0o666)
        try:
            write_all(handle, array_metadata(self.layout), 0)
            if self._durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        if self._durable:
            sync_folder(self._path)

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


def _sync_names(shard: Path, array: Path) -> None:
    """Have a shard's name, and those of its folders, survive a loss of power. Raises OSError."""
    for folder in shard.parents:
        sync_folder(folder)
        if folder == array:
            return


def _create(part: Path) -> int:
    """Open a new file, and make the folder it lies in."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(part, flags, 0o666)
    except FileNotFoundError:
        make_folder(part.parent)
        return os.open(part, flags, 0o666)
