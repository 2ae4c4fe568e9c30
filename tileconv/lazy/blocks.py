"""What one task of a lazy array does: read pixels, extend them, apply the kernel.

A block is worked on in the order planes, y, x, samples, whatever the array's own axes
are. A `Reader` stands for the input; nothing here knows what the graph looks like.
"""

from __future__ import annotations

import logging
import math
import pickle
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tileconv.core.boundary import read_extended
from tileconv.core.engines.base import Engine
from tileconv.core.grid import Region, Shape
from tileconv.core.operation import Operation
from tileconv.core.pixels import Cast
from tileconv.core.raster import Raster
from tileconv.stores.absent import Missing
from tileconv.stores.source import Source

log = logging.getLogger(__name__)

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

    def region(self, box: Box) -> Region:
        """Rows and columns of a box."""
        y, x = box[self.y], box[self.x]
        return Region((y.start, x.start), (y.stop, x.stop))

    def box(self, bands: Box, region: Region) -> Box:
        """The box with the rows and columns of `region`, and the other axes of `bands`."""
        return self.index(bands, *region.slices)

    def index(self, bands: Box, rows: slice, columns: slice) -> Box:
        """The box with `rows` and `columns`, and the other axes of `bands`."""
        index = list(bands)
        index[self.y], index[self.x] = rows, columns
        return tuple(index)

    def allocate(self, shape: Sequence[int], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """An uninitialised block, seen twice.

        Parameters
        ----------
        shape : sequence of int
            In the array's own order.
        dtype : numpy.dtype

        Returns
        -------
        working : ndarray, shape (planes, rows, columns, samples)
            Contiguous.
        view : ndarray, of `shape`
        """
        planes = [axis for axis in range(self.x) if axis != self.y]
        order = [*planes, self.y, self.x, *range(self.x + 1, self.ndim)]
        memory = np.empty([shape[axis] for axis in order], dtype)
        working = memory.reshape(
            math.prod(shape[axis] for axis in planes),
            shape[self.y],
            shape[self.x],
            math.prod(shape[self.x + 1 :]),
        )
        return working, memory.transpose(np.argsort(order))


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
            shift = self.operation.placement[i]
            inner = (end for end in accumulate(chunks[axis]) if 0 < end < self.spatial[i])
            cuts = {min(max(end - shift, 0), lengths[i]) for end in inner}
            edges = sorted({0, lengths[i]} | cuts)
            result[axis] = tuple(b - a for a, b in pairwise(edges)) or (0,)
        return tuple(result)

    def convolve(self, reader: Reader, box: Box) -> np.ndarray:
        """The result's pixels of `box`, from a reader of the input."""
        shape = [band.stop - band.start for band in box]
        result, result_view = self.axes.allocate(shape, self.cast.dtype)
        if result.size == 0:
            return result_view
        region = self.axes.region(box)
        inside = self._inside(region)
        pixels = (
            reader.pixels(self.axes.box(box, self.operation.window(inside)))
            if inside.area
            else None
        )
        # In the dtype of blocks only: an engine may sum others in another order.
        whole = pixels is None or pixels.ndim != 2 or pixels.dtype != self.block_dtype
        if pixels is None or whole or self.engine.lattice != (1, 1):
            self._convolve(reader, box, region, result)
            return result_view
        # Where the pixels lie in memory, only the edges are copied.
        part = inside.within(region).slices
        self.engine.apply(pixels[..., np.newaxis], result[0][part], self.cast)
        for edge in region.around(inside):
            self._convolve(reader, box, edge, result[(slice(None), *edge.within(region).slices)])
        return result_view

    def _inside(self, region: Region) -> Region:
        """The outputs of `region` whose windows lie in the raster."""
        (dy, dx), (kr, kc) = self.operation.offset, self.operation.kernel.shape
        stop = self.spatial[0] - kr + 1 - dy, self.spatial[1] - kc + 1 - dx
        return region.intersect(Region((-dy, -dx), stop))

    def _convolve(self, reader: Reader, bands: Box, region: Region, result: np.ndarray) -> None:
        """Fill `result`, in working order, with the outputs of `region` of a box."""
        spatial = self.axes.y, self.axes.x
        window = self.operation.window(region)
        shape = [band.stop - band.start for band in self.axes.box(bands, window)]
        extended, extended_view = self.axes.allocate(shape, self.block_dtype)

        def read(region: Region, into: np.ndarray) -> None:
            reader.read(self.axes.box(bands, region), np.moveaxis(into, (0, 1), spatial))

        read_extended(
            read,
            window,
            self.spatial,
            self.operation.boundary,
            self.operation.fill_value,
            np.moveaxis(extended_view, spatial, (0, 1)),
        )
        for block, out in zip(extended, result, strict=True):
            self.engine.apply(block, out, self.cast)


class Reader(Protocol):
    """Reads boxes of an array, inside a task."""

    def read(self, box: Box, out: np.ndarray) -> None:
        """Fill `out`, of the box's shape and any strides, with the pixels of `box`."""

    def pixels(self, box: Box) -> np.ndarray | None:
        """The pixels of `box` where they are, if they are in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayReader:
    """Reads whatever is indexed by slices: numpy and zarr arrays."""

    array: Any

    def pixels(self, box: Box) -> np.ndarray | None:
        """See `Reader`."""
        return self.array[box] if isinstance(self.array, np.ndarray) else None

    def read(self, box: Box, out: np.ndarray) -> None:
        """See `Reader`."""
        out[...] = self.array[box]


class OpenFile:
    """A file that closes itself when nothing refers to it any more.

    Lazy arrays have no end of their own at which a file could be closed. Unpickled, it is
    opened by the first read, because a scheduler that unpickles graphs may not see the
    file; all graphs of a process that hold the same file then share it, and its cache. It
    says once, through `logging`, that chunks are absent, because a lazy array has no
    report to say it in.

    Parameters
    ----------
    source : Source or bytes
        Open, or pickled.
    token : str
        The same for the same pixels.
    """

    def __init__(self, source: Source | bytes, token: str) -> None:
        self._packed = source if isinstance(source, bytes) else pickle.dumps(source)
        self._token = token
        self._opening = threading.Lock()
        self._source: Source | None = None
        self._told = False
        if not isinstance(source, bytes):
            self._hold(source)

    def __reduce__(self) -> tuple[Any, ...]:
        return _file_of_this_process, (self._packed, self._token)

    def _hold(self, source: Source) -> None:
        self._source = source
        weakref.finalize(self, source.close)

    @property
    def source(self) -> Source:
        """What reads it, opened now if it was not."""
        with self._opening:
            if self._source is None:
                self._hold(self.reopened())
            assert self._source is not None
            return self._source

    @property
    def raster(self) -> Raster:
        """Description of the raster."""
        return self.source.raster

    @property
    def path(self) -> Path | None:
        """The file or folder; None for pixels in memory."""
        return self.source.path

    def reopened(self) -> Source:
        """A source of its own for the same file, with a cache of its own."""
        copy: Source = pickle.loads(self._packed)  # noqa: S301 - our own bytes
        return copy

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """See `Source.read`."""
        source = self.source
        source.read(plane, region, out)
        absent = source.absent
        if absent.count and absent.missing is Missing.WARN and not self._told:
            self._told = True
            log.warning(
                "%s is absent and read as the fill value, others perhaps too; "
                "open with missing='fill' to accept that, or missing='error' to refuse it",
                absent.first[0],
            )


_unpickled: weakref.WeakValueDictionary[str, OpenFile] = weakref.WeakValueDictionary()
_unpickling = threading.Lock()


def _file_of_this_process(packed: bytes, token: str) -> OpenFile:
    """The file of that token, one object for as long as anything in this process refers to it."""
    with _unpickling:
        file = _unpickled.get(token)
        if file is None:
            file = _unpickled[token] = OpenFile(packed, token)
        return file


@dataclass(frozen=True, slots=True, eq=False)
class SourceReader:
    """Reads a raster's file; boxes have whole samples."""

    source: OpenFile

    def pixels(self, box: Box) -> np.ndarray | None:
        """See `Reader`."""

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
            samples = math.prod(out.shape[2:])
            block = np.empty((*region.shape, samples), out.dtype)
            self.source.read(plane, region, block)
            out[...] = block.reshape(out.shape)


# What tasks call. `shared` is what the graph's data node holds.


def convolve_array(work: BlockWork, shared: Any, box: Box) -> np.ndarray:
    """One block of a convolved numpy or zarr array."""
    return work.convolve(ArrayReader(shared), box)


def convolve_source(work: BlockWork, shared: OpenFile, box: Box) -> np.ndarray:
    """One block of a convolved file."""
    return work.convolve(SourceReader(shared), box)


def read_source(shared: OpenFile, box: Box) -> np.ndarray:
    """One block of a file."""
    out = np.empty([s.stop - s.start for s in box], shared.raster.dtype)
    SourceReader(shared).read(box, out)
    return out
