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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph

from tileconv.core.boundary import plan_axis, read_extended
from tileconv.core.engines.base import Engine
from tileconv.core.grid import Region, Shape
from tileconv.core.operation import Operation
from tileconv.core.pixels import Cast
from tileconv.stores.source import Source

Chunks = tuple[tuple[int, ...], ...]
"""Lengths of the chunks along each axis, as dask writes them."""

Box = tuple[slice, ...]
"""A half-open box of an array, one slice for each axis."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Which axes of an array are y and x, with ``y < x``.

    The axes after x are samples, the other ones planes: a block is worked on in the
    order planes, y, x, samples, and a raster's own layout needs no transposition.
    """

    ndim: int
    y: int
    x: int

    @property
    def order(self) -> tuple[int, ...]:
        """Axes in working order."""
        planes = (axis for axis in range(self.x) if axis != self.y)
        return (*planes, self.y, self.x, *range(self.x + 1, self.ndim))

    @property
    def samples(self) -> int:
        """Number of axes after x."""
        return self.ndim - self.x - 1

    def region(self, box: Box) -> Region:
        """Rows and columns of a box."""
        y, x = box[self.y], box[self.x]
        return Region((y.start, x.start), (y.stop, x.stop))

    def box(self, bands: Box, region: Region) -> Box:
        """The box with the rows and columns of `region`, and the other axes of `bands`."""
        rows, columns = region.slices
        return tuple(
            rows if axis == self.y else columns if axis == self.x else band
            for axis, band in enumerate(bands)
        )

    def flat(self, block: np.ndarray) -> np.ndarray:
        """A contiguous block in working order as (planes, rows, columns, samples)."""
        at = block.ndim - self.samples
        rows, columns = block.shape[at - 2 : at]
        planes = int(np.prod(block.shape[: at - 2], dtype=np.int64))
        samples = int(np.prod(block.shape[at:], dtype=np.int64))
        return block.reshape(planes, rows, columns, samples)


@dataclass(frozen=True, slots=True, eq=False)
class BlockWork:
    """What all blocks of one lazy convolution share. Picklable.

    Parameters
    ----------
    operation : Operation
    engine : Engine
        Prepared from the operation's kernel, once.
    cast : Cast
        Its dtype is the result's.
    axes : Axes
        Of the input, and of the result.
    spatial : (int, int)
        Rows and columns of the input.
    block_dtype : numpy.dtype
        Of extended blocks: it holds the input's pixels and the fill value.
    """

    operation: Operation
    engine: Engine
    cast: Cast
    axes: Axes
    spatial: Shape
    block_dtype: np.dtype

    def output_chunks(self, chunks: Chunks) -> Chunks:
        """The result's chunks: the input's, each pixel's result in its pixel's chunk.

        In mode full the chunks at the edges grow, in mode valid they lose what is not
        there; chunks that end up empty are dropped.
        """
        result = list(chunks)
        lengths = self.operation.output_shape(self.spatial)
        for i, axis in enumerate((self.axes.y, self.axes.x)):
            shift = -self.operation.offset[i] - self.operation.kernel.anchor[i]
            cuts = {min(max(end + shift, 0), lengths[i]) for end in accumulate(chunks[axis])}
            edges = sorted({0, lengths[i]} | cuts)
            result[axis] = tuple(b - a for a, b in pairwise(edges)) or (0,)
        return tuple(result)

    def convolve(self, reader: Reader, box: Box) -> np.ndarray:
        """The result's pixels of `box`, from a reader of the input."""
        axes, order = self.axes, self.axes.order
        window = self.operation.window(axes.region(box))
        sizes = [s.stop - s.start for s in box]
        sizes[axes.y], sizes[axes.x] = window.shape
        extended = np.empty([sizes[axis] for axis in order], self.block_dtype)
        at = axes.ndim - axes.samples - 2

        def read(region: Region, into: np.ndarray) -> None:
            working = np.moveaxis(into, (0, 1), (at, at + 1))
            reader.read(axes.box(box, region), working.transpose(np.argsort(order)))

        read_extended(
            read,
            window,
            self.spatial,
            self.operation.boundary,
            self.operation.fill_value,
            np.moveaxis(extended, (at, at + 1), (0, 1)),
        )
        sizes[axes.y], sizes[axes.x] = axes.region(box).shape
        result = np.empty([sizes[axis] for axis in order], self.cast.dtype)
        for block, out in zip(axes.flat(extended), axes.flat(result), strict=True):
            self.engine.apply(block, out, self.cast)
        return result.transpose(np.argsort(order))


