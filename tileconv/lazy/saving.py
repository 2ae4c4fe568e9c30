"""Lazy arrays into files: as a job where tileconv made them of a file, else as dask computes them.

Either way the output is staged, its tiles are made of whole write units, and it takes its name
when it is complete.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.base import compute_as_if_collection, get_scheduler
from dask.highlevelgraph import HighLevelGraph

from tileconv.core.engines import Engine
from tileconv.core.engines.copy import CopyEngine
from tileconv.core.grid import Region, TileGrid, align_up
from tileconv.core.kernels import Kernel
from tileconv.core.methods import Choice, Method
from tileconv.core.operation import Mode, Operation
from tileconv.core.pixels import Cast
from tileconv.core.raster import Raster
from tileconv.errors import OutputExistsError
from tileconv.jobs.batches import BatchResult, process_name
from tileconv.jobs.config import Output, Run
from tileconv.jobs.journal import has_tiles
from tileconv.jobs.limits import peak_resident_bytes, usable_cores
from tileconv.jobs.memory import Memory
from tileconv.jobs.plan import Plan
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.run import backend_of, execute, plan_within
from tileconv.jobs.staging import check_output, noting_bad_input, stage
from tileconv.jobs.tile_task import TileResult
from tileconv.jobs.work import Work
from tileconv.lazy.blocks import BlockWork, Box, Chunks, OpenFile
from tileconv.lazy.graph import boxes
from tileconv.lazy.inputs import refuse_unknown_chunks
from tileconv.stores.absent import Absences
from tileconv.stores.axes import raster_dims
from tileconv.stores.formats import format_of, open_sink, plan_layout
from tileconv.stores.sink import Receipt, Writer
from tileconv.stores.tiff.tags import TiffTags


def save_array(array: da.Array, output: Output, run: Run, *, axes: str | None) -> Report:
    """Store a dask array; `tileconv.save` describes it."""
    path = Path(output.path)
    format_of(path)
    file, block_work = _file_and_work(array)
    check_output(path, file.path if file else None, overwrite=output.overwrite)
    if file is None:
        refuse_unknown_chunks(array)
        raster = Raster(array.shape, array.dtype, raster_dims(array.shape, dims=axes))
        return _save_computed(array, _work(raster, None, None, output), output, run)
    client = current_client()
    # Opened anew, so that its cache can be given the size that was planned.
    with (
        noting_bad_input(path, file.path),
        file.reopened() as source,
        backend_of(run, client) as backend,
    ):
        source.require_chunks()
        work = _work(source.raster, source.tags, block_work, output)
        return execute(
            plan_within(work, run, backend),
            source,
            path,
            backend=backend,
            overwrite=output.overwrite,
            restart=False,
            durable=run.durable,
            listener=Listener(),
        )


def current_client() -> Any:
    """The distributed client that dask computes with, if there is one."""
    distributed = sys.modules.get("distributed")
    owner = getattr(get_scheduler(), "__self__", None)
    return owner if distributed is not None and isinstance(owner, distributed.Client) else None


def _save_computed(array: da.Array, work: Work, output: Output, run: Run) -> Report:
    """Store what dask computes, in one graph, so that nothing is computed twice."""
    layout = work.layout
    chunks = aligned_chunks(array.chunks, work.source.y_axis, layout.unit)
    path, y = Path(output.path), work.source.y_axis
    grid = TileGrid(work.output_shape, (max(1, *chunks[y]), max(1, *chunks[y + 1])))
    workers = run.workers or usable_cores()
    report = Report(Plan(work, grid, workers, 0, 0, Memory({}), 1.0), str(path), 0)
    threads = {} if run.workers is None else {"num_workers": run.workers}
    with (
        stage(
            path,
            overwrite=output.overwrite,
            durable=run.durable,
            needed_bytes=layout.max_bytes,
        ) as staging,
        dask.config.set(threads),
    ):
        if has_tiles(staging.folder):
            raise OutputExistsError(
                f"{staging.folder} holds an unfinished run of a job; end that, or remove the folder"
            )
        result_path = staging.result()
        sink = open_sink(layout, result_path, durable=run.durable)
        try:
            for result in _stored(array.rechunk(chunks), work.source, sink.writer):
                for tile in result.tiles:
                    sink.record(tile.receipt)
                report.add(result)
            sink.finish()
        finally:
            sink.close()
        staging.commit(result_path)
    report.close()
    return report


def aligned_chunks(chunks: Chunks, y_axis: int, unit: tuple[int, int]) -> Chunks:
    """Chunks of whole write units, no smaller than those given; samples stay together."""
    aligned = list(chunks)
    for axis, step in zip((y_axis, y_axis + 1), unit, strict=True):
        length = sum(chunks[axis])
        size = align_up(max(1, *chunks[axis]), step)
        cuts = [*range(0, length, size), length]
        aligned[axis] = tuple(b - a for a, b in pairwise(cuts)) or (0,)
    for axis in range(y_axis + 2, len(chunks)):
        aligned[axis] = (sum(chunks[axis]),)
    return tuple(aligned)


def _stored(array: da.Array, raster: Raster, writer: Writer) -> Iterator[BatchResult]:
    """What storing each block of an aligned array came to; dask computes and stores them."""
    if 0 in array.shape:
        return
    # Never the name of another call: what dask has computed it does not compute again.
    name = f"tileconv-save-{os.urandom(8).hex()}"
    shared = TaskRef(f"{name}-writer")
    graph: dict[Any, Any] = {shared.key: DataNode(shared.key, (raster, writer))}
    for index, box in boxes(array.chunks):
        key = (name, *index)
        graph[key] = Task(key, store_block, shared, box, TaskRef((array.name, *index)))
    keys = [key for key in graph if key != shared.key]
    layered = HighLevelGraph.from_collections(name, graph, dependencies=[array])
    yield from compute_as_if_collection(da.Array, layered, keys)


def _box_text(box: Box) -> str:
    return "[" + ", ".join(f"{band.start}:{band.stop}" for band in box) + "]"


def store_block(shared: tuple[Raster, Writer], box: Box, block: np.ndarray) -> BatchResult:
    """Store the block of a box, plane by plane.

    Raises
    ------
    ValueError
        It is not what the array said it would be.
    TypeError
        It is masked: what the mask hides would be stored as if it were not hidden.
    """
    raster, writer = shared
    if isinstance(block, np.ma.MaskedArray):
        raise TypeError(
            f"block {_box_text(box)} is a masked array, which no file can hold; say what hidden "
            "pixels become: dask.array.ma.filled(array, value)"
        )
    block = np.asarray(block)
    shape = tuple(band.stop - band.start for band in box)
    if (block.shape, block.dtype) != (shape, raster.dtype):
        raise ValueError(
            f"block {_box_text(box)} came out as {block.dtype} of {block.shape}, the dask array "
            f"says {raster.dtype} of {shape}; mend its dtype, meta or chunks"
        )
    y, start = raster.y_axis, tuple(band.start for band in box)
    rows, columns = shape[y : y + 2]
    region = Region((start[y], start[y + 1]), (start[y] + rows, start[y + 1] + columns))
    planes = block.reshape(prod(block.shape[:y]), rows, columns, raster.samples)
    receipts = []
    for local, pixels in zip(np.ndindex(block.shape[:y]), planes, strict=True):
        at = tuple(a + b for a, b in zip(start, local, strict=False))
        plane = int(np.ravel_multi_index(at, raster.plane_shape)) if at else 0
        receipts.append(writer.write(plane, region, pixels))
    receipt = Receipt(np.concatenate([r.units for r in receipts]), receipts[0].part)
    none = Absences(np.empty(0, np.int64), ())
    tile = TileResult(
        index=0,
        pixels=region.area * len(receipts),
        receipt=receipt,
        input_checksum=0,
        clipped=0,
        nans=0,
        absent=none,
        bad=none,
        decoded_bytes=0,
        read_s=0.0,
        compute_s=0.0,
        write_s=0.0,
    )
    return BatchResult(process_name(), peak_resident_bytes(), (tile,))


def _file_and_work(array: da.Array) -> tuple[OpenFile | None, BlockWork | None]:
    """The file and the work in the graph of a lazy array that tileconv made of a file."""
    graph = array.dask
    file = getattr(graph.get(f"{array.name}-source"), "value", None)
    work = getattr(graph.get(f"{array.name}-work"), "value", None)
    return (file, work) if isinstance(file, OpenFile) else (None, None)


def _work(
    raster: Raster, tags: TiffTags | None, block_work: BlockWork | None, output: Output
) -> Work:
    """What is stored: a lazy convolution's work, or the pixels as they are."""
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
            format_of(output.path),
            Raster(shape, cast.dtype, raster.dims),
            compression=output.compression,
            level=output.compression_level,
            chunk=output.tile,
            tags=tags,
        ),
    )
