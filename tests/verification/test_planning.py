"""Fewer pixels of each tile where all of them would take too long, and a cap that is kept."""

import json

import numpy as np
import pytest

import tileconv
from tileconv.core.grid import Region, Tile
from tileconv.errors import MemoryCapError, VerificationError
from tileconv.verification import planning
from tileconv.verification.planning import patches, pieces
from tileconv.verification.result import verification_table

RNG = np.random.default_rng(0)
PIXELS = RNG.random((300, 420))
WEIGHTS = RNG.normal(size=(9, 11))


def test_pieces_and_patches_cover_each_pixel_at_most_once():
    tile = Tile(3, 0, Region((64, 128), (64 + 500, 128 + 333)))
    for found in (
        list(pieces(tile.region, 100)),
        patches(tile, 32, 1.0, 0),
        patches(tile, 32, 0.2, 0),
    ):
        seen = np.zeros(tile.region.shape, int)
        for piece in found:
            seen[piece.within(tile.region).slices] += 1
        assert seen.max() == 1
        assert (seen == 0).any() == (len(found) < 100 and len(found) != 20)


def test_patches_are_spread_with_corners_and_edges_first():
    tile = Tile(3, 0, Region((0, 0), (512, 512)))
    few = patches(tile, 32, 0.0, 0)
    assert len(few) == planning.LEAST_PATCHES
    starts = {piece.start for piece in few}
    assert {(0, 0), (0, 480), (480, 0), (480, 480)} <= starts
    assert any(0 < y < 480 and 0 < x < 480 for y, x in starts)
    assert any((y in (0, 480)) != (x in (0, 480)) for y, x in starts)
    more = patches(tile, 32, 0.25, 0)
    assert len(more) == 64
    assert more == patches(tile, 32, 0.25, 0) != patches(tile, 32, 0.25, 1)
    assert more != patches(Tile(4, 0, tile.region), 32, 0.25, 0)


def test_where_it_would_take_too_long_fewer_pixels_of_each_tile_are_checked(
    job_of, changed, monkeypatch
):
    job = job_of(PIXELS, WEIGHTS, output={"tile": 160})
    tileconv.run(job)
    whole = tileconv.verify(job, samples=100)
    assert (whole.share, whole.pixels) == (1, whole.pixels_total)
    monkeypatch.setattr(planning, "SHORT_NS", 2e7)
    found = tileconv.verify(job, samples=100)
    assert found.tiles == found.tiles_total == 6
    assert 0 < found.share < 1
    assert 6 * planning.LEAST_PATCHES * 32**2 / 2 < found.pixels < found.pixels_total / 2
    assert f"{100 * found.share:.3g} % of their pixels" in verification_table(found)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["share_of_each_tile"] == found.share
    assert told["pixels"] == found.pixels
    assert tileconv.verify(job, samples=100).result == found.result
    # Corners are always among them; and everything is everything.
    every = tileconv.verify(job, everything=True)
    assert (every.share, every.pixels) == (1, every.pixels_total)
    before = changed((299, 419), np.float64(7))
    with pytest.raises(VerificationError):
        tileconv.verify(job, samples=100)
    changed((299, 419), before)
    changed((75, 201), np.float64(7))
    with pytest.raises(VerificationError):
        tileconv.verify(job, everything=True)


def test_a_short_check_takes_all_pixels_and_a_long_run_may_be_checked_for_long(job_of, monkeypatch):
    job = job_of(PIXELS, WEIGHTS)
    tileconv.run(job)
    monkeypatch.setattr(planning, "SHORT_NS", 0)
    found = tileconv.verify(job | {"output": job["output"] | {"tile": 32}}, samples=100)
    assert found.share == 1  # A tile of one square.
    monkeypatch.setattr(planning, "run_ns", lambda _: 1e12)
    assert tileconv.verify(job, samples=100).share == 1


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_smaller_pieces_where_the_cap_is_tight(job_of, suffix, monkeypatch):
    # What other tests have left in memory would count.
    monkeypatch.setattr("tileconv.verification.verify.resident_bytes", lambda: 0)
    job = job_of(PIXELS, WEIGHTS, suffix=suffix)
    tileconv.run(job)
    with pytest.raises(MemoryCapError) as error:
        tileconv.verify(job | {"run": {"memory": "30MiB", "workers": 2}})
    least = int(str(error.value).split("the smallest that can is ")[1].split()[0])
    found = tileconv.verify(job | {"run": {"memory": f"{least}MiB", "workers": 2}})
    assert found.passed
    assert found.planned_memory_bytes <= found.cap_bytes == least << 20