class Reader(Protocol):
    """Reads boxes of an array, inside a task."""

    def read(self, box: Box, out: np.ndarray) -> None:
        """Fill `out`, of the box's shape and any strides, with the pixels of `box`."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayReader:
    """Reads whatever is indexed by slices: numpy and zarr arrays."""

    array: Any

    def read(self, box: Box, out: np.ndarray) -> None:
        """See `Reader`."""
        out[...] = self.array[box]


@dataclass(frozen=True, slots=True, eq=False)
class SourceReader:
    """Reads a raster's file; boxes have whole samples."""

    source: Source

    def read(self, box: Box, out: np.ndarray) -> None:
        """See `Reader`."""
        raster = self.source.raster
        y = raster.y_axis
        region = Region((box[y].start, box[y + 1].start), (box[y].stop, box[y + 1].stop))
        for local in np.ndindex(out.shape[:y]):
            index = tuple(band.start + i for band, i in zip(box, local, strict=False))
            plane = int(np.ravel_multi_index(index, raster.plane_shape)) if index else 0
            self._read_plane(plane, region, out[local])

    def _read_plane(self, plane: int, region: Region, out: np.ndarray) -> None:
        if out.ndim == 3:
            self.source.read(plane, region, out)
        elif out.ndim == 2:
            self.source.read(plane, region, out[..., np.newaxis])
        else:
            samples = int(np.prod(out.shape[2:]))
            block = np.empty((*region.shape, samples), out.dtype)
            self.source.read(plane, region, block)
            out[...] = block.reshape(out.shape)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkReader:
    """Reads from the chunks of a dask array that a task was given.

    Parameters
    ----------
    axes : Axes
    rows, columns : tuple of (int, int)
        Extents of the chunks in the array.
    chunks : tuple of ndarray
        Row by row; along the other axes just what is asked for.
    """

    axes: Axes
    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    chunks: tuple[np.ndarray, ...]

    def read(self, box: Box, out: np.ndarray) -> None:
        """See `Reader`."""
        wanted = self.axes.region(box)
        everything = (slice(None),) * self.axes.ndim
        extents = product(self.rows, self.columns)
        for (y, x), chunk in zip(extents, self.chunks, strict=True):
            extent = Region((y[0], x[0]), (y[1], x[1]))
            common = extent.intersect(wanted)
            if common.area:
                into = self.axes.box(everything, common.within(wanted))
                out[into] = np.asarray(chunk)[self.axes.box(everything, common.within(extent))]


# What tasks call. `shared` is what the graph's data node holds.


def convolve_array(work: BlockWork, shared: Any, box: Box) -> np.ndarray:
    """One block of a convolved numpy or zarr array."""
    return work.convolve(ArrayReader(shared), box)


def convolve_source(work: BlockWork, shared: Source, box: Box) -> np.ndarray:
    """One block of a convolved file."""
    return work.convolve(SourceReader(shared), box)


def convolve_chunks(
    work: BlockWork,
    box: Box,
    rows: tuple[tuple[int, int], ...],
    columns: tuple[tuple[int, int], ...],
    *chunks: np.ndarray,
) -> np.ndarray:
    """One block of a convolved dask array, from the chunks its window meets."""
    return work.convolve(ChunkReader(work.axes, rows, columns, chunks), box)


def read_source(shared: Source, box: Box) -> np.ndarray:
    """One block of a file."""
    out = np.empty([s.stop - s.start for s in box], shared.raster.dtype)
    SourceReader(shared).read(box, out)
    return out


def boxes(chunks: Chunks) -> Iterator[tuple[tuple[int, ...], Box]]:
    """Index and box of each chunk, in C order."""
    axes = [
        [slice(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]
        for sizes in chunks
    ]
    indices = product(*(range(len(axis)) for axis in axes))
    return zip(indices, product(*axes), strict=True)


def source_array(source: Source, chunks: Chunks, name: str) -> da.Array:
    """A lazy array of a file, one task for each chunk."""
    pixels = f"{name}-source"
    graph: dict[Any, Any] = {pixels: DataNode(pixels, source)}
    for index, box in boxes(chunks):
        key = (name, *index)
        graph[key] = Task(key, read_source, TaskRef(pixels), box)
    return _array(graph, name, chunks, source.raster.dtype, [])


def convolved(
    pixels: Any, chunks: Chunks, work: BlockWork, name: str, *, from_source: bool = False
) -> da.Array:
    """The lazy result of `work` on a file or an array that tasks read themselves.

    Parameters
    ----------
    pixels : Source, or anything indexed by slices
    chunks : Chunks
        Of the input, as it is to be cut; the result's follow.
    work : BlockWork
    name : str
        Name of the result, the same for the same arguments.
    from_source : bool
        Whether `pixels` is a `Source`.
    """
    function: Callable[..., np.ndarray] = convolve_source if from_source else convolve_array
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
    needs = []
    for size, stop in zip(result, accumulate(result), strict=True):
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
