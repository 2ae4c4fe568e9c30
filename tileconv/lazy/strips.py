"""What chunks of a dask array send to their neighbours: edge strips, not whole chunks.

Strips are cut in two steps, so that a corner needs no task, and no wide strip, of its own::

              +---------+-----------------+---------+
              |         :  rows of above  :         |     columns: left and right edges
              +---------+-----------------+---------+     of a chunk, over all its rows
              | columns |                 | columns |
              | of the  |    own chunk    | of the  |     rows: top and bottom edges of a
              |  left   |                 |  right  |     chunk, over all columns that the
              +---------+-----------------+---------+     block above or below reads
              |         :  rows of below  :         |
              +---------+-----------------+---------+

A block depends on its own chunk and four strips, a strip of rows on a chunk and two strips
of columns. A chunk of which neighbours want nearly everything is sent as it is: halos
longer than a chunk, chunks of one pixel. Everything is decided along one axis at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, product

import numpy as np

from tileconv.core.boundary import plan_axis
from tileconv.lazy.blocks import Axes, BlockWork, Box

Span = tuple[int, int]
"""Positions ``start .. stop - 1`` of an axis of the input."""

Spans = tuple[Span, ...]
"""Spans of one axis, ascending and disjoint, that an array holds one after another."""

Held = tuple[tuple[Spans, Spans], ...]
"""Rows and columns that each of several arrays holds."""

MOST_OF_A_CHUNK = 3 / 4
"""From this share of a chunk on, the chunk is sent and not its edges: nothing is saved."""


@dataclass(frozen=True, slots=True)
class Part:
    """What an output chunk is given of one input chunk, along one axis.

    Parameters
    ----------
    chunk : int
        Number of the input chunk.
    extent : Span
        Where that lies.
    spans : Spans
        What is given of it: everything, or its edges.
    """

    chunk: int
    extent: Span
    spans: Spans

    @property
    def whole(self) -> bool:
        """Whether it is the chunk, and not its edges."""
        return self.spans == (self.extent,)


@dataclass(frozen=True, slots=True)
class Needs:
    """What an output chunk needs along one axis: `parts` of the input, which hold `wanted`."""

    parts: tuple[Part, ...]
    wanted: Spans


def axis_needs(
    work: BlockWork, axis: int, given: Sequence[int], result: Sequence[int]
) -> list[Needs]:
    """What each output chunk needs of the input along a spatial axis (0 for y, 1 for x).

    Parameters
    ----------
    work : BlockWork
    axis : int
    given, result : sequence of int
        Lengths of the input's chunks and of the output's.
    """
    ends = list(accumulate(given))
    operation = work.operation
    offset, reach = operation.offset[axis], operation.kernel.shape[axis] - 1
    read: list[dict[int, list[Span]]] = []
    for size, stop in zip(result, accumulate(result), strict=True):
        lo, hi = stop - size + offset, stop + offset + reach
        plan = plan_axis(lo, hi, work.spatial[axis], operation.boundary) if size else None
        read.append(_by_chunk([(r.start, r.stop) for r in plan.reads] if plan else [], ends))

    edges = _edges(read, ends)
    needs = []
    for spans in read:
        parts = []
        for n, wanted in sorted(spans.items()):
            extent = ends[n] - given[n], ends[n]
            kept = () if _covers(wanted, *extent) else edges[n]
            parts.append(Part(n, extent, kept or (extent,)))
        needs.append(Needs(tuple(parts), _merged(chain.from_iterable(spans.values()))))
    return needs


def _by_chunk(spans: list[Span], ends: list[int]) -> dict[int, list[Span]]:
    """Disjoint spans, cut where chunks end; chunks that are empty get nothing."""
    found: dict[int, list[Span]] = {}
    for start, stop in spans:
        for n in range(bisect_right(ends, start), bisect_right(ends, stop - 1) + 1):
            first = ends[n - 1] if n else 0
            if first < ends[n]:
                found.setdefault(n, []).append((max(start, first), min(stop, ends[n])))
    return found


def _edges(read: list[dict[int, list[Span]]], ends: list[int]) -> list[Spans]:
    """What is cut from each chunk for those that read a part of it; nothing if it is sent whole."""
    starts = [0, *ends[:-1]]
    # Pixels kept from the start of each chunk, and to its end.
    first, last = [0] * len(ends), [0] * len(ends)
    for spans in read:
        for n, wanted in spans.items():
            if _covers(wanted, starts[n], ends[n]):
                continue
            for start, stop in wanted:
                if stop - starts[n] <= ends[n] - start:
                    first[n] = max(first[n], stop - starts[n])
                else:
                    last[n] = max(last[n], ends[n] - start)
    edges: list[Spans] = []
    for start, stop, a, b in zip(starts, ends, first, last, strict=True):
        few = a + b < MOST_OF_A_CHUNK * (stop - start)
        kept = [(start, start + a), (stop - b, stop)] if few else []
        edges.append(tuple(span for span in kept if span[0] < span[1]))
    return edges


def _covers(spans: list[Span], start: int, stop: int) -> bool:
    """Whether disjoint spans inside ``start .. stop - 1`` are all of it."""
    return sum(b - a for a, b in spans) == stop - start


def _merged(spans: Iterable[Span]) -> Spans:
    """Disjoint spans in order, those that touch joined."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        touches = bool(joined) and joined[-1][1] == start
        joined.append((joined.pop()[0] if touches else start, stop))
    return tuple(joined)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkReader:
    """Reads from the chunks and strips of a dask array that a task was given.

    Parameters
    ----------
    axes : Axes
    layout : Held
        Where the rows and columns of each of `arrays` lie in the input.
    arrays : tuple of ndarray
        Along the other axes they hold just what is asked for.
    """

    axes: Axes
    layout: Held
    arrays: tuple[np.ndarray, ...]

    def pixels(self, box: Box) -> np.ndarray | None:
        """See `Reader`."""

    def read(self, box: Box, out: np.ndarray) -> None:
        """See `Reader`."""
        rows, columns = box[self.axes.y], box[self.axes.x]
        everything = (slice(None),) * self.axes.ndim
        for (held_rows, held_columns), array in zip(self.layout, self.arrays, strict=True):
            down = _common(held_rows, rows)
            across = _common(held_columns, columns)
            for (y, of_y), (x, of_x) in product(down, across):
                into = self.axes.index(everything, y, x)
                out[into] = np.asarray(array)[self.axes.index(everything, of_y, of_x)]


