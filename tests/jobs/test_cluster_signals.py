"""Ctrl-C and SIGTERM, with a cluster at work: one line, in time, and nobody is left behind."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

import tileconv

JOB = {
    "input": {"sample": "slide", "shape": "6000x6000", "dtype": "uint8"},
    "kernel": {"name": "gaussian", "sigma": 9.0},
}
SPOKEN = re.compile(
    r"dashboard: http|6000 x 6000 float32|waiting for the scheduler|"
    r"\S+/out.zarr: 12 tiles in|2 proc"
)


def config(folder, where):
    path = folder / "job.toml"
    path.write_text(
        "[input]\nsample = 'slide'\nshape = '6000x6000'\ndtype = 'uint8'\n"
        "[kernel]\nname = 'gaussian'\nsigma = 9.0\n"
        f"[output]\npath = 'out.zarr'\n[run]\ncluster = '{where}'\nmemory = '400MiB'\n"
    )
    return path


@contextlib.contextmanager
def started(folder, where):
    """A run in a session of its own, as a shell starts it."""
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tileconv", "run", str(config(folder, where))],
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(Path(tileconv.__file__).parents[1])},
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)


def reached(stage, folder, process):
    """Whether a run is where it is to be stopped."""
    if stage == "start":
        # The tracker of what processes share, and a worker.
        return len(psutil.Process(process.pid).children()) >= 2
    if stage == "tiles":
        return "tiles of" in (folder / "said").read_text()
    return (folder / "out.zarr").exists()


def members(session):
    """Processes of a session that are alive."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def ended(process, folder, *codes):
    """A run that was told to stop has: with one line of its own, leaving nobody."""
    code = process.wait(10)
    assert code in codes
    *before, last = (folder / "said").read_text().splitlines()
    if code:
        assert last.startswith(f"tileconv: error[{code}]: stopped by SIG")
        assert all(SPOKEN.match(line) for line in before), before
    # What they share with the run ends a moment after it.
    deadline = time.monotonic() + 5
    while members(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("stage", ["start", "tiles", "end"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_on_a_local_cluster_stops_at_once(tmp_path, number, stage):
    with started(tmp_path, "local:2") as process:
        until(lambda: reached(stage, tmp_path, process), process)
        # A terminal sends Ctrl-C to all of them.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        # An output that has its name already may be a success.
        ended(process, tmp_path, 128 + number, *([0] if stage == "end" else []))
    if stage == "tiles":
        output = {"path": str(tmp_path / "out.zarr")}
        tileconv.run(JOB | {"output": output})
        tileconv.run(JOB | {"output": {"path": str(tmp_path / "clean.zarr")}})
        first, second = (zarr.open_array(tmp_path / name) for name in ("out.zarr", "clean.zarr"))
        assert np.array_equal(first[...], second[...])


def test_a_worker_that_has_halted_does_not_keep_a_run_from_ending(tmp_path):
    with started(tmp_path, "local:2") as process:
        until(lambda: reached("tiles", tmp_path, process), process)
        workers = [
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        workers[0].send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        ended(process, tmp_path, 143)


def test_a_run_on_a_cluster_elsewhere_stops_at_once(tmp_path, remote):
    with remote() as (cluster, _, workers):
        address = cluster.client.scheduler.address
        with started(tmp_path, address) as process:
            until(lambda: reached("tiles", tmp_path, process), process)
            os.killpg(process.pid, signal.SIGINT)
            ended(process, tmp_path, 130)
        # They go on: for the next.
        assert workers[0].poll() is None
        assert cluster.client.submit(int).result(timeout=30) == 0


def test_a_scheduler_that_never_answers_is_waited_for_aloud_and_can_be_left(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}"
        with started(tmp_path, address) as process:
            line = f"waiting for the scheduler at {address}\n"
            until(lambda: (tmp_path / "said").read_text() == line, process)
            process.send_signal(signal.SIGTERM)
            ended(process, tmp_path, 143)


def test_a_scheduler_that_has_halted_does_not_keep_a_run_from_ending(tmp_path, remote):
    with remote() as (cluster, scheduler, _):
        address = cluster.client.scheduler.address
        with started(tmp_path, address) as process:
            until(lambda: reached("tiles", tmp_path, process), process)
            scheduler.send_signal(signal.SIGSTOP)
            process.send_signal(signal.SIGTERM)
            ended(process, tmp_path, 143)
        scheduler.send_signal(signal.SIGCONT)
