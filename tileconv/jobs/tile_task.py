"""One tile: read, extend, convolve, cast, write."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tileconv.core.boundary import read_extended
from tileconv.core.buffers import ThreadBuffers
from tileconv.core.grid import Tile
from tileconv.errors import InputError
from tileconv.jobs.work import Work
from tileconv.stores.absent import Absences
from tileconv.stores.checksums import checksum
from tileconv.stores.sink import Receipt, Writer
from tileconv.stores.source import Source


@dataclass(frozen=True, slots=True, eq=False)
class TileResult:
    """What one tile took, and what became of its pixels.

    Parameters
    ----------
    index : int
        Of the tile.
    pixels : int
        Written, whatever their samples.
    receipt : Receipt
        Where they are stored.
    input_checksum : int
        Of the pixels that they were made of.
    clipped, nans : int
        Samples that saturated, and NaN that became the fill given.
    absent, bad : Absences
        Chunks of the input that were found to be absent, or bad and filled, since the last tile.
    decoded_bytes : int
        Bytes of chunks decoded since the last tile.
    read_s, compute_s, write_s : float
        Seconds of wall time for each step.
    """

    index: int
    pixels: int
    receipt: Receipt
    input_checksum: int
    clipped: int
    nans: int
    absent: Absences
    bad: Absences
    decoded_bytes: int
    read_s: float
    compute_s: float
    write_s: float

    @property
    def elapsed_s(self) -> float:
        """Seconds of the whole tile."""
        return self.read_s + self.compute_s + self.write_s


class TileTask:
    """Does one tile, from any number of threads at once.

    Pickled, it opens its source and its writer anew.

    Parameters
    ----------
    work : Work
        What is computed.
    source : Source
    writer : Writer
    cache_bytes : int
        What the source's cache of decoded chunks may hold.
    """

    def __init__(self, work: Work, source: Source, writer: Writer, cache_bytes: int) -> None:
        self.work = work
        self.source = source
        self.writer = writer
        if source.cache is not None:
            source.cache.capacity_bytes = cache_bytes
        self._cache_bytes = cache_bytes
        self._buffers = ThreadBuffers()
        self._lock = threading.Lock()
        self._decoded_bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return TileTask, (self.work, self.source, self.writer, self._cache_bytes)

    def __call__(self, tile: Tile) -> TileResult:
        """Read, extend, convolve, cast and write one tile.

        Raises
        ------
        InputError
            Its pixels cannot be read, or do not fit the output and that is refused.
        StorageError
            They cannot be written.
        """
        work, computed = self.work, self.work.computed(tile.region)
        started = time.perf_counter()
        block = self._read(tile)
        read_checksum = checksum(block)
        read = time.perf_counter()
        shape = (*computed.shape, work.source.samples)
        result = self._buffers.take("result", shape, work.cast.dtype)
        counts = work.engine.apply(block, result, work.cast)
        self._check(tile, counts.clipped, counts.nans)
        convolved = time.perf_counter()
        pixels = result[tile.region.within(computed).slices]
        receipt = self.writer.write(tile.plane, tile.region, pixels)
        return TileResult(
            index=tile.index,
            pixels=tile.region.area,
            receipt=receipt,
            input_checksum=read_checksum,
            clipped=counts.clipped,
            nans=counts.nans,
            absent=self.source.absent.news(),
            bad=self.source.bad.news(),
            decoded_bytes=self._newly_decoded(),
            read_s=read - started,
            compute_s=convolved - read,
            write_s=time.perf_counter() - convolved,
        )

    def input_checksum(self, tile: Tile) -> int:
        """Checksum of the pixels that a tile is made of: those it reads and the edge rule gives.

        Raises
        ------
        InputError
            They cannot be read.
        """
        return checksum(self._read(tile))

    def close(self) -> None:
        """Release the source and the writer."""
        self.source.close()
        self.writer.close()

    def _read(self, tile: Tile) -> np.ndarray:
        """The pixels that a tile is made of, in memory of the calling thread."""
        work, operation = self.work, self.work.operation
        window = work.window(tile.region)
        shape = (*window.shape, work.source.samples)
        block = self._buffers.take("block", shape, work.block_dtype)
        read_extended(
            partial(self.source.read, tile.plane),
            window,
            work.source.spatial,
            operation.boundary,
            operation.fill_value,
            block,
        )
        return block

    def _newly_decoded(self) -> int:
        """Bytes decoded since the last tile of any thread asked."""
        cache = self.source.cache
        if cache is None:
            return 0
        with self._lock:
            before, self._decoded_bytes = self._decoded_bytes, cache.load_bytes
            return self._decoded_bytes - before

    def _check(self, tile: Tile, clipped: int, nans: int) -> None:
        """Refuse what the user has not said may be changed."""
        work = self.work
        if nans and work.cast.nan_fill is None:
            raise InputError(
                f"{nans} NaN in {tile} cannot become {work.cast.dtype}; "
                "give a value with --nan-fill, or a float --dtype"
            )
        if clipped and work.refuse_clipped:
            raise InputError(
                f"{clipped} values in {tile} do not fit {work.cast.dtype}; "
                "choose a wider --dtype, or --overflow saturate"
            )
