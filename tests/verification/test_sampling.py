"""What is always in a sample, and that no pixel is in it twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileconv.core.grid import TileGrid
from tileconv.verification.sampling import is_unit, sampled

lengths = st.integers(1, 120)
sides = st.integers(1, 50)


@given(st.tuples(lengths, lengths), st.tuples(sides, sides), st.integers(1, 4), st.integers(0, 9))
def test_no_pixel_twice_and_corners_edges_first_and_last_always(shape, side, planes, samples):
    grid = TileGrid(shape, side, planes)
    count = np.zeros((planes, *shape), int)
    tiles = sampled(grid, samples, seed=1)
    for tile in tiles:
        count[tile.plane][tile.region.slices] += 1
    assert count.max() == 1
    for plane in (count[0], count[-1]):
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            assert plane[corner] == 1
        assert all(edge.any() for edge in (plane[0], plane[-1], plane[:, 0], plane[:, -1]))
    assert [tile.index for tile in tiles] == list(range(len(tiles)))
    units = [tile for tile in tiles if is_unit(grid, tile)]
    assert len(units) >= min(len(grid), samples)
    if len(grid) <= samples:
        assert count.all()


def test_places_where_four_tiles_meet_are_looked_at_across_their_borders():
    grid = TileGrid((3000, 4000), (100, 100), 2)
    tiles = sampled(grid, 8, seed=3)
    there = np.zeros((2, 3000, 4000), bool)
    for tile in tiles:
        there[tile.plane][tile.region.slices] = True
    meeting = [
        (plane, y, x)
        for plane in range(2)
        for y in range(100, 3000, 100)
        for x in range(100, 4000, 100)
        if there[plane, y - 1 : y + 1, x - 1 : x + 1].all()
    ]
    assert len(meeting) >= 8
    assert sum(not is_unit(grid, tile) for tile in tiles) >= 8
    # Some of them where tiles of several units meet.
    assert any(y % 400 == 0 and x % 400 == 0 for _, y, x in meeting)


@pytest.mark.parametrize("shape", [(64, 5000), (5000, 64)])
def test_in_a_row_of_tiles_borders_of_two_are_looked_at(shape):
    windows = [
        tile
        for tile in sampled(TileGrid(shape, (64, 64)), 4, seed=0)
        if tile.region.area < 64 * 64 and 32 in tile.region.shape
    ]
    assert windows


def test_the_same_seed_gives_the_same_sample_and_another_another():
    grid = TileGrid((9000, 9000), (64, 64), 3)
    assert sampled(grid, 5, 7) == sampled(grid, 5, 7)
    assert sampled(grid, 5, 7) != sampled(grid, 5, 8)


def test_a_petapixel_is_sampled_at_once():
    grid = TileGrid((1 << 25, 1 << 25), (64, 64), 100)
    assert 16 < len(sampled(grid, 16, 0)) < 200
    assert sampled(TileGrid((0, 7), (64, 64)), 16, 0) == []