def _common(held: Spans, wanted: slice) -> list[tuple[slice, slice]]:
    """Where what is held and wanted lies: in what is wanted, and in what is held."""
    common, at = [], 0
    for start, stop in held:
        a, b = max(start, wanted.start), min(stop, wanted.stop)
        if a < b:
            into = slice(a - wanted.start, b - wanted.start)
            common.append((into, slice(at + a - start, at + b - start)))
        at += stop - start
    return common


# What tasks call.


def cut_strip(
    axes: tuple[int, int], rows: Spans, columns: Spans, layout: Held, *arrays: np.ndarray
) -> np.ndarray:
    """Rows and columns out of chunks and strips, as an array that keeps nothing else alive."""
    order, shape = Axes(arrays[0].ndim, *axes), list(arrays[0].shape)
    reader = ChunkReader(order, layout, arrays)
    shape[order.y], shape[order.x] = (sum(b - a for a, b in spans) for spans in (rows, columns))
    strip = np.empty(shape, arrays[0].dtype)
    everything = (slice(None),) * order.ndim
    for (y, to_y), (x, to_x) in product(_placed(rows), _placed(columns)):
        into = strip[order.index(everything, to_y, to_x)]
        reader.read(order.index(everything, y, x), into)
    return strip


def _placed(held: Spans) -> list[tuple[slice, slice]]:
    """Each span, and where an array has it that holds them one after another."""
    stops = accumulate(stop - start for start, stop in held)
    return [(slice(a, b), slice(at - (b - a), at)) for (a, b), at in zip(held, stops, strict=True)]


def convolve_chunks(work: BlockWork, box: Box, layout: Held, *arrays: np.ndarray) -> np.ndarray:
    """One block of a convolved dask array, from the chunks and strips its window meets."""
    return work.convolve(ChunkReader(work.axes, layout, arrays), box)
