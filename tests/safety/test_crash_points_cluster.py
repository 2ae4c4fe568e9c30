"""A real SIGKILL of the client of a cluster at each of its steps, and of a worker at each of its.

After a kill of the client, the same command again gives the pixels of a clean run, here on threads;
after that of a worker, the run itself does.
"""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import cloudpickle
import distributed
import harness
import numpy as np
import pytest
from harness import disk, driver, steps
from harness.driver import KILLED, Killer
from harness.jobs import NAMES, expected, go_on, make_job, read

pytestmark = pytest.mark.usefixtures("small_tiles")

# Workers cannot import what lies in tests.
for module in (sys.modules[__name__], disk, steps, driver, harness.jobs):
    cloudpickle.register_pickle_by_value(module)

CLIENTS = {
    "staging folder made",
    "lock taken",
    "journal frame appended",
    "workers' token written",
    "run's folder made",
    "output opened",
    "array's folder made",
    "end cut to what was stored",
    "parts joined",
    "tables written",
    "header written",
    "metadata written",
    "final name given",
}
"""What the client does alone; the rest is as without a cluster."""

HALVED = {"journal frame appended", "parts joined"}

WORKERS = {
    "out.tif": ["parts' folder made", "part opened", "part's data written"],
    "out.zarr": ["part opened", "part's data written", "shards' folder made", "shard named"],
}
"""What workers do."""


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_is_killed_loses_nothing(name, slide, tmp_path, driver, cluster):
    wanted, address = expected(np.load(slide)), cluster.scheduler.address

    def start(folder, **order):
        folder.mkdir()
        job = make_job(slide, folder / name, cluster=address)
        return driver.start(job, flush_s=0.0, **order)

    clean = start(tmp_path / "clean")
    assert clean.wait() == 0, clean.stderr
    np.testing.assert_array_equal(read(tmp_path / "clean" / name), wanted)
    (said,) = clean.said("steps")
    assert not said["strange"]
    here = {"workers' token written"} | ({"parts joined"} if name == "out.tif" else set())
    assert here <= said["hits"].keys()
    for step, hits in Counter(said["hits"]).items():
        if step not in CLIENTS:
            continue
        for hit in sorted({1, (hits + 1) // 2}):
            for when in ("half",) if step in HALVED else ("after",):
                folder = tmp_path / "work"
                run = start(folder, kill={"step": step, "hit": hit, "when": when})
                where = f"killed {when} hit {hit} of {hits} of {step!r}: {run.stderr}"
                assert run.wait() == KILLED, where
                assert os.path.lexists(folder / name) == (step == "final name given"), where
                if step == "final name given":
                    np.testing.assert_array_equal(read(folder / name), wanted)
                else:
                    ear = go_on(make_job(slide, folder / name), wanted)
                    assert len(run.recorded) <= ear.found <= len(run.recorded) + 1, where
                shutil.rmtree(folder)


class Deadly(distributed.WorkerPlugin):
    """Kills the first worker that comes to a step, once for all of them."""

    name = "deadly"

    def __init__(self, root: Path, step: str, when: str, once: Path) -> None:
        self._root, self._at, self._once = root, (step, 1, when), once

    def setup(self, worker):
        if self._once.exists():
            return
        self._watched = disk.Watched(self._root, Once(*self._at, once=self._once))
        self._watched.__enter__()

    def teardown(self, worker):
        if hasattr(self, "_watched"):
            self._watched.__exit__()


class Once(Killer):
    """As `Killer`, unless another has been it."""

    def __init__(self, *at, once: Path) -> None:
        super().__init__(*at)
        self._once = once

    def die(self) -> None:
        try:
            self._once.touch(exist_ok=False)
        except FileExistsError:
            return
        super().die()


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_that_is_killed_loses_nothing(name, slide, tmp_path, driver, cluster):
    wanted = expected(np.load(slide))
    for step in WORKERS[name]:
        for when in ("half", "after") if "written" in step else ("after",):
            folder = tmp_path / "work"
            folder.mkdir()
            killed = tmp_path / "killed"
            cluster.register_plugin(Deadly(folder, step, when, killed))
            try:
                job = make_job(slide, folder / name, cluster=cluster.scheduler.address)
                run = driver.start(job, watched=False)
                assert run.wait() == 0, run.stderr
            finally:
                cluster.unregister_worker_plugin("deadly")
            assert killed.exists(), f"nobody came to {step!r}"
            np.testing.assert_array_equal(read(folder / name), wanted)
            assert os.listdir(folder) == [name]
            killed.unlink()
            shutil.rmtree(folder)
