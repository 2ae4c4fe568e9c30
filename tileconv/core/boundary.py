"""Edge rules: what a pixel outside the raster is, and blocks extended by it.

Boundary code exists once, here. Engines see extended blocks and know nothing of
edges; readers see regions inside the raster and know nothing of rules.

=========  ==========================  ============================  ==============
name       pixels                      scipy.ndimage                 numpy.pad
=========  ==========================  ============================  ==============
fill       ``v v v | a b c d | v v v`` constant, grid-constant       constant
wrap       ``b c d | a b c d | a b c`` wrap, grid-wrap               wrap
symm       ``c b a | a b c d | d c b`` reflect, grid-mirror          symmetric
nearest    ``a a a | a b c d | d d d`` nearest                       edge
mirror     ``d c b | a b c d | c b a`` mirror                        reflect
=========  ==========================  ============================  ==============
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import product

import numpy as np

from tileconv.core.grid import Region
from tileconv.errors import ConfigError


class Boundary(StrEnum):
    """An edge rule, by the name scipy.signal gives it where it has one."""

    FILL = "fill"
    WRAP = "wrap"
    SYMM = "symm"
    NEAREST = "nearest"
    MIRROR = "mirror"


# Who calls which rule what: (j)obs, scipy.(s)ignal, scipy.(n)dimage. A name is absent from
# jobs where another library means something else by it.
_NAMES = {
    "fill": (Boundary.FILL, "js"),
    "pad": (Boundary.FILL, "s"),
    "constant": (Boundary.FILL, "jn"),
    "grid-constant": (Boundary.FILL, "jn"),
    "wrap": (Boundary.WRAP, "jsn"),
    "circular": (Boundary.WRAP, "s"),
    "grid-wrap": (Boundary.WRAP, "jn"),
    "symm": (Boundary.SYMM, "js"),
    "symmetric": (Boundary.SYMM, "s"),
    "reflect": (Boundary.SYMM, "n"),
    "grid-mirror": (Boundary.SYMM, "jn"),
    "nearest": (Boundary.NEAREST, "jsn"),
    "mirror": (Boundary.MIRROR, "jsn"),
}


def _rule(name: object, family: str) -> Boundary | None:
    """The rule `family` calls `name`; None if it calls none so."""
    rule, families = _NAMES.get(name, (None, "")) if isinstance(name, str) else (None, "")
    return rule if family in families else None


def boundary_named(name: str) -> Boundary:
    """The edge rule of a job's `boundary`.

    Raises
    ------
    ConfigError
        For an unknown name, and for numpy's ``reflect`` and ``symmetric``, which say
        the opposite of scipy's.
    """
    if name == "reflect":
        raise ConfigError(
            "boundary 'reflect' is ambiguous: scipy.ndimage's is 'symm', numpy's is 'mirror'; "
            "use one of these names"
        )
    if name == "symmetric":
        raise ConfigError("boundary 'symmetric' is numpy's name; use 'symm'")
    if (rule := _rule(name, "j")) is None:
        allowed = ", ".join(rule.value for rule in Boundary)
        raise ConfigError(f"unknown boundary {name!r}; use one of {allowed}")
    return rule


def signal_boundary(name: str) -> Boundary:
    """The edge rule that scipy.signal calls `name`; ValueError in scipy's words otherwise."""
    if (rule := _rule(name, "s")) is None:
        raise ValueError(
            "Acceptable boundary flags are 'fill', 'circular' (or 'wrap'), "
            "and 'symmetric' (or 'symm'); tileconv adds 'nearest' and 'mirror'."
        )
    return rule


def ndimage_boundary(name: str) -> Boundary:
    """The edge rule that scipy.ndimage calls `name`; RuntimeError in scipy's words otherwise."""
    if (rule := _rule(name, "n")) is None:
        raise RuntimeError("boundary mode not supported")
    return rule


OUTSIDE = -1
"""Source index of a pixel that has none, under the fill rule."""


def source_indices(lo: int, hi: int, length: int, boundary: Boundary) -> np.ndarray:
    """Index inside an axis of `length` for each position ``lo .. hi - 1``.

    Parameters
    ----------
    lo, hi : int
        Half-open range of positions, anywhere.
    length : int
        Length of the axis, at least 1.
    boundary : Boundary

    Returns
    -------
    ndarray of int64, shape (hi - lo,)
        Values in ``0 .. length - 1``, or `OUTSIDE`.
    """
    position = np.arange(lo, hi, dtype=np.int64)
    match boundary:
        case Boundary.FILL:
            return np.where((position >= 0) & (position < length), position, OUTSIDE)
        case Boundary.WRAP:
            return position % length
        case Boundary.NEAREST:
            return np.clip(position, 0, length - 1)
        case Boundary.SYMM:
            # One period is the axis and its reflection: a b c c b a.
            phase = position % (2 * length)
            return np.minimum(phase, 2 * length - 1 - phase)
        case Boundary.MIRROR:
            # The edge pixel is not repeated: a b c b; a single pixel is its own mirror.
            period = max(2 * length - 2, 1)
            phase = position % period
            return np.minimum(phase, period - phase)


