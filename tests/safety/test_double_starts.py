"""Two processes at once on one output: one wins, the other leaves with 5, at once."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from harness.driver import KILLED
from harness.jobs import NAMES, command, expected, go_on, make_job, read

pytestmark = pytest.mark.usefixtures("small_tiles")

EXISTS, LOCKED = 4, 5
SOON_S = 2.0


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never comes"
        time.sleep(0.002)


@pytest.mark.parametrize("start", range(10))
@pytest.mark.parametrize("name", NAMES)
def test_one_of_two_wins(name, start, slide, tmp_path, driver):
    folder = tmp_path / "work"
    folder.mkdir()
    job = make_job(slide, folder / name)
    began, gate = time.time(), tmp_path / "gate"
    order = {"gate": str(gate), "arguments": command(job, "--quiet")}
    both = [driver.start(job, **order) for _ in range(2)]
    wait_until(lambda: any(run.said("left") for run in both))
    gate.touch()
    codes = [run.wait() for run in both]
    assert sorted(codes) == [0, LOCKED], [run.stderr for run in both]
    loser = both[codes.index(LOCKED)]
    assert loser.left_at - began < SOON_S
    assert loser.stderr.startswith("tileconv: error[5]: another run is writing")
    assert loser.stderr.count("\n") == 1
    np.testing.assert_array_equal(read(folder / name), expected(np.load(slide)))
    assert os.listdir(folder) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_one_of_three_commands_wins(name, slide, tmp_path):
    """Interpreters with all of their start; who comes when another is done finds its output."""
    folder = tmp_path / "work"
    folder.mkdir()
    line = [sys.executable, "-m", "tileconv"]
    line += command(make_job(slide, folder / name), "--quiet")
    runs = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(run.communicate()[1].count("\n"), run.returncode) for run in runs]
    ends.remove((0, 0))
    assert set(ends) <= {(1, EXISTS), (1, LOCKED)}
    np.testing.assert_array_equal(read(folder / name), expected(np.load(slide)))
    assert os.listdir(folder) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_leaves_no_lock(name, slide, tmp_path, driver):
    folder, wanted = tmp_path / "work", expected(np.load(slide))
    folder.mkdir()
    job = make_job(slide, folder / name)
    first = driver.start(job, tile_s=0.1, flush_s=0.0)
    wait_until(lambda: first.recorded)
    second = driver.start(job)
    assert second.wait() == LOCKED
    assert first.kill() == KILLED
    assert go_on(job, wanted).found >= len(first.recorded)


def test_the_workers_of_a_killed_client_hold_no_lock(slide, tmp_path, driver):
    """They are its children, and may live on for a moment."""
    folder, wanted = tmp_path / "work", expected(np.load(slide))
    folder.mkdir()
    job = make_job(slide, folder / "out.tif", cluster="local:1")
    first = driver.start(job, flush_s=0.0)
    wait_until(lambda: first.recorded)
    assert first.kill() == KILLED
    assert go_on(make_job(slide, folder / "out.tif"), wanted).found >= len(first.recorded)


@pytest.mark.parametrize("name", NAMES)
def test_restart_drops_nothing_of_a_run_that_is_at_work(name, slide, tmp_path, driver):
    folder = tmp_path / "work"
    folder.mkdir()
    job = make_job(slide, folder / name)
    gate = tmp_path / "gate"
    first = driver.start(job, gate=str(gate))
    wait_until(lambda: first.said("at the gate"))
    other = make_job(slide, folder / name, weights=[[7.0]])
    second = driver.start(other, arguments=command(other, "--quiet", "--restart"))
    assert second.wait() == LOCKED, second.stderr
    gate.touch()
    assert first.wait() == 0
    (done,) = first.said("done")
    assert done["tiles"] == 20
    assert sorted(first.finished) == list(range(20))
    np.testing.assert_array_equal(read(folder / name), expected(np.load(slide)))
    assert os.listdir(folder) == [name]
