"""Writes a Zarr v3 array, shard by shard, each by one file written once.

zarr-python is not used here. Writing a whole shard through it reads the shard first (3.1,
always; 3.4, at the edges of the array), holds the whole of it encoded, and takes turns on one
event-loop thread. The format of a shard is its chunks, one after another, and an index.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numpy as np

from tileconv.core.grid import Region, TileGrid
from tileconv.errors import OutputExistsError, StorageError
from tileconv.stores.disk import storage_error
from tileconv.stores.layout import Layout
from tileconv.stores.zarr.layout import CODECS, array_metadata

Encoded = bytes | memoryview

_ABSENT = (1 << 64) - 1


class ZarrSink:
    """A Zarr array being written; see `tileconv.stores.sink.Sink`.

    Until `finish` the folder has no metadata, so that no reader takes it for an array.
    A region that is written again, by a task that is retried, replaces the first. Every
    chunk is stored, also one of zeros: a chunk that is not there was never written.

    Parameters
    ----------
    path : path
        Must not exist.
    layout : Layout
        From `tileconv.stores.zarr.layout.zarr_layout`.

    Raises
    ------
    OutputExistsError
        Something stands at `path`.
    StorageError
        The folder cannot be created.
    """

    def __init__(self, path: str | Path, layout: Layout) -> None:
        self.layout = layout
        self._path = Path(path)
        raster = layout.raster
        self._grid = TileGrid(raster.spatial, layout.unit, raster.planes)
        self._encode = _encoder(layout)
        # One bit for each shard.
        self._written = bytearray(-(-len(self._grid) // 8))
        self._stored_bytes = 0
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._path.mkdir()
        except FileExistsError:
            raise OutputExistsError(
                f"{self._path} exists; remove it or write to another path"
            ) from None
        except OSError as error:
            raise self._failed("create", error) from error

    def write(self, plane: int, region: Region, block: np.ndarray) -> int:
        """Encode and store the pixels of `region`; returns the bytes stored.

        Memory besides the block is at most ``layout.write_bytes``.

        Raises
        ------
        ValueError
            The region is not made of whole shards, or the block has another shape or dtype.
        StorageError
            A shard cannot be written.
        """
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        self._check(plane, region, block)
        total = 0
        for number, key, part in self._shards(plane, region):
            stored = self._write_shard(self._path / key, block[part.within(region).slices])
            with self._lock:
                self._written[number >> 3] |= 1 << (number & 7)
                self._stored_bytes += stored
            total += stored
        return total

    def finish(self) -> None:
        """Write the metadata, last, and close.

        Raises
        ------
        StorageError
            A shard was never written, or the metadata cannot be.
        """
        missing = len(self._grid) - sum(byte.bit_count() for byte in self._written)
        if missing:
            raise StorageError(
                f"{missing} of {len(self._grid)} shards of {self._path} were never written, "
                f"the first is {self._first_missing()}; run the job again"
            )
        try:
            (self._path / "zarr.json").write_bytes(array_metadata(self.layout))
        except OSError as error:
            raise self._failed("write", error) from error
        self.close()

    def close(self) -> None:
        """Write no more; nothing is held open."""
        self._closed = True

    def _check(self, plane: int, region: Region, block: np.ndarray) -> None:
        """A task owns whole shards: anything else would leave some half written."""
        whole = Region.of_shape(self._grid.shape)
        if not 0 <= plane < self._grid.planes or region.area == 0 or not whole.contains(region):
            raise ValueError(f"{region} of plane {plane} is not in a raster of {whole.shape}")
        if region.align_out(self.layout.unit).intersect(whole) != region:
            raise ValueError(f"{region} is not made of whole shards of {self.layout.unit}")
        raster = self.layout.raster
        if block.shape != (*region.shape, raster.samples):
            raise ValueError(f"a block of {block.shape} is not {region}")
        if block.dtype.newbyteorder("=") != raster.dtype.newbyteorder("="):
            raise ValueError(f"a block of {block.dtype} is not {raster.dtype}")

    def _shards(self, plane: int, region: Region) -> Iterator[tuple[int, Path, Region]]:
        """Number, file and region of each shard of `region`, row by row."""
        down, across = self._grid.grid_shape
        whole = Region.of_shape(self._grid.shape)
        raster = self.layout.raster
        before = map(str, raster.plane_index(plane))
        folder = Path("c", *before)
        (y0, x0), (y1, x1), (uy, ux) = region.start, region.stop, self.layout.unit
        for y in range(y0, y1, uy):
            for x in range(x0, x1, ux):
                row, column = y // uy, x // ux
                key = folder.joinpath(str(row), str(column), *("0" for _ in raster.sample_shape))
                number = (plane * down + row) * across + column
                yield number, key, Region((y, x), (y + uy, x + ux)).intersect(whole)

    def _write_shard(self, path: Path, pixels: np.ndarray) -> int:
        """Store a shard's chunks as they are encoded, then its index; returns its bytes.

        Not by way of another name: what makes a shard count is the record of the job, and a
        task that is run twice writes the same bytes.
        """
        chunk, unit = self.layout.raster.chunk, self.layout.unit
        assert chunk is not None
        grid = unit[0] // chunk[0], unit[1] // chunk[1]
        index = np.full((*grid, 2), _ABSENT, "<u8")
        size = 0
        try:
            handle = _create(path)
            try:
                for row, column in np.ndindex(grid):
                    y, x = row * chunk[0], column * chunk[1]
                    part = pixels[y : y + chunk[0], x : x + chunk[1]]
                    if part.size == 0:
                        continue  # Beyond the raster's edge.
                    encoded = self._encode(_whole_chunk(part, chunk, self.layout.raster.dtype))
                    _write_all(handle, encoded)
                    index[row, column] = size, len(encoded)
                    size += len(encoded)
                table = index.tobytes()
                table += google_crc32c.value(table).to_bytes(4, "little")
                _write_all(handle, table)
            finally:
                os.close(handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()  # A shard cut short is worse than none.
            raise self._failed("write", error, path) from error
        return size + len(table)

    def _first_missing(self) -> str:
        """The first shard that was never written, for people."""
        number = next(
            number
            for number in range(len(self._grid))
            if not self._written[number >> 3] & 1 << (number & 7)
        )
        down, across = self._grid.grid_shape
        plane, rest = divmod(number, down * across)
        row, column = divmod(rest, across)
        return f"row {row}, column {column} of plane {plane}"

    def _failed(self, doing: str, error: OSError, path: Path | None = None) -> StorageError:
        with self._lock:
            needed = max(self.layout.max_bytes - self._stored_bytes, 0)
        return storage_error(path or self._path, error, doing=doing, needed_bytes=needed)


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


def _whole_chunk(part: np.ndarray, chunk: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """The chunk of which `part` is in the raster: contiguous bytes, little-endian, padded by 0."""
    rows, columns, samples = part.shape
    stored = dtype.newbyteorder("<")
    if (rows, columns) == chunk:
        whole = np.ascontiguousarray(part, stored)
    else:
        whole = np.zeros((*chunk, samples), stored)
        whole[:rows, :columns] = part
    return whole.reshape(-1).view(np.uint8)


def _create(path: Path) -> int:
    """Open a new, empty file, and the folders it lies in."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def _write_all(handle: int, data: Encoded) -> None:
    """Write all of `data`; a write may stop short: at 2 GiB, at a signal, on a full disk."""
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]
