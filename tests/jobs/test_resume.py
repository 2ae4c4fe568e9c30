"""A run that ends early is gone on with: fewer tiles, the same pixels."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from scipy.ndimage import convolve

import tileconv
import tileconv.jobs.run as run_module
from tileconv.core.grid import Region, TileGrid
from tileconv.errors import MemoryCapError, OutputExistsError, StorageError
from tileconv.jobs.journal import has_tiles
from tileconv.jobs.plan import plan_on
from tileconv.jobs.progress import Listener

KERNEL = [[1.0, 2.0, 0.5, -1.0], [0.25, 3.0, -2.0, 1.0]]
READERS = {
    "out.tif": tifffile.imread,
    "out.zarr": lambda path: np.asarray(zarr.open_array(path, mode="r")[...]),
}


class Stop(Exception):
    pass


class StopAfter(Listener):
    """Stops a run after some tiles, and remembers what was done before it."""

    def __init__(self, tiles: int | None = None) -> None:
        self.tiles = tiles
        self.found = 0
        self.warnings = []

    def warned(self, text):
        self.warnings.append(text)

    def resumed(self, report):
        self.found = report.resumed_tiles

    def advanced(self, report):
        if self.tiles is not None and report.tiles >= self.tiles:
            raise Stop


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (700, 900)).astype(np.float32)


@pytest.fixture
def job(tmp_path, pixels):
    np.save(tmp_path / "in.npy", pixels)
    return {
        "input": {"path": str(tmp_path / "in.npy")},
        "kernel": {"weights": KERNEL},
        "convolution": {"boundary": "nearest"},
        "output": {"path": str(tmp_path / "out.tif"), "tile": 64},
        "run": {"workers": 2, "memory": "4GiB"},
    }


def expected(pixels):
    return convolve(pixels.astype(float), np.array(KERNEL), mode="nearest", origin=-1)


def small_tiles(monkeypatch):
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 128 * 128)
    monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 4 * 128 * 128)


@pytest.mark.parametrize("name", READERS)
def test_a_run_that_failed_goes_on(tmp_path, job, pixels, name, monkeypatch):
    job["output"] = {"path": str(tmp_path / name), "tile": 64}
    small_tiles(monkeypatch)
    with pytest.raises(Stop):
        tileconv.run(job, listener=StopAfter(20))
    assert not (tmp_path / name).exists()
    ear = StopAfter()
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 1 << 24)
    job["run"] = {"workers": 1, "memory": "3GiB"}
    report = tileconv.run(job, listener=ear)
    assert 20 <= ear.found < report.tiles == len(report.plan.grid)
    assert report.pixels == pixels.size
    np.testing.assert_allclose(READERS[name](tmp_path / name), expected(pixels), rtol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", name]


def test_a_chain_of_ends(tmp_path, job, pixels, monkeypatch):
    small_tiles(monkeypatch)
    for tiles in (3, 8, 9, 30):
        ear = StopAfter(tiles)
        with pytest.raises(Stop):
            tileconv.run(job, listener=ear)
    ear = StopAfter()
    tileconv.run(job, listener=ear)
    assert ear.found >= 30
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), expected(pixels), rtol=1e-5)


@pytest.mark.parametrize(
    ("table", "key", "value", "named"),
    [
        ("kernel", "weights", [[1.0, 2.0]], "kernel"),
        ("convolution", "boundary", "wrap", "boundary"),
        ("convolution", "operation", "correlate", "kernel"),
        ("convolution", "mode", "full", "mode"),
        ("convolution", "method", "reference", "method"),
        ("output", "dtype", "uint8", "dtype"),
        ("output", "compression", "none", "format"),
        ("output", "tile", 128, "format"),
    ],
)
def test_other_settings_do_not_go_on(job, monkeypatch, table, key, value, named):
    small_tiles(monkeypatch)
    with pytest.raises(Stop):
        tileconv.run(job, listener=StopAfter(5))
    other = {**job, table: {**job.get(table, {}), key: value}}
    with pytest.raises(OutputExistsError, match=rf"[(; ]{named}: .*--restart") as caught:
        tileconv.run(other)
    assert caught.value.exit_code == 4
    ear = StopAfter()
    tileconv.run(other, restart=True, listener=ear)
    assert ear.found == 0


def test_another_input_of_the_same_shape_does_not_go_on(tmp_path, job, pixels, monkeypatch):
    small_tiles(monkeypatch)
    with pytest.raises(Stop):
        tileconv.run(job, listener=StopAfter(5))
    time.sleep(0.01)
    np.save(tmp_path / "in.npy", pixels[::-1])
    with pytest.raises(OutputExistsError, match="input: "):
        tileconv.run(job)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("damage", ["gone", "short", "zeroed"])
def test_staged_tiles_that_are_gone_are_done_again(
    tmp_path, job, pixels, name, damage, monkeypatch
):
    job["output"] = {"path": str(tmp_path / name), "tile": 64}
    small_tiles(monkeypatch)
    with pytest.raises(Stop):
        tileconv.run(job, listener=StopAfter(12))
    (staged,) = (tmp_path / f".{name}.tileconv").glob("*/result")
    files = [staged] if staged.is_file() else sorted(p for p in staged.rglob("*") if p.is_file())
    size = files[0].stat().st_size
    if damage == "gone":
        files[0].unlink()
    elif damage == "short":
        os.truncate(files[0], size // 3)
    else:
        with files[0].open("r+b") as file:
            file.seek(size // 2)
            file.write(bytes(60))
    ear = StopAfter()
    report = tileconv.run(job, listener=ear)
    assert re.search(r"\d+ tiles in \S+ are not as the run before has stored", ear.warnings[0])
    assert report.resumed_tiles < max(ear.found, 12)
    assert report.tiles == len(report.plan.grid)
    np.testing.assert_allclose(READERS[name](tmp_path / name), expected(pixels), rtol=1e-5)


def test_staged_tiles_that_do_not_fit_the_cap_are_told(tmp_path, job):
    np.save(tmp_path / "in.npy", np.zeros((6000, 6000), np.float32))
    plan = tileconv.plan({**job, "run": {"workers": 1, "memory": "5GiB"}})
    large = TileGrid((6000, 6000), (6000, 6000))
    with pytest.raises(MemoryCapError, match=r"unfinished run has tiles of .*--restart"):
        plan_on(replace(plan, cap_bytes=plan.memory.baseline_bytes + 4 * 6000 * 6000), large)
    roomy = plan_on(plan, large)
    assert roomy.grid == large
    assert roomy.memory.parts["output blocks"] == 4 * 6000 * 6000


def unremoved(monkeypatch):
    """As if the process were killed between the commit and the removal of what was staged."""
    monkeypatch.setattr("tileconv.jobs.staging._remove", lambda _: None)


def killed_over_its_end(job, monkeypatch):
    with monkeypatch.context() as patched:
        unremoved(patched)
        tileconv.run(job)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_was_killed_over_its_end_is_done(
    tmp_path, job, pixels, name, overwrite, monkeypatch
):
    """What is staged then may be the old output, with a record that says all is done."""
    job["output"] = {"path": str(tmp_path / name), "tile": 64, "compression": "none"}
    if overwrite:
        tileconv.run({**job, "kernel": {"weights": [[2.0]]}})
        job["output"]["overwrite"] = True
    killed_over_its_end(job, monkeypatch)
    assert (tmp_path / f".{name}.tileconv").exists()
    ear = StopAfter(0)
    report = tileconv.run(job, listener=ear)
    assert ear.found == report.tiles == len(report.plan.grid)
    np.testing.assert_allclose(READERS[name](tmp_path / name), expected(pixels), rtol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", name]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("how", ["other", "replaced", "restarted"])
def test_another_run_does_not_take_it_for_its_own(tmp_path, job, pixels, name, how, monkeypatch):
    job["output"] = {"path": str(tmp_path / name), "tile": 64, "compression": "none"}
    killed_over_its_end(job, monkeypatch)
    other = {**job, "convolution": {"boundary": "wrap"}}
    if how == "replaced":
        other["output"] = {**job["output"], "overwrite": True}
        ear = StopAfter()
        tileconv.run(other, listener=ear)
        assert ear.found == 0
        right = convolve(pixels.astype(float), np.array(KERNEL), mode="wrap", origin=-1)
    else:
        with pytest.raises(OutputExistsError, match="exists"):
            tileconv.run(other if how == "other" else job, restart=how == "restarted")
        right = expected(pixels)
    np.testing.assert_allclose(READERS[name](tmp_path / name), right, rtol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", name]


@pytest.mark.parametrize("name", READERS)
def test_a_kill_before_the_commit_loses_nothing(tmp_path, job, pixels, name, monkeypatch):
    job["output"] = {"path": str(tmp_path / name), "tile": 64}

    def killed(*_):
        raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr("tileconv.jobs.staging.rename_if_free", killed)
        tileconv.run(job)
    ear = StopAfter()
    report = tileconv.run(job, listener=ear)
    assert ear.found == report.tiles
    np.testing.assert_allclose(READERS[name](tmp_path / name), expected(pixels), rtol=1e-5)


@pytest.mark.parametrize("name", READERS)
def test_who_works_on_for_a_run_that_was_dropped_spoils_nothing(
    tmp_path, job, pixels, name, monkeypatch
):
    """A worker whose client was killed, and that has not heard of it."""
    job["output"] = {"path": str(tmp_path / name), "tile": 64, "compression": "none"}
    small_tiles(monkeypatch)
    orphans = []
    real = run_module.open_sink

    def opened(*args, **kwargs):
        sink = real(*args, **kwargs)
        orphans.append(pickle.dumps(sink.writer))
        return sink

    monkeypatch.setattr(run_module, "open_sink", opened)
    with pytest.raises(Stop):
        tileconv.run({**job, "kernel": {"weights": [[5.0]]}}, listener=StopAfter(5))
    orphan = pickle.loads(orphans[0])
    unit = orphan.layout.unit

    class Late(Listener):
        def advanced(self, report):
            if report.tiles == len(report.plan.grid):
                with pytest.raises(StorageError):
                    orphan.write(0, Region((0, 0), unit), np.zeros((*unit, 1), np.float32))

    tileconv.run(job, restart=True, listener=Late())
    np.testing.assert_allclose(READERS[name](tmp_path / name), expected(pixels), rtol=1e-5)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, job):
    """Under the very name that a staging folder would have."""
    (tmp_path / ".out.tif.tileconv").mkdir()
    (tmp_path / ".out.tif.tileconv" / "precious").write_text("mine")
    with pytest.raises(StorageError, match="'precious', which is not tileconv's"):
        tileconv.run(job)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("mine")
    (tmp_path / ".other.tif.tileconv").symlink_to(tmp_path / "elsewhere")
    job["output"] = {"path": str(tmp_path / "other.tif")}
    with pytest.raises(StorageError):
        tileconv.run(job)
    assert len(list(tmp_path.rglob("precious"))) == 2


DIES = """
import json, os, signal, sys
import tileconv
import tileconv.jobs.run as run_module
from tileconv.jobs import journal, plan
from tileconv.jobs.plan import plan_on
from tileconv.jobs.progress import Listener
from tileconv.stores.zarr import layout

journal.FLUSH_S = 0.0
plan.MAX_TILE_PIXELS = layout.SHARD_BYTES_MAX = 128 * 128


class Dies(Listener):
    def advanced(self, report):
        if report.tiles == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)


tileconv.run(json.loads(sys.argv[1]), listener=Dies())
"""


@pytest.mark.parametrize("name", READERS)
def test_a_run_that_was_killed_goes_on(tmp_path, job, pixels, name, monkeypatch):
    """SIGKILL of a real process, twice; all it had recorded is kept."""
    monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 128 * 128)
    job["output"] = {"path": str(tmp_path / name), "tile": 64}
    for tiles in (9, 17):
        command = [sys.executable, "-c", DIES, json.dumps(job), str(tiles)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert has_tiles(tmp_path / f".{name}.tileconv")
        assert not (tmp_path / name).exists()
    ear = StopAfter()
    tileconv.run(job, listener=ear)
    assert ear.found == 17
    np.testing.assert_allclose(READERS[name](tmp_path / name), expected(pixels), rtol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", name]
