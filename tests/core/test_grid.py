"""Regions and tiles: laws, checked against arrays and against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileconv.core.grid import Halo, Region, TileGrid, align_down, align_up, ceil_div

lengths = st.integers(0, 40)
steps = st.integers(1, 17)


@given(st.integers(-(10**20), 10**20), st.integers(1, 10**18))
def test_rounding_is_defined_by_its_postcondition(value, unit):
    assert align_down(value, unit) % unit == 0
    assert align_down(value, unit) <= value < align_down(value, unit) + unit
    assert align_up(value, unit) - unit < value <= align_up(value, unit)
    assert ceil_div(value, unit) * unit == align_up(value, unit)


@given(
    st.tuples(lengths, lengths),
    st.tuples(steps, steps),
    st.integers(0, 3),
    st.none() | st.integers(1, 9),
)
def test_tiles_partition_every_plane(shape, tile, planes, panel):
    grid = TileGrid(shape, tile, planes, panel)
    seen = np.zeros((planes, *shape), dtype=int)
    for index, piece in enumerate(grid):
        assert piece.index == index
        assert piece.region.area > 0
        seen[(piece.plane, *piece.region.slices)] += 1
        assert all(a % t == 0 for a, t in zip(piece.region.start, tile, strict=True))
    assert (seen == 1).all()
    assert list(grid) == list(grid)


def test_a_panel_is_walked_row_by_row_before_the_next():
    grid = TileGrid((3, 5), (1, 1), panel=2)
    walked = [t.region.start for t in grid]
    assert walked[:6] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert walked[-3:] == [(0, 4), (1, 4), (2, 4)]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9), st.integers(0, 9))
def test_within_is_relative_indexing(y, x, dy, dx):
    array = np.arange(80 * 80).reshape(80, 80)
    outer = Region((y, x), (80, 80))
    inner = Region((y + dy, x + dx), (y + dy + 5, x + dx + 7))
    assert np.array_equal(array[outer.slices][inner.within(outer).slices], array[inner.slices])


def test_grow_reads_before_and_after():
    grown = Region((10, 20), (11, 21)).grow(Halo(before=(1, 2), after=(3, 4)))
    assert grown == Region((9, 18), (14, 25))


@given(st.tuples(*[st.integers(-9, 9)] * 4), st.tuples(*[st.integers(-9, 9)] * 4))
def test_intersection_is_the_pixels_in_both(a, b):
    def pixels(box):
        return {(y, x) for y in range(box[0], box[2]) for x in range(box[1], box[3])}

    both = Region(a[:2], a[2:]).intersect(Region(b[:2], b[2:]))
    assert both.area == len(pixels(a) & pixels(b))
    assert Region(a[:2], a[2:]).contains(Region(b[:2], b[2:])) == (pixels(b) <= pixels(a))


@pytest.mark.parametrize("bad", [{"tile": (0, 1)}, {"tile": (1, 1), "panel": 0}])
def test_grids_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="at least one"):
        TileGrid((3, 3), **bad)


def test_a_petapixel_grid_is_only_numbers():
    grid = TileGrid((1 << 25, 1 << 25), (512, 512), planes=7, panel=64)
    last = grid[len(grid) - 1]
    assert last.plane == 6
    assert last.region.stop == (1 << 25, 1 << 25)
    with pytest.raises(IndexError, match="tile"):
        grid[len(grid)]


def test_around_is_what_is_not_inside():
    outer = Region((2, -3), (9, 11))
    for inner in (Region((4, 0), (6, 5)), Region((2, -3), (3, 11)), Region((5, 4), (5, 4)), outer):
        seen = np.zeros((12, 20), int)
        for part in (inner, *outer.around(inner)):
            seen[part.shift((0, 5)).slices] += 1
        assert seen[outer.shift((0, 5)).slices].min() == 1
        assert seen.sum() == outer.area
