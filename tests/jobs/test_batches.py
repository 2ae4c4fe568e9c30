"""Tiles by the handful: all of them, in order, about as long as is wanted, smaller at the end."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileconv.core.grid import TileGrid
from tileconv.jobs.batches import BATCH_MAX, Batches, BatchResult, BatchTask, process_name


@dataclass
class Took:
    """As much of a tile's result as batches look at."""

    elapsed_s: float


def took(tiles, tile_s):
    return BatchResult(process_name(), 0, (Took(tile_s),) * tiles)


@given(
    indices=st.sets(st.integers(0, 10**9), max_size=300).map(sorted),
    target_s=st.sampled_from([0, 0.01, 2]),
    tile_s=st.floats(0, 10),
    lanes=st.lists(st.integers(0, 9), min_size=1),
    real_s=st.floats(0, 10),
)
def test_every_tile_once_in_order(indices, target_s, tile_s, lanes, real_s):
    now = iter(lanes * 400)
    batches = Batches(
        iter(indices), len(indices), target_s=target_s, tile_s=tile_s, lanes=lambda: next(now)
    )
    seen = []
    for batch in batches:
        assert 0 < len(batch) <= (BATCH_MAX if target_s else 1)
        seen += batch
        batches.learn(took(len(batch), real_s))
    assert seen == indices


def sizes(count, *, target_s, tile_s, lanes, real_s=None):
    batches = Batches(range(count), count, target_s=target_s, tile_s=tile_s, lanes=lambda: lanes)
    found = []
    for batch in batches:
        found.append(len(batch))
        if real_s is not None:
            batches.learn(took(len(batch), real_s))
    return found


def test_no_target_is_a_tile_each():
    assert sizes(50, target_s=0, tile_s=1e-9, lanes=2) == [1] * 50


def test_a_batch_takes_as_long_as_is_wanted():
    assert sizes(1000, target_s=2, tile_s=0.1, lanes=1)[0] == 20
    assert sizes(1000, target_s=2, tile_s=5, lanes=1) == [1] * 1000


def test_what_tiles_have_taken_counts_for_more_than_what_was_expected():
    found = sizes(100_000, target_s=2, tile_s=1, lanes=1, real_s=0.01)
    assert found[:2] == [2, 200]
    found = sizes(100_000, target_s=2, tile_s=0.01, lanes=1, real_s=1)
    assert found[:2] == [200, 2]


def test_a_batch_has_a_bound_whatever_is_expected():
    assert max(sizes(10**6, target_s=2, tile_s=0, lanes=1)) == BATCH_MAX


def test_the_last_batches_are_small_enough_for_all_lanes():
    found = sizes(400, target_s=1000, tile_s=0.001, lanes=4)
    assert found[0] == 50
    assert found == sorted(found, reverse=True)
    assert found[-8:] == [1] * 8


class Doing:
    """A task that fails at some tile."""

    def __init__(self, fails=None):
        self.fails = fails

    def __call__(self, tile):
        if tile.index == self.fails:
            raise KeyError(tile.index)
        return tile


def test_what_was_done_before_a_failure_counts():
    grid = TileGrid((100, 70), (10, 20))
    task = pickle.loads(pickle.dumps(BatchTask(grid, Doing(fails=7))))
    result = task((3, 12, 7, 1))
    assert [tile.index for tile in result.tiles] == [3, 12]
    assert isinstance(result.error, KeyError)
    whole = task((0, 39))
    assert (whole.error, [tile.index for tile in whole.tiles]) == (None, [0, 39])
    assert [tile.region for tile in whole.tiles] == [grid[0].region, grid[39].region]
    assert whole.process == process_name()
    assert whole.peak_memory_bytes > np.zeros(1 << 20).nbytes


def test_what_is_no_error_of_a_tile_goes_up():
    class Interrupted(BaseException):
        pass

    def interrupted(_):
        raise Interrupted

    with pytest.raises(Interrupted):
        BatchTask(TileGrid((9, 9), (9, 9)), interrupted)((0,))
