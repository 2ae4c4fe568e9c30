"""Graphs of lazy arrays: one task for each output block, and nothing in between.

A block's task reads the pixels its window needs, extends them by the edge rule,
applies the kernel and returns the block. Where the pixels are a file or an array, the
task reads its own window; where they are a dask array, it depends on the chunks its
window meets, however small, uneven or far away they are::

    input chunks      | a | b |  c  | d |         no rechunking, no overlap layer
    output block             [     ]
    its window             [         ]            depends on b, c and d

What all blocks share (the engine, the source) is one data node of the graph, so that
a process receives it once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, product
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph

from tileconv.core.boundary import plan_axis
from tileconv.lazy.blocks import (
    BlockWork,
    Box,
    Chunks,
    OpenFile,
    convolve_array,
    convolve_chunks,
    convolve_source,
    read_source,
)


def boxes(chunks: Chunks) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Index and box of each chunk, in C order."""
    axes = [
        [slice(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]
        for sizes in chunks
    ]
    indices = product(*(range(len(axis)) for axis in axes))
    return zip(indices, product(*axes), strict=True)


def file_array(file: OpenFile, chunks: Chunks, name: str) -> da.Array:
    """A lazy array of a file, one task for each chunk."""
    shared = f"{name}-source"
    graph: dict[Any, Any] = {shared: DataNode(shared, file)}
    for index, box in boxes(chunks):
        key = (name, *index)
        graph[key] = Task(key, read_source, TaskRef(shared), box)
    return _array(graph, name, chunks, file.raster.dtype, [])


def convolved(pixels: Any, chunks: Chunks, work: BlockWork, name: str) -> da.Array:
    """The lazy result of `work` on a file or an array that tasks read themselves.

    Parameters
    ----------
    pixels : OpenFile, or anything indexed by slices
    chunks : Chunks
        Of the input, as it is to be cut; the result's follow.
    work : BlockWork
    name : str
        Name of the result, the same for the same arguments.
    """
    function = convolve_source if isinstance(pixels, OpenFile) else convolve_array
    shared, source = f"{name}-work", f"{name}-source"
    graph: dict[Any, Any] = {shared: DataNode(shared, work), source: DataNode(source, pixels)}
    result = work.output_chunks(chunks)
    for index, box in boxes(result):
        key = (name, *index)
        graph[key] = Task(key, function, TaskRef(shared), TaskRef(source), box)
    return _array(graph, name, result, work.cast.dtype, [])


def convolved_dask(array: da.Array, work: BlockWork, name: str) -> da.Array:
    """The lazy result of `work` on a dask array, which is not rechunked."""
    shared, axes = f"{name}-work", work.axes
    graph: dict[Any, Any] = {shared: DataNode(shared, work)}
    result = work.output_chunks(array.chunks)
    rows, columns = (
        _needs(work, i, array.chunks[axis], result[axis]) for i, axis in enumerate((axes.y, axes.x))
    )
    for index, box in boxes(result):
        key = (name, *index)
        (row_numbers, row_extents), (column_numbers, column_extents) = (
            rows[index[axes.y]],
            columns[index[axes.x]],
        )
        needed = []
        for row, column in product(row_numbers, column_numbers):
            chunk = list(index)
            chunk[axes.y], chunk[axes.x] = row, column
            needed.append(TaskRef((array.name, *chunk)))
        graph[key] = Task(
            key, convolve_chunks, TaskRef(shared), box, row_extents, column_extents, *needed
        )
    return _array(graph, name, result, work.cast.dtype, [array])


Needs = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]
"""Numbers and extents of the input chunks that an output chunk reads, along one axis."""


def _needs(
    work: BlockWork, axis: int, given: tuple[int, ...], result: tuple[int, ...]
) -> list[Needs]:
    """What each output chunk along a spatial axis (0 for y, 1 for x) reads of the input."""
    ends = list(accumulate(given))
    operation = work.operation
    offset, reach = operation.offset[axis], operation.kernel.shape[axis] - 1
    needs: list[Needs] = []
    for size, stop in zip(result, accumulate(result), strict=True):
        if size == 0:
            needs.append(((), ()))
            continue
        lo, hi = stop - size + offset, stop + offset + reach
        plan = plan_axis(lo, hi, work.spatial[axis], operation.boundary)
        numbers: set[int] = set()
        for read in plan.reads:
            first, last = bisect_right(ends, read.start), bisect_right(ends, read.stop - 1)
            numbers.update(n for n in range(first, last + 1) if given[n])
        order = tuple(sorted(numbers))
        needs.append((order, tuple((ends[n] - given[n], ends[n]) for n in order)))
    return needs


def _array(
    graph: dict[Any, Any], name: str, chunks: Chunks, dtype: np.dtype, inputs: list[da.Array]
) -> da.Array:
    """A dask array over a finished graph; `meta` is given, so dask calls nothing to infer it."""
    layered = HighLevelGraph.from_collections(name, graph, dependencies=inputs)
    meta = np.empty((0,) * len(chunks), dtype)
    return da.Array(layered, name, chunks, meta=meta)
