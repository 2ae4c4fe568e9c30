"""Workers, a scheduler or a file system that have stopped to answer: no wait is for ever."""

import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

import tileconv
from tileconv.errors import ClusterError
from tileconv.jobs.cluster import watch
from tileconv.jobs.progress import Listener

pytestmark = pytest.mark.usefixtures("small_tiles", "impatient")


@pytest.fixture
def impatient(monkeypatch):
    """Limits as for a cluster that answers at once."""
    monkeypatch.setattr(watch, "LOOK_S", 0.1)
    monkeypatch.setattr("tileconv.jobs.executors._LOOK_S", 0.2)
    monkeypatch.setattr(watch, "SILENT_S", 3.0)
    monkeypatch.setattr(watch, "SILENT_BEATS", 0)
    monkeypatch.setattr("tileconv.jobs.cluster.executor.REPLICATE_S", 5.0)


@pytest.fixture
def slide(tmp_path):
    """30 tiles of a TIFF."""
    path = tmp_path / "in.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (310, 380), np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="deflate")
    return path


@pytest.fixture
def want(slide, tmp_path):
    """What threads make of it."""
    path = tmp_path / "threads.tif"
    job = {"input": {"path": str(slide)}, "kernel": {"weights": [[1.0, 2, 0], [0, -1, 3]]}}
    tileconv.run(job | {"output": {"path": str(path), "tile": 64}})
    return tifffile.imread(path)


class Ear(Listener):
    """Does something once, when some tiles are done."""

    def __init__(self, act, tiles=3):
        self.act = act
        self.tiles = tiles

    def advanced(self, report):
        if self.tiles is not None and report.tiles >= self.tiles:
            self.tiles = None
            self.act()


def halt(pid):
    os.kill(pid, signal.SIGSTOP)


def test_a_worker_that_halts_is_replaced(slide, want, tmp_path, cluster):
    cluster.settle(2)
    pids = list(cluster.client.run(os.getpid).values())
    listener = Ear(lambda: halt(pids[0]))
    with cluster.slow(0.05):
        report = cluster.run(slide, tmp_path / "out.tif", listener=listener)
    assert listener.tiles is None
    assert report.tiles == len(report.plan.grid)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), want)
    # Its nanny has ended it.
    assert not Path(f"/proc/{pids[0]}").exists()


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_a_worker_that_wakes_up_after_the_run_harms_nothing(slide, want, tmp_path, remote, suffix):
    output = tmp_path / f"out.{suffix}"
    with remote(2) as (cluster, _, workers):
        cluster.client.register_plugin(cluster.slowness(0.05))
        listener = Ear(lambda: halt(workers[0].pid))
        report = cluster.run(slide, output, listener=listener)
        assert report.tiles == len(report.plan.grid)
        before = snapshot(tmp_path)
        os.kill(workers[0].pid, signal.SIGCONT)
        assert workers[0].wait(30) is not None
    assert snapshot(tmp_path) == before
    if suffix == "tif":
        assert np.array_equal(tifffile.imread(output), want)


