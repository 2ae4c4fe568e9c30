"""A small dask cluster on this machine, and workers that can be told to be slow."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import dask
import distributed
import numpy as np
import pytest

import tileconv
from tileconv.jobs.tile_task import TileTask

# Workers cannot import what lies in tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Slow(distributed.WorkerPlugin):
    """Makes every tile of every worker, also of those to come, take some time.

    One may kill, or all; those beyond the first batch may wait for a file to be there. The
    slowness may end when another is.
    """

    name = "slow"

    def __init__(self, seconds, deadly=None, gate=None, until=None):
        self.seconds = seconds
        self.until = until
        self.deadly = deadly
        self.gate = gate

    def setup(self, worker):
        self.usual = TileTask.__call__
        TileTask.__call__ = slowed(self.usual, self)

    def teardown(self, worker):
        TileTask.__call__ = self.usual


def slowed(usual, how):
    def call(task, tile):
        if how.deadly in (tile.index, "all"):
            os.kill(os.getpid(), signal.SIGKILL)
        if not (how.until and os.path.exists(how.until)):  # noqa: PTH110
            time.sleep(how.seconds)
        deadline = time.monotonic() + 60
        while how.gate and tile.index > 16 and not os.path.exists(how.gate):  # noqa: PTH110
            assert time.monotonic() < deadline, "the gate stays shut"
            time.sleep(0.02)
        return usual(task, tile)

    return call


class Cluster:
    """What the tests do with a client: run small jobs, within a time."""

    def __init__(self, client):
        self.client = client

    def run(self, source, path, weights=((1.0, 2, 0), (0, -1, 3)), *, seconds=60, **options):
        """A job in tiles of 64 x 64, where nothing else is said."""
        listener = options.pop("listener", None)
        job = {
            "input": source if isinstance(source, dict) else {"path": str(source)},
            "kernel": {"weights": np.asarray(weights).tolist()},
            "convolution": options.get("convolution", {}),
            "output": {"path": str(path), "tile": 64} | options.get("output", {}),
            "run": {"memory": "400MiB"} | options.get("run", {}),
        }
        return within(seconds, lambda: tileconv.run(job, client=self.client, listener=listener))

    slowness = Slow

    def settle(self, workers):
        """Wait for those that come, and for those that a test before has left to be gone.

        A local cluster gives up one that dies while it starts, and starts it again when told.
        """
        deadline = time.monotonic() + 60
        while len(self.client.nthreads()) != workers:
            assert time.monotonic() < deadline
            self.client.cluster.scale(workers)
            time.sleep(0.05)

    @contextlib.contextmanager
    def slow(self, seconds, deadly=None, gate=None, until=None):
        self.client.register_plugin(Slow(seconds, deadly, gate, until))
        try:
            yield
        finally:
            self.client.unregister_worker_plugin("slow")


def within(seconds, call):
    """The result of a call, or its error; a test that would hang for ever fails instead."""
    outcome = []

    def work():
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"nothing has come of it in {seconds} s"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def local_cluster(workers, **options):
    with (
        # Else it gives up a worker that is not there just when one of its deaths is 15 s ago.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            **options,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield Cluster(client)


def command(folder, name, *words):
    """A command of dask, as on a machine of its own; what it says is not wanted."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", f"distributed.cli.{name}", *map(str, words)),
            *("--host", "127.0.0.1", "--no-dashboard"),
        ],
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(tileconv.__file__).parents[1])},
    )


@contextlib.contextmanager
def remote_cluster(folder, workers=1):
    """Scheduler and workers as commands in another folder, as on machines of their own.

    Gives the cluster, the scheduler's process and those of the workers.
    """
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    place = elsewhere / "scheduler.json"
    started = [command(elsewhere, "dask_scheduler", "--port", 0, "--scheduler-file", place)]
    started += [
        command(
            *(elsewhere, "dask_worker", "--scheduler-file", place, "--nthreads", 1, "--no-nanny"),
            *("--memory-limit", "2GiB"),
        )
        for _ in range(workers)
    ]
    try:
        with distributed.Client(
            scheduler_file=str(place), set_as_default=False, timeout=30
        ) as client:
            client.wait_for_workers(workers, timeout=60)
            yield Cluster(client), started[0], started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait(30)


@pytest.fixture
def slowness():
    """Makes a plugin for clusters that are not of this module."""
    return Slow


@pytest.fixture
def in_time():
    """As `within`."""
    return within


@pytest.fixture
def remote(tmp_path):
    """Makes a `remote_cluster` beside the test's files."""
    return lambda workers=1: remote_cluster(tmp_path, workers)


@pytest.fixture(scope="module")
def cluster():
    """Two processes of one thread."""
    with local_cluster(2, memory_limit="2GiB") as started:
        yield started


@pytest.fixture(scope="module")
def elastic():
    """No worker yet."""
    with local_cluster(0, memory_limit="2GiB") as started:
        yield started


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of one write unit, as the planner never would for rasters as small as these."""
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 1)
    monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 1)
