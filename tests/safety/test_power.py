"""With ``--durability power``: the power fails, and what the record says is there, is there.

Nothing but what was synced survives; see `harness.power`.
"""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from harness.disk import Watched
from harness.driver import KILLED
from harness.jobs import NAMES, expected, go_on, make_job, read
from harness.power import Power, journal_moments

import tileconv
import tileconv.jobs.run as run_module
from tileconv.core.grid import Region
from tileconv.jobs import journal
from tileconv.jobs.journal import has_tiles
from tileconv.stores.formats import open_sink
from tileconv.stores.zarr import writer as zarr_writer

pytestmark = pytest.mark.usefixtures("small_tiles", "no_syncs")


@pytest.fixture
def no_syncs(monkeypatch):
    """The disk is watched; it need not be slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    monkeypatch.setattr("tileconv.jobs.journal.FLUSH_S", 0.0)


@pytest.fixture
def parts(monkeypatch):
    """Tiles are written by a writer that was pickled, as in a worker of a cluster."""
    real = run_module.open_sink

    def opened(*args, **kwargs):
        sink = real(*args, **kwargs)
        sink.writer = pickle.loads(pickle.dumps(sink.writer))
        return sink

    monkeypatch.setattr(run_module, "open_sink", opened)


def tiles_in(folder) -> int:
    """Tiles that the journals in a folder name."""
    frames = [f for path in folder.glob(".*/journal") for f in journal.frames_in(path)]
    return sum(len(frame.tiles) for frame in frames)


def check(durable, place, job, wanted, old=None):
    """Go on from there; whether the output was there already."""
    durable.build(place)
    output = place / Path(job["output"]["path"]).name
    job = {**job, "output": {**job["output"], "path": str(output)}}
    there = os.path.lexists(output)
    if there and (old is None or np.array_equal(read(output), wanted)):
        np.testing.assert_array_equal(read(output), wanted)
        return True
    assert old is None or np.array_equal(read(output), old), "neither the old nor the new"
    recorded = tiles_in(place)
    ear = go_on(job, wanted)
    assert ear.found == recorded
    assert not [text for text in ear.warnings if "done again" in text]
    return False


def fail_everywhere(power, job, wanted, tmp_path, old=None):
    """The power fails at every sync of the journal, at some others, and at the end."""
    moments = list(journal_moments(power.moments))
    assert len(moments) > 20
    others = [durable for _, durable in power.moments][::7]
    for number, durable in enumerate(moments + others):
        place = tmp_path / str(number)
        check(durable, place, job, wanted, old)
        shutil.rmtree(place)
    assert check(power.now, tmp_path / "end", job, wanted, old), "the output is not durable"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_there(name, slide, tmp_path):
    work, wanted = tmp_path / "work", expected(np.load(slide))
    work.mkdir()
    job = make_job(slide, work / name, durability="power")
    power = Power(work)
    with Watched(work, power):
        tileconv.run(job)
    fail_everywhere(power, job, wanted, tmp_path)


def test_a_shard_is_durable_whoever_makes_its_folder(slide, tmp_path, monkeypatch):
    """One thread has made the folder, and not yet synced its name, when another writes there."""
    work = tmp_path / "work"
    work.mkdir()
    layout = tileconv.plan(make_job(slide, work / "out.zarr")).work.layout
    block, real, left = np.ones((32, 32, 1), np.float32), zarr_writer.make_folder, []

    def made(folder, **how):
        if folder.name == "0" and not left:
            folder.mkdir(parents=True)
            sink.writer.write(0, Region((0, 32), (32, 64)), block)
            left.append(power.now)
        real(folder, **how)

    monkeypatch.setattr(zarr_writer, "make_folder", made)
    power = Power(work)
    with Watched(work, power):
        sink = open_sink(layout, work / "array", durable=True)
        sink.writer.write(0, Region((0, 0), (32, 32)), block)
    left[0].build(tmp_path / "left")
    assert (tmp_path / "left" / "array" / "c" / "0" / "1").stat().st_size


def test_what_workers_have_recorded_is_there(slide, tmp_path, parts):
    work, wanted = tmp_path / "work", expected(np.load(slide))
    work.mkdir()
    job = make_job(slide, work / "out.tif", durability="power")
    power = Power(work)
    with Watched(work, power):
        tileconv.run(job)
    fail_everywhere(power, job, wanted, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_old_output_or_the_new_one_is_there(name, slide, tmp_path):
    work, pixels = tmp_path / "work", np.load(slide)
    work.mkdir()
    tileconv.run(make_job(slide, work / name, weights=[[2.0]]))
    job = make_job(slide, work / name, durability="power", overwrite=True)
    power = Power(work)
    with Watched(work, power):
        tileconv.run(job)
    fail_everywhere(power, job, expected(pixels), tmp_path, old=2 * pixels)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_without_it_has_begun_is_durable_in_the_end(name, slide, tmp_path, driver):
    """Nothing of what it has stored was synced; the run that goes on answers for all of it."""
    work, wanted = tmp_path / "work", expected(np.load(slide))
    work.mkdir()
    job = make_job(slide, work / name)
    kill = {"step": "journal frame appended", "hit": 12, "when": "half"}
    assert driver.start(job, kill=kill, flush_s=0.0).wait() == KILLED
    assert has_tiles(work / f".{name}.tileconv")
    job = make_job(slide, work / name, durability="power")
    power = Power(work, safe=False)
    with Watched(work, power):
        tileconv.run(job)
    assert check(power.now, tmp_path / "end", job, wanted), "the output is not durable"
