"""Graphs of lazy arrays: a task for each output block, and for the strips it shares.

A block's task reads the pixels its window needs, extends them by the edge rule,
applies the kernel and returns the block. Where the pixels are a file or an array, the
task reads its own window, and there is nothing else in the graph. Where they are a dask
array, it depends on its own chunk and on strips of the others its window meets, however
small, uneven or far away they are::

    input chunks      | a | b |  c  | d |         no rechunking, no overlap layer
    output block             [     ]
    its window             [         ]            depends on c, and strips of b and d

That makes three tasks a block at most, in modes full and same: `tileconv.lazy.strips`.
What all blocks share (the engine, the source) is one data node of the graph, so that
a process receives it once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, product
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph

from tileconv.lazy.blocks import (
    Axes,
    BlockWork,
    Box,
    Chunks,
    OpenFile,
    convolve_array,
    convolve_source,
    read_source,
)
from tileconv.lazy.strips import Needs, Part, Spans, axis_needs, convolve_chunks, cut_strip

Index = tuple[Any, ...]
"""Numbers of a chunk along each axis, or its key: a name before them."""


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
    shared = TaskRef(f"{name}-source")
    graph: dict[Any, Any] = {shared.key: DataNode(shared.key, file)}
    for index, box in boxes(chunks):
        key = (name, *index)
        graph[key] = Task(key, read_source, shared, box)
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
    shared, source = TaskRef(f"{name}-work"), TaskRef(f"{name}-source")
    graph: dict[Any, Any] = {
        shared.key: DataNode(shared.key, work),
        source.key: DataNode(source.key, pixels),
    }
    result = work.output_chunks(chunks)
    for index, box in boxes(result):
        key = (name, *index)
        graph[key] = Task(key, function, shared, source, box)
    return _array(graph, name, result, work.cast.dtype, [])


def convolved_dask(array: da.Array, work: BlockWork, name: str) -> da.Array:
    """The lazy result of `work` on a dask array, which is not rechunked."""
    axes, result = work.axes, work.output_chunks(array.chunks)
    shared = TaskRef(f"{name}-work")
    strips = _Strips(array.name, name, axes, {shared.key: DataNode(shared.key, work)})
    rows, columns = (
        axis_needs(work, i, array.chunks[axis], result[axis])
        for i, axis in enumerate((axes.y, axes.x))
    )
    for index, box in boxes(result):
        key = (name, *index)
        pieces = strips.of_block(index, rows[index[axes.y]], columns[index[axes.x]])
        layout, arrays = zip(*pieces, strict=True) if pieces else ((), ())
        strips.graph[key] = Task(key, convolve_chunks, shared, box, layout, *arrays)
    return _array(strips.graph, name, result, work.cast.dtype, [array])


Piece = tuple[tuple[Spans, Spans], TaskRef]
"""Rows and columns that a chunk or a strip holds, and its place in the graph."""


class _Strips:
    """Adds the strips to a graph that its blocks turn out to need.

    Parameters
    ----------
    given, name : str
        Names of the input and of the result.
    axes : Axes
    graph : dict
        It grows.
    """

    def __init__(self, given: str, name: str, axes: Axes, graph: dict[Any, Any]) -> None:
        self.graph = graph
        self._axes = axes
        self._given, self._rows, self._columns = given, f"{name}-rows", f"{name}-columns"
        # One object for each chunk and strip, however many tasks refer to it.
        self._references: dict[Index, TaskRef] = {}

    def of_block(self, index: Index, rows: Needs, columns: Needs) -> list[Piece]:
        """What the block of that index reads: chunks, strips of columns, strips of rows."""
        pieces = []
        for row in rows.parts:
            if row.whole:
                pieces += self._beside(index, row, columns)
                continue
            # The strip is of one column of blocks, not of one chunk.
            key = (self._rows, *self._at(index, row.chunk, index[self._axes.x]))
            if key not in self.graph:
                self._cut(key, row.spans, columns.wanted, self._beside(index, row, columns))
            pieces.append(((row.spans, columns.wanted), self._reference(key)))
        return pieces

    def _beside(self, index: Index, row: Part, columns: Needs) -> list[Piece]:
        """What a block reads of one row of chunks, over all rows: chunks and their edges."""
        pieces: list[Piece] = []
        rows = (row.extent,)
        for column in columns.parts:
            at = self._at(index, row.chunk, column.chunk)
            key = (self._given, *at)
            if not column.whole:
                chunk = (rows, (column.extent,)), self._reference(key)
                key = (self._columns, *at)
                if key not in self.graph:
                    self._cut(key, rows, column.spans, [chunk])
            pieces.append(((rows, column.spans), self._reference(key)))
        return pieces

    def _cut(self, key: Index, rows: Spans, columns: Spans, pieces: list[Piece]) -> None:
        """Add the task that cuts rows and columns from other pieces."""
        layout, arrays = zip(*pieces, strict=True)
        axes = self._axes.y, self._axes.x
        self.graph[key] = Task(key, cut_strip, axes, rows, columns, layout, *arrays)

    def _at(self, index: Index, row: int, column: int) -> Index:
        at = list(index)
        at[self._axes.y], at[self._axes.x] = row, column
        return tuple(at)

    def _reference(self, key: Index) -> TaskRef:
        return self._references.setdefault(key, TaskRef(key))


def _array(
    graph: dict[Any, Any], name: str, chunks: Chunks, dtype: np.dtype, inputs: list[da.Array]
) -> da.Array:
    """A dask array over a finished graph; `meta` is given, so dask calls nothing to infer it."""
    layered = HighLevelGraph.from_collections(name, graph, dependencies=inputs)
    meta = np.empty((0,) * len(chunks), dtype)
    return da.Array(layered, name, chunks, meta=meta)
