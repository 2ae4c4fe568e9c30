"""Streams a dask array into a file, tile by tile, through the loop that runs jobs."""

from __future__ import annotations

import math
from functools import partial
from itertools import accumulate, product
from pathlib import Path

import dask.array as da
import numpy as np
from dask.base import get_scheduler

from tileconv.core.engines import Engine
from tileconv.core.engines.copy import CopyEngine
from tileconv.core.grid import Region
from tileconv.core.kernels import Kernel
from tileconv.core.methods import Choice, Method
from tileconv.core.operation import Mode, Operation
from tileconv.core.pixels import Cast
from tileconv.core.raster import Raster
from tileconv.jobs.backends import ThreadsBackend
from tileconv.jobs.config import Output, Run
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.run import execute, plan_within
from tileconv.jobs.staging import check_output
from tileconv.jobs.work import Work
from tileconv.lazy.blocks import BlockWork, OpenFile
from tileconv.stores.axes import raster_dims
from tileconv.stores.chunk_cache import DEFAULT_CACHE_BYTES, ChunkCache
from tileconv.stores.formats import format_of, plan_layout
from tileconv.stores.source import Source


class DaskSource(Source):
    """A dask array as a source: its blocks are computed as they are needed, and cached.

    Parameters
    ----------
    array : dask.array.Array
    axes : str or None
        Names of its axes; see `tileconv.stores.axes.raster_dims`.
    """

    def __init__(self, array: da.Array, axes: str | None) -> None:
        dims = raster_dims(array.shape, dims=axes)
        y, largest = dims.index("y"), [max(sizes) for sizes in array.chunks]
        self._raster = Raster(
            array.shape,
            array.dtype,
            dims,
            chunk=(largest[y], largest[y + 1]),
            chunk_planes=math.prod(largest[:y]),
            compression="dask",
        )
        # Computed blocks, so that tiles that share one compute it once.
        self._cache = ChunkCache(DEFAULT_CACHE_BYTES)
        self._array = array
        self._ends = [[0, *accumulate(sizes)] for sizes in array.chunks]
        # Tiles are computed side by side already; a scheduler the user set is respected.
        self._scheduler = None if get_scheduler() else "synchronous"

    @property
    def raster(self) -> Raster:
        """What the array is; the chunk is its largest."""
        return self._raster

    @property
    def identity(self) -> str:
        """The array's name, which dask derives from what it is computed of."""
        return f"dask array {self._array.name}"

    @property
    def cache(self) -> ChunkCache:
        """Its computed blocks."""
        return self._cache

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`; see `Source.read`."""
        raster = self.raster
        box = [(i, i + 1) for i in raster.plane_index(plane)]
        box += zip(region.start, region.stop, strict=True)
        box += [(0, n) for n in raster.sample_shape]
        target = out.reshape([b - a for a, b in box])
        for index in product(*(self._numbers(axis, span) for axis, span in enumerate(box))):
            block = self._cache.get(index, partial(self._compute, index))
            into, of = [], []
            for axis, (number, (lo, hi)) in enumerate(zip(index, box, strict=True)):
                first, last = self._ends[axis][number], self._ends[axis][number + 1]
                a, b = max(lo, first), min(hi, last)
                into.append(slice(a - lo, b - lo))
                of.append(slice(a - first, b - first))
            target[tuple(into)] = block[tuple(of)]

    def _numbers(self, axis: int, span: tuple[int, int]) -> list[int]:
        """Numbers of the blocks that meet ``span`` of an axis."""
        ends = self._ends[axis]
        return [n for n in range(len(ends) - 1) if ends[n] < span[1] and span[0] < ends[n + 1]]

    def _compute(self, index: tuple[int, ...]) -> np.ndarray:
        computed = self._array.blocks[index].compute(scheduler=self._scheduler)
        # What the cache holds is its own, and keeps nothing larger alive.
        return np.array(computed, copy=True)


def save_array(array: da.Array, output: Output, run: Run, *, axes: str | None) -> Report:
    """Store a dask array; `tileconv.save` describes it.

    A lazy result over a file is run as a job: its graph holds the source and the work, and
    tiles aligned to the output take the place of its blocks. Of any other array, blocks are
    computed as tiles need them.
    """
    path = Path(output.path)
    file_format = format_of(path)
    file, block_work = _file_and_work(array)
    check_output(path, file.path if file else None, overwrite=output.overwrite)
    # Opened anew, so that its cache can be given the size that was planned.
    with file.reopened() if file else DaskSource(array, axes) as source:
        source.require_chunks()
        backend = ThreadsBackend()
        plan = plan_within(_work(source, block_work, file_format, output), run, backend)
        return execute(
            plan,
            source,
            path,
            backend=backend,
            overwrite=output.overwrite,
            restart=False,
            listener=Listener(),
        )


def _file_and_work(array: da.Array) -> tuple[OpenFile | None, BlockWork | None]:
    """The file and the work in the graph of a lazy array that tileconv made of a file."""
    graph = array.dask
    file = getattr(graph.get(f"{array.name}-source"), "value", None)
    work = getattr(graph.get(f"{array.name}-work"), "value", None)
    return (file, work) if isinstance(file, OpenFile) else (None, None)


def _work(source: Source, block_work: BlockWork | None, file_format: str, output: Output) -> Work:
    raster = source.raster
    if block_work is None:
        operation = Operation(Kernel(np.ones((1, 1)), (0, 0), name="copy"), Mode.SAME)
        engine: Engine = CopyEngine(raster.dtype)
        block_dtype, cast = raster.dtype, Cast(raster.dtype)
        choice = Choice(Method.DIRECT, "nothing to convolve", 0.1)
    else:
        operation, engine = block_work.operation, block_work.engine
        cast, block_dtype = block_work.cast, block_work.block_dtype
        choice = Choice(Method(engine.method), "chosen when the array was made", 1.0)
    y = raster.y_axis
    shape = (*raster.shape[:y], *operation.output_shape(raster.spatial), *raster.sample_shape)
    return Work(
        source=raster,
        operation=operation,
        choice=choice,
        engine=engine,
        block_dtype=block_dtype,
        cast=cast,
        refuse_clipped=False,
        layout=plan_layout(
            file_format,
            Raster(shape, cast.dtype, raster.dims),
            compression=output.compression,
            level=output.compression_level,
            chunk=output.tile,
            tags=source.tags,
        ),
    )
