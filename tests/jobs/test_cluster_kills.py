"""Workers killed all the time, wherever they are: the run ends well, with the same pixels."""

import os
import random
import signal
import threading

import numpy as np
import pytest
import tifffile
import zarr

import tileconv
from tileconv.jobs.cluster.backend import ClusterBackend

pytestmark = pytest.mark.usefixtures("small_tiles")


class Killer(threading.Thread):
    """Kills a worker of a local cluster now and then, whatever it does just then."""

    def __init__(self, cluster, kills, every_s, done):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.kills = kills
        self.every_s = every_s
        self.done = done
        self.killed = []
        self.stopped = threading.Event()

    def run(self):
        choose = random.Random(1)
        while len(self.killed) < self.kills and not self.stopped.wait(self.every_s):
            nannies = self.cluster.client.cluster.workers.values()
            pids = [nanny.pid for nanny in nannies if nanny.pid]
            if pids:
                self.killed.append(choose.choice(pids))
                os.kill(self.killed[-1], signal.SIGKILL)
        self.done.touch()


@pytest.mark.parametrize(
    ("kills", "suffix"),
    [
        (20, "tif"),
        *(pytest.param(120, suffix, marks=pytest.mark.slow) for suffix in ("tif", "zarr")),
    ],
)
def test_workers_that_are_killed_cost_only_time(tmp_path, cluster, monkeypatch, kills, suffix):
    cluster.client.wait_for_workers(2, timeout=60)
    # A task is short beside the time between two deaths, as one of 2 s is beside minutes.
    monkeypatch.setattr(ClusterBackend, "batch_s", 0.3)
    source, output = tmp_path / "in.tif", tmp_path / f"out.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (2020, 3200), np.uint8)
    tifffile.imwrite(source, pixels, tile=(64, 64))
    done = tmp_path / "done"
    killer = Killer(cluster, kills, 1.5, done)
    killer.start()
    try:
        with cluster.slow(0.1, until=str(done)):
            report = cluster.run(source, output, seconds=120 + 4 * kills)
    finally:
        killer.stopped.set()
        killer.join(30)
    assert len(killer.killed) == kills
    assert report.tiles == len(report.plan.grid) == 1600
    assert len(report.peaks) > kills / 4
    threads = tmp_path / f"threads.{suffix}"
    tileconv.run(
        {
            "input": {"path": str(source)},
            "kernel": {"weights": [[1.0, 2, 0], [0, -1, 3]]},
            "output": {"path": str(threads), "tile": 64},
        }
    )
    if suffix == "tif":
        assert np.array_equal(tifffile.imread(output), tifffile.imread(threads))
    else:
        first, second = (zarr.open_array(path, mode="r")[...] for path in (output, threads))
        assert np.array_equal(first, second)