def snapshot(folder):
    """All files and what is in them, but those of dask."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "elsewhere" not in path.parts
    }


def test_the_only_worker_that_halts_ends_the_run(slide, tmp_path, remote, monkeypatch):
    monkeypatch.setattr(watch, "WAIT_S", 3.0)
    with remote() as (cluster, _, workers):
        cluster.client.register_plugin(cluster.slowness(0.05))
        listener = Ear(lambda: halt(workers[0].pid))
        with pytest.raises(ClusterError, match="has had no worker that runs for 3 s; start"):
            cluster.run(slide, tmp_path / "out.tif", listener=listener)
        # The same when it has halted before the run.
        with pytest.raises(ClusterError, match="has had no worker that runs for 3 s; start"):
            cluster.run(slide, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()
    resumed = tileconv.run(job_of(slide, tmp_path / "out.tif"))
    assert resumed.resumed_tiles >= 3


def job_of(source, output):
    return {
        "input": {"path": str(source)},
        "kernel": {"weights": [[1.0, 2, 0], [0, -1, 3]]},
        "output": {"path": str(output), "tile": 64},
    }


def test_a_worker_that_has_halted_before_the_run_is_replaced(slide, want, tmp_path, cluster):
    cluster.settle(2)
    halt(next(iter(cluster.client.run(os.getpid).values())))
    cluster.run(slide, tmp_path / "out.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), want)


def test_a_worker_that_halts_while_all_open_the_input_is_replaced(slide, want, tmp_path, cluster):
    cluster.settle(2)
    pid = next(iter(cluster.client.run(os.getpid).values()))
    listener = Listener()
    listener.started = lambda _: halt(pid)
    cluster.run(slide, tmp_path / "out.tif", listener=listener)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), want)


def test_a_scheduler_that_halts_ends_the_run(slide, tmp_path, remote, monkeypatch):
    monkeypatch.setattr(watch, "ANSWER_S", 2.0)
    with remote() as (cluster, scheduler, _):
        cluster.client.register_plugin(cluster.slowness(0.05))
        listener = Ear(lambda: halt(scheduler.pid))
        started = time.monotonic()
        with pytest.raises(ClusterError, match=r"scheduler at tcp://\S+ does not answer"):
            cluster.run(slide, tmp_path / "out.tif", listener=listener)
        with pytest.raises(ClusterError, match=r"scheduler at tcp://\S+ does not answer"):
            cluster.run(slide, tmp_path / "out.tif")
        assert time.monotonic() - started < 20
        os.kill(scheduler.pid, signal.SIGCONT)


def test_an_address_where_nobody_answers_ends_the_run(slide, tmp_path, monkeypatch):
    """The call is taken, as by a scheduler that has halted, and nothing is ever said."""
    monkeypatch.setattr("tileconv.jobs.cluster.connect.CONNECT_S", 1.0)
    waited = []
    listener = Listener()
    listener.waiting = waited.append
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        job = job_of(slide, tmp_path / "out.tif") | {"run": {"cluster": address}}
        with pytest.raises(ClusterError, match=rf"no scheduler answers at {address}: not in 1 s"):
            tileconv.run(job, listener=listener)
    assert waited == [f"the scheduler at {address}"]
    assert os.listdir(tmp_path) == ["in.tif"]


def test_workers_that_answer_and_do_nothing_end_the_run(slide, tmp_path, cluster, monkeypatch):
    cluster.settle(2)
    monkeypatch.setattr("tileconv.jobs.cluster.backend.STUCK_S", 2.0)
    monkeypatch.setattr("tileconv.jobs.cluster.backend.STUCK_TIMES", 0)
    gate = tmp_path / "gate"
    says = r"answer and have ended no task for 2 s; see their logs and whether their file system"
    try:
        with cluster.slow(0.0, gate=str(gate)), pytest.raises(ClusterError, match=says):
            cluster.run(slide, tmp_path / "out.tif")
    finally:
        gate.touch()


def test_workers_that_do_not_get_ready_end_the_run(slide, tmp_path, cluster, monkeypatch):
    """Reading what tells them the folder never ends: a pipe that nobody writes to."""
    cluster.settle(2)
    monkeypatch.setattr(watch, "STUCK_S", 1.0)
    monkeypatch.setattr("tileconv.jobs.cluster.backend.TOKEN_NAME", "workers-look-for-this-not")
    pipe, opened = tmp_path / ".out.tif.tileconv" / "workers-look-for-this", []

    def hang(_):
        os.mkfifo(pipe)
        opened.append(os.open(pipe, os.O_RDWR))

    listener = Listener()
    listener.started = hang
    says = "were to get ready and have not in 1 s; see their logs and whether their file system"
    try:
        with pytest.raises(ClusterError, match=says):
            cluster.run(slide, tmp_path / "out.tif", listener=listener)
    finally:
        for handle in opened:
            os.close(handle)
