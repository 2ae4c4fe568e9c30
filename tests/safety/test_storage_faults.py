"""The Nth call on the output's disk fails, for every N there is, once or from then on.

The run ends with one line that says what to do, or goes on where the call did not matter; nothing
wrong ever stands under the final name; and the same command again, once the disk is well, gives
the pixels of a run that met no fault.
"""

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

import numpy as np
import pytest
from harness.disk import GLANCES, Watched, tree
from harness.driver import KILLED
from harness.faults import LASTING, Fault, Short
from harness.jobs import NAMES, command, expected, go_on, make_job, make_pixels, read

import tileconv
from tileconv.errors import OutputExistsError, StorageError

pytestmark = pytest.mark.usefixtures("small_tiles", "no_waiting")

FULL = {errno.ENOSPC, errno.EDQUOT}
HARMLESS = [
    ("unlink|rmdir|scandir|open-read|close", r"\.out\.\w+\.tileconv(/.*)?"),  # Nobody needs it.
]
"""Calls that may fail without harm, and need not be told."""


@pytest.fixture
def no_waiting(monkeypatch):
    """For others in the staging folder, where there are none, or for the disk, which is watched."""
    monkeypatch.setattr("tileconv.jobs.staging.time.sleep", lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """An input of 4 tiles."""
    path = tmp_path_factory.mktemp("little") / "in.npy"
    np.save(path, make_pixels(50, 60))
    return path


@dataclass(frozen=True)
class Setting:
    """What a run finds on a disk that is to fail."""

    name: str
    durability: str = "process"
    found: str = "nothing"

    def __str__(self):
        return f"{self.name}, {self.durability}, {self.found}"

    def job(self, source, folder):
        overwrite = self.found == "old output"
        output = folder / self.name
        return make_job(source, output, durability=self.durability, overwrite=overwrite, workers=1)


SETTINGS = [
    *((Setting(name), lasting) for name in NAMES for lasting in (False, True)),
    *((Setting(name, "power"), False) for name in NAMES),
    *((Setting(name, "power", "old output"), True) for name in NAMES),
    *(
        (Setting(name, "process", "unfinished run"), lasting)
        for name, lasting in zip(NAMES, (False, True), strict=True)
    ),
]


@pytest.mark.parametrize(("setting", "lasting"), SETTINGS, ids=str)
def test_whichever_call_fails(setting, lasting, little, tmp_path, driver):
    template, wrong = tmp_path / "template", []
    prepare(setting, little, template, driver)
    for number, code in zip(count(1), cycle(LASTING)):
        folder = tmp_path / str(number)
        shutil.copytree(template, folder)
        fault = Fault(folder, number, code, lasting)
        try:
            fail_and_go_on(setting, setting.job(little, folder), fault)
        except Exception as error:  # noqa: BLE001 - all that is wrong is told, not the first
            where = "no call" if len(fault.met) < number else fault.where
            wrong.append(
                f"call {number}, {where}, {errno.errorcode[fault.code]}: "
                f"{type(error).__name__}: {error}; left: {tree(folder)[:9]}"
            )
        shutil.rmtree(folder)
        if len(fault.met) < number:
            break
    assert number > 40
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("setting", [Setting(name) for name in NAMES], ids=str)
def test_whatever_cannot_be_looked_at(setting, little, tmp_path):
    """Sizes, names, free bytes: the run ends with one line, and holds no lock afterwards."""
    for number in count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        job, wanted = setting.job(little, folder), expected(np.load(little))
        fault = Fault(folder, number, errno.EIO, lasting=False, kinds=GLANCES)
        with Watched(folder, fault), contextlib.suppress(StorageError):
            tileconv.run(job)
        if os.path.lexists(folder / setting.name):
            np.testing.assert_array_equal(read(folder / setting.name), wanted)
        job["output"]["overwrite"] = True
        go_on(job, wanted)
        if len(fault.met) < number:
            break
    assert number > 20


def prepare(setting, source, folder, driver):
    folder.mkdir()
    if setting.found == "old output":
        tileconv.run(make_job(source, folder / setting.name, weights=[[2.0]]))
    if setting.found == "unfinished run":
        kill = {"step": "journal frame appended", "hit": 4, "when": "half"}
        run = driver.start(setting.job(source, folder), kill=kill, flush_s=0.0)
        assert run.wait() == KILLED


def fail_and_go_on(setting, job, fault):
    output = Path(job["output"]["path"])
    wanted = expected(np.load(job["input"]["path"]))
    failed = None
    with Watched(output.parent, fault):
        try:
            tileconv.run(job)
        except StorageError as error:
            failed = error
    if failed is not None:
        assert failed.exit_code == 6
        check_message(str(failed), fault)
    elif len(fault.met) >= fault.number:
        kind, path = fault.where
        assert any(
            re.fullmatch(kinds, kind) and re.fullmatch(paths, path) for kinds, paths in HARMLESS
        ), "nobody has told of it"
    done = look_at(output, wanted, setting, job)
    assert done or failed is not None
    try:
        go_on(job, wanted)
    except OutputExistsError:
        assert done
        assert os.listdir(output.parent) == [output.name]


def look_at(output, wanted, setting, job) -> bool:
    """Whether the output is there; what is there is right."""
    if not os.path.lexists(output):
        assert setting.found != "old output", "neither the old output nor the new one"
        return False
    pixels = read(output)
    if setting.found == "old output" and not np.array_equal(pixels, wanted):
        np.testing.assert_array_equal(pixels, 2 * np.load(job["input"]["path"]))
        return False
    np.testing.assert_array_equal(pixels, wanted)
    return True


def check_message(text, fault):
    assert "\n" not in text
    assert os.strerror(fault.code) in text
    if fault.code in FULL and "cannot move" not in text:  # A name takes no room to speak of.
        assert re.search(r"needed \d+ bytes, free (\d+|unknown)", text), text
    assert re.search(r"; [a-z].*", text), "no next action"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_the_command_line_says_one_line(name, code, little, tmp_path, driver):
    """Every sixth call, in a process of its own."""
    for number in range(1, 60, 6):
        job = Setting(name).job(little, tmp_path / str(number))
        (tmp_path / str(number)).mkdir()
        fault = {"number": number, "code": code, "lasting": bool(number % 2)}
        run = driver.start(job, arguments=command(job, "--quiet"), fault=fault)
        code_of_exit, said = run.wait(), run.stderr.splitlines()
        if code_of_exit:
            assert code_of_exit == 6, run.stderr
            assert len(said) == 1
            assert re.match(r"tileconv: error\[6\]: cannot .*; .*", said[0])
        elif not os.path.lexists(job["output"]["path"]):
            raise AssertionError(f"call {number}: exit code 0, and there is no output")
        again = driver.start(job, arguments=command(job, "--overwrite"))
        assert again.wait() == 0, again.stderr
        np.testing.assert_array_equal(read(job["output"]["path"]), expected(np.load(little)))


@pytest.mark.parametrize("name", NAMES)
def test_writes_that_stop_short_are_gone_on_with(name, slide, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    job = make_job(slide, folder / name)
    with Watched(folder, Short()):
        tileconv.run(job)
    np.testing.assert_array_equal(read(folder / name), expected(np.load(slide)))


@pytest.mark.parametrize("name", NAMES)
def test_calls_that_signals_interrupt_are_made_again(name, slide, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    heard = []
    usual = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        go_on(make_job(slide, folder / name), expected(np.load(slide)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
    assert heard


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, and what makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    if not shutil.which("mount") or os.geteuid():
        pytest.skip("only root can mount a small disk")
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield (
        place,
        lambda: subprocess.run(
            ["mount", "-o", "remount,size=8m", str(place)], check=True, capture_output=True
        ),
    )
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("compression", ["none", "deflate"])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(name, compression, slide, small_disk, driver):
    place, enlarge = small_disk
    job = make_job(slide, place / name, compression=compression)
    (place / "taken").write_bytes(bytes(40 << 10))
    run = driver.start(job, arguments=command(job, "--quiet"), flush_s=0.0)
    assert run.wait() == 6
    said = run.stderr.splitlines()[-1]
    assert re.search(r"need(s|ed) \d+ bytes.* free", said), run.stderr
    assert not os.path.lexists(place / name)
    enlarge()
    (place / "taken").unlink()
    ear = go_on(job, expected(np.load(slide)))
    assert ear.found >= len(run.recorded)
    assert compression == "none" or ear.found


@pytest.mark.parametrize(("name", "most"), [("out.tif", 5000), ("out.zarr", 3000)])
def test_a_file_that_may_not_grow(name, most, little, tmp_path, driver):
    """A limit of the process, which is EFBIG."""
    folder = tmp_path / "work"
    folder.mkdir()
    job = make_job(little, folder / name)
    run = driver.start(job, arguments=command(job, "--quiet"), file_bytes=most)
    assert run.wait() == 6
    (said,) = run.stderr.splitlines()
    assert re.match(r"tileconv: error\[6\]: cannot write .*File too large; needed \d+ bytes", said)
    go_on(job, expected(np.load(little)))


INJECTED = ["pwrite64", "mkdir", "rename", "renameat2", "ftruncate", "truncate", "fsync,fdatasync"]


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("strace"), reason="strace makes the calls fail")
@pytest.mark.parametrize("call", INJECTED)
@pytest.mark.parametrize("name", NAMES)
def test_calls_that_the_kernel_refuses(name, call, slide, tmp_path):
    """The real command, whose Nth call of a kind fails in the kernel; nothing is replaced here."""
    wanted, codes = expected(np.load(slide)), cycle(["ENOSPC", "EIO", "EACCES", "EDQUOT"])
    folder = tmp_path / "work"
    folder.mkdir()
    job = make_job(slide, folder / name, durability="power", overwrite=True)
    line = [sys.executable, "-m", "tileconv", *command(job, "--quiet")]
    assert subprocess.run(line, check=False).returncode == 0  # What it compiles is kept.
    for number, code in zip(count(1), codes):
        trace = ["strace", "-f", "-o", str(tmp_path / "trace"), "-e", f"trace={call}"]
        trace += ["-e", f"inject={call}:error={code}:when={number}"]
        done = subprocess.run(trace + line, capture_output=True, text=True, check=False)
        injected = "INJECTED" in (tmp_path / "trace").read_text()
        where = f"{call} {number}, {code}: {done.stderr}"
        assert done.returncode in ({0, 6} if injected else {0}), where
        assert done.stderr.count("\n") == (done.returncode != 0), where
        np.testing.assert_array_equal(read(folder / name), wanted, err_msg=where)
        assert subprocess.run(line, check=False).returncode == 0, where
        np.testing.assert_array_equal(read(folder / name), wanted, err_msg=where)
        assert os.listdir(folder) == [name], where
        if not injected:
            break