@dataclass(frozen=True, slots=True)
class Read:
    """Pixels ``start:stop`` of the axis go to `into` of the block (reversed by step -1)."""

    into: slice
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Pixels of the block that repeat others of it; one source pixel may fill many."""

    into: slice
    of: slice


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """How one axis of a window is filled: read each pixel once, repeat it, fill the rest."""

    length: int
    reads: tuple[Read, ...]
    copies: tuple[Copy, ...]
    fills: tuple[slice, ...]


def _run(first: int, count: int, step: int) -> slice:
    """`count` positions from `first` on, one apart, upwards or downwards."""
    if step >= 0:
        return slice(first, first + count)
    last = first - count
    return slice(first, last if last >= 0 else None, -1)


def _runs(*columns: np.ndarray) -> list[tuple[int, int]]:
    """Maximal ``(begin, end)`` over which every column advances by a constant step of its own.

    Steps are 1, 0 or -1; a longer jump ends a run.
    """
    size = len(columns[0])
    if size < 2:
        return [(0, size)] * size
    steps = np.stack([np.diff(column) for column in columns])
    jump = (np.abs(steps) > 1).any(axis=0)
    # Where the step into a position differs from the step out of it.
    bend = (np.diff(steps) != 0).any(axis=0)
    begins, at = [0], 0
    for candidate in np.flatnonzero(jump | np.append(bend, False)):
        i = int(candidate)
        if jump[i]:
            begins.append(i + 1)
            at = i + 1
        elif i >= at and not jump[i + 1]:
            # Position i + 1 ends this run; the next one begins after it.
            begins.append(i + 2)
            at = i + 2
    return [(b, e) for b, e in zip(begins, [*begins[1:], size], strict=True) if b < e]


@lru_cache(maxsize=4096)
def plan_axis(lo: int, hi: int, length: int, boundary: Boundary) -> AxisPlan:
    """Plan positions ``lo .. hi - 1`` of an axis of `length` pixels under a rule.

    Every pixel of the axis is read at most once, into the position where it belongs
    if the window has that, so that a window inside the raster is one read and nothing else.
    """
    if lo >= 0 and hi <= length:
        return AxisPlan(hi - lo, (Read(slice(0, hi - lo), lo, hi),), (), ())
    index = source_indices(lo, hi, length, boundary)
    position = np.arange(hi - lo, dtype=np.int64)
    # First occurrence of each source pixel, its own place before any repetition.
    inside = index != OUTSIDE
    own = inside & (index == position + lo)
    order = np.concatenate([position[own], position[inside & ~own]])
    _, first = np.unique(index[order], return_index=True)
    is_read = np.zeros(hi - lo, dtype=bool)
    is_read[order[first]] = True
    home = np.full(length if length <= hi - lo else int(index.max(initial=0)) + 1, -1, np.int64)
    home[index[is_read]] = position[is_read]

    reads = []
    where = position[is_read]
    for begin, end in _runs(where, index[where]):
        step = int(index[where[begin + 1]] - index[where[begin]]) if end - begin > 1 else 1
        a, b = int(index[where[begin]]), int(index[where[end - 1]])
        count, at = end - begin, int(where[begin])
        into = _run(at, count, 1) if step >= 0 else _run(at + count - 1, count, -1)
        reads.append(Read(into, min(a, b), max(a, b) + 1))
    copies = []
    where = position[inside & ~is_read]
    source = home[index[where]]
    for begin, end in _runs(where, source):
        step = int(source[begin + 1] - source[begin]) if end - begin > 1 else 1
        count = end - begin if step else 1
        into = _run(int(where[begin]), end - begin, 1)
        copies.append(Copy(into, _run(int(source[begin]), count, step)))
    where = position[~inside]
    fills = [_run(int(where[begin]), end - begin, 1) for begin, end in _runs(where)]
    return AxisPlan(hi - lo, tuple(reads), tuple(copies), tuple(fills))


ReadInto = Callable[[Region, np.ndarray], None]
"""Fills an array of shape (rows, columns, samples) with a region inside the raster."""


def read_extended(
    read: ReadInto,
    window: Region,
    shape: tuple[int, int],
    boundary: Boundary,
    fill_value: complex,
    out: np.ndarray,
) -> None:
    """Fill `out` with the pixels of `window`, which may reach beyond the raster.

    Parameters
    ----------
    read : callable
        ``read(region, out)`` fills `out` with a region inside the raster. It is called
        once for a window inside the raster, and for disjoint regions otherwise.
    window : Region
        What is wanted.
    shape : (int, int)
        Rows and columns of the raster, both at least 1.
    boundary : Boundary
    fill_value : number
        Value outside the raster under the fill rule.
    out : ndarray, shape window.shape + (samples,)
    """
    rows = plan_axis(window.start[0], window.stop[0], shape[0], boundary)
    columns = plan_axis(window.start[1], window.stop[1], shape[1], boundary)
    for y, x in product(rows.reads, columns.reads):
        read(Region((y.start, x.start), (y.stop, x.stop)), out[y.into, x.into])
    # Columns first over rows that were read, then whole rows: each pixel is written once.
    for y in rows.reads:
        band = out[y.into]
        for copy in columns.copies:
            band[:, copy.into] = band[:, copy.of]
        for fill in columns.fills:
            band[:, fill] = fill_value
    for copy in rows.copies:
        out[copy.into] = out[copy.of]
    for fill in rows.fills:
        out[fill] = fill_value
