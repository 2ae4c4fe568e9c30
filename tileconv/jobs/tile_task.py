"""One tile: read, extend, convolve, cast, write."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from tileconv.core.boundary import read_extended
from tileconv.core.grid import Tile
from tileconv.errors import InputError
from tileconv.jobs.work import Work
from tileconv.stores.sink import Sink
from tileconv.stores.source import Source


@dataclass(frozen=True, slots=True)
class TileResult:
    """What one tile took, and what became of its pixels.

    Parameters
    ----------
    index : int
        Of the tile.
    pixels : int
        Written, whatever their samples.
    stored_bytes : int
        As encoded.
    clipped, nans : int
        Samples that saturated, and NaN that became the fill given.
    read_s, compute_s, write_s : float
        Seconds of wall time for each step.
    """

    index: int
    pixels: int
    stored_bytes: int
    clipped: int
    nans: int
    read_s: float
    compute_s: float
    write_s: float


class _Buffers(threading.local):
    """A thread's own memory for blocks, taken once and used for tile after tile.

    Blocks of changing size, freed and taken anew, leave the allocator with holes that
    count as resident; one piece of memory for each thread does not.
    """

    def __init__(self) -> None:
        self._memory: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array that is this thread's until it takes the same name again."""
        size = int(np.prod(shape)) * dtype.itemsize
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < size:
            self._memory.pop(name, None)
            memory = self._memory[name] = np.empty(size, dtype=np.uint8)
        return memory[:size].view(dtype).reshape(shape)


class TileTask:
    """Does one tile, from any number of threads at once.

    Parameters
    ----------
    work : Work
        What is computed.
    source : Source
    sink : Sink
    """

    def __init__(self, work: Work, source: Source, sink: Sink) -> None:
        self.work = work
        self.source = source
        self.sink = sink
        self._buffers = _Buffers()

    def __call__(self, tile: Tile) -> TileResult:
        """Read, extend, convolve, cast and write one tile.

        Raises
        ------
        InputError
            Its pixels cannot be read, or do not fit the output and that is refused.
        StorageError
            They cannot be written.
        """
        work, operation = self.work, self.work.operation
        samples = work.source.samples
        computed, window = work.computed(tile.region), work.window(tile.region)
        started = time.perf_counter()
        block = self._buffers.take("block", (*window.shape, samples), work.block_dtype)
        read_extended(
            partial(self.source.read, tile.plane),
            window,
            work.source.spatial,
            operation.boundary,
            operation.fill_value,
            block,
        )
        read = time.perf_counter()
        result = self._buffers.take("result", (*computed.shape, samples), work.cast.dtype)
        counts = work.engine.apply(block, result, work.cast)
        self._check(tile, counts.clipped, counts.nans)
        convolved = time.perf_counter()
        pixels = result[tile.region.within(computed).slices]
        stored = self.sink.write(tile.plane, tile.region, pixels)
        return TileResult(
            index=tile.index,
            pixels=tile.region.area,
            stored_bytes=stored,
            clipped=counts.clipped,
            nans=counts.nans,
            read_s=read - started,
            compute_s=convolved - read,
            write_s=time.perf_counter() - convolved,
        )

    def _check(self, tile: Tile, clipped: int, nans: int) -> None:
        """Refuse what the user has not said may be changed."""
        work = self.work
        (y0, x0), (y1, x1) = tile.region.start, tile.region.stop
        where = f"tile {tile.index}, plane {tile.plane}, rows {y0}:{y1}, columns {x0}:{x1}"
        if nans and work.cast.nan_fill is None:
            raise InputError(
                f"{nans} NaN in {where} cannot become {work.cast.dtype}; "
                "give a value with --nan-fill, or a float --dtype"
            )
        if clipped and work.refuse_clipped:
            raise InputError(
                f"{clipped} values in {where} do not fit {work.cast.dtype}; "
                "choose a wider --dtype, or --overflow saturate"
            )
