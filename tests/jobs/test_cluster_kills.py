"""Workers killed all the time, wherever they are: the run ends well, with the same pixels."""

import os
import random
import signal
import threading
import time

import distributed
import numpy as np
import pytest
import tifffile
import zarr

import tileconv
from tileconv.jobs.cluster.backend import ClusterBackend
from tileconv.jobs.progress import Listener

pytestmark = pytest.mark.usefixtures("small_tiles")


class Killer(threading.Thread):
    """Kills workers of a local cluster, each of which has had `life_s` to work."""

    def __init__(self, cluster, kills, life_s, done):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.kills = kills
        self.life_s = life_s
        self.done = done
        self.killed = []
        self.stopped = threading.Event()

    def run(self):
        choose, born = random.Random(1), {}
        while len(self.killed) < self.kills and not self.stopped.wait(0.5):
            known = self.cluster.scheduler.workers
            nannies = list(self.cluster.workers.values())
            pids = [one.pid for one in nannies if one.worker_address in known and one.pid]
            now = time.monotonic()
            born = {pid: born.get(pid, now) for pid in pids}
            old = [pid for pid in pids if now - born[pid] > self.life_s]
            if old:
                self.killed.append(choose.choice(old))
                os.kill(self.killed[-1], signal.SIGKILL)
        self.done.touch()


@pytest.mark.parametrize(
    ("kills", "life_s", "suffix"),
    [
        (20, 3, "tif"),
        pytest.param(120, 5, "tif", marks=pytest.mark.soak),
        pytest.param(120, 5, "zarr", marks=pytest.mark.soak),
    ],
)
def test_workers_that_are_killed_cost_only_time(
    tmp_path, monkeypatch, slowness, in_time, kills, life_s, suffix
):
    # A task is short beside the time between two deaths, as one of 2 s is beside minutes.
    monkeypatch.setattr(ClusterBackend, "batch_s", 0.3)
    source, output = tmp_path / "in.tif", tmp_path / f"out.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (2020, 3200), np.uint8)
    tifffile.imwrite(source, pixels, tile=(64, 64))
    done, killers = tmp_path / "done", []
    usual = distributed.LocalCluster

    def slow_and_deadly(**options):
        cluster = usual(**options)
        with distributed.Client(cluster, set_as_default=False) as client:
            client.register_plugin(slowness(0.1, until=str(done)))
        killers.append(Killer(cluster, kills, life_s, done))
        return cluster

    monkeypatch.setattr(distributed, "LocalCluster", slow_and_deadly)
    listener = Listener()
    listener.started = lambda _: killers[0].start()
    job = {
        "input": {"path": str(source)},
        "kernel": {"weights": [[1.0, 2, 0], [0, -1, 3]]},
        "output": {"path": str(output), "tile": 64},
    }
    run = {"run": {"memory": "400MiB", "cluster": "local:3", "workers": 1}}
    try:
        report = in_time(120 + 8 * kills, lambda: tileconv.run(job | run, listener=listener))
    finally:
        (killer,) = killers
        killer.stopped.set()
        killer.join(30)
    assert len(killer.killed) == kills
    assert report.tiles == len(report.plan.grid) == 1600
    assert len(report.peaks) > kills / 4
    threads = tmp_path / f"threads.{suffix}"
    tileconv.run(job | {"output": {"path": str(threads), "tile": 64}})
    if suffix == "tif":
        assert np.array_equal(tifffile.imread(output), tifffile.imread(threads))
    else:
        first, second = (zarr.open_array(path, mode="r")[...] for path in (output, threads))
        assert np.array_equal(first, second)
