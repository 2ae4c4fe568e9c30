"""Signals: none is lost, the second ends the process, and so does time; a terminal stays clean."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

import tileconv
from tileconv.jobs.progress import Listener
from tileconv.stopping import Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

# What a main thread can be in: Python does not come to run before it is done.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"

LISTENING = f"""
import hashlib, sys
from tileconv import ending, stopping
stopping.GRACE_S = float(sys.argv[1])
stopping.listen()
stopping.hold()
print("listening", flush=True)
{BUSY}
"""


@pytest.fixture(autouse=True)
def as_started_by_a_person():
    """Not in the background, nor by nohup, where SIGINT and SIGHUP are ignored; and no process
    outlives a test that has failed.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before, others = {one: signal.signal(one, how) for one, how in usual.items()}, children()
    yield
    for one, how in before.items():
        signal.signal(one, how)
    for process in children() - others:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def children():
    return set(psutil.Process().children(recursive=True))


def python(code, *arguments, **options):
    """A process that runs `code`; what it prints first has been read."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    process.stdout.readline()
    return process


def last_line(err, number):
    """The only line there is, if it is the one for a signal."""
    code = 128 + number
    assert re.fullmatch(
        rf"tileconv: error\[{code}\]: stopped by {signal.Signals(number).name}.*goes on\n", err
    )
    return err


@pytest.mark.parametrize("number", SIGNALS)
def test_whatever_the_main_thread_does_the_process_ends_in_time(number):
    process = python(LISTENING, 0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "after 0.3 s" in last_line(err, number)


def test_a_second_signal_ends_the_process_at_once():
    process = python(LISTENING, 1e6)
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        # Two that come together may be one.
        while process.poll() is None:
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "at once" in last_line(err, signal.SIGINT)


def test_a_signal_whose_exception_was_lost_is_raised_again_and_prints_nothing():
    code = """
import os, signal, sys
from tileconv import stopping
stopping.listen()
stopping.check()
class Foreign:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000): pass
Foreign()
try:
    stopping.check()
except stopping.Stopped as stop:
    print(stop, stop.exit_code)
stopping.hold()
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # The second signal, above, may win the race to the end.
    assert done.stdout.split() == ["SIGTERM", "143"] or done.returncode == 130
    assert "Traceback" not in done.stderr


def test_an_ignored_hangup_stays_ignored():
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = python(LISTENING, 0.3, preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    last_line(process.communicate(timeout=60)[1], signal.SIGTERM)


def test_it_is_no_keyboard_interrupt():
    """An interpreter that saw one end a frame kills itself by SIGINT, whatever the exit code."""
    assert not issubclass(Stopped, KeyboardInterrupt | Exception)


# Whole commands.

SLOW = f"""
import hashlib, sys
from tileconv import __main__, stopping
stopping.GRACE_S = 0.5
from tileconv.jobs.tile_task import TileTask
usual = TileTask.__call__
def call(task, tile):
    if tile.index < 4:
        return usual(task, tile)
    sys.stdout.write("slow\\n")
    sys.stdout.flush()
    {BUSY}
TileTask.__call__ = call
from tileconv.jobs import plan
plan.MAX_TILE_PIXELS = 1
__main__.main()
"""

JOB = ("convolve", "in.tif", "out.tif", "--kernel", "box:size=5", "--tile", "64", "--workers", "2")


@pytest.fixture
def pixels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    tifffile.imwrite("in.tif", pixels, tile=(64, 64))
    return pixels


def finished(arguments=JOB):
    """A run of the command that goes on where another was stopped."""
    done = subprocess.run(
        [sys.executable, "-m", "tileconv", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_tiles_that_take_too_long_are_dropped_and_the_others_kept(pixels):
    process = python(SLOW, *JOB, "--quiet")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    last_line(err, signal.SIGTERM)
    assert not os.path.lexists("out.tif")
    # Quick tiles that came together are recorded together, a moment later.
    assert re.search(r"going on: [1-4] of \d+ tiles", finished())
    assert_whole()


def assert_whole():
    """The output is that of a run in this process that nobody has stopped."""
    job = {"input": {"path": "in.tif"}, "kernel": {"name": "box", "size": 5}}
    tileconv.run(job | {"output": {"path": "wanted.tif", "tile": 64}, "run": {"memory": "1GiB"}})
    np.testing.assert_array_equal(tifffile.imread("out.tif"), tifffile.imread("wanted.tif"))
    Path("wanted.tif").unlink()


AT_CALL = """
import os, signal, sys
from tileconv import __main__, stopping
left = int(sys.argv.pop(1))
def profile(frame, event, argument):
    global left
    left -= event == "call"
    if left == 0:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGINT)
listen = stopping.listen
def listening():
    listen()
    sys.setprofile(profile)
stopping.listen = listening
__main__.main()
"""


@pytest.mark.parametrize("calls", [1, 3_000, 30_000, 60_000, 80_000, 100_000, 110_000])
def test_a_signal_at_any_of_the_first_calls_of_python_is_a_clean_end(pixels, calls):
    """Imports, planning, compiling, tiles, and the commit, for the last of them."""
    done = subprocess.run(
        [sys.executable, "-c", AT_CALL, str(calls), *JOB, "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        assert done.returncode == 130, done.stderr
        last_line(done.stderr, signal.SIGINT)
        if os.path.lexists("out.tif"):
            return
        finished()
    else:
        assert done.stderr == ""
    assert_whole()
    assert sorted(os.listdir()) == ["in.tif", "out.tif"]


# Terminals.


def on_terminal(code, *arguments, typed):
    """Exit code of a process on a terminal of its own, and what that was sent.

    Parameters
    ----------
    typed : list of (bytes, bytes)
        What to wait for, and what to type then.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, *code, *arguments])
    out, typed, deadline = b"", list(typed), time.monotonic() + 60
    seen = 0
    while True:
        assert time.monotonic() < deadline, out
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            new = os.read(terminal, 1 << 16)
        except OSError:  # Nobody has it open any more.
            break
        out += new
        if typed and (at := out.find(typed[0][0], seen)) >= 0:
            seen = at + 1
            with contextlib.suppress(OSError):
                os.write(terminal, typed.pop(0)[1])
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out


def shown(out):
    """The lines that a terminal shows at the end, of 80 columns."""
    lines = []
    for line in out.decode().split("\n"):
        cells = []
        at = 0
        for character in line:
            if character == "\r":
                at = 0
                continue
            cells[at : at + 1] = [character]
            at += 1
        lines.append("".join(cells).rstrip())
    return lines


BIG = ("-m", "tileconv", "sample", "s.tif", "--shape", "200000x200000", "--workers", "1")


def test_ctrl_c_leaves_a_terminal_clean(pixels):
    code, out = on_terminal(BIG, typed=[(b"left", b"\x03")])
    assert code == 130
    assert b"\x1b" not in out
    heading, last, rest = shown(out)
    assert heading.startswith("200000 x 200000")
    assert last == "tileconv: error[130]: stopped by SIGINT; the same command again goes on"
    assert rest == ""


HEARD = """
import threading, time
def hear():
    while stopping._Record.number is None:
        time.sleep(0.01)
    print("heard", flush=True)
threading.Thread(target=hear, daemon=True).start()
__main__.main()
"""


def test_a_second_ctrl_c_leaves_a_terminal_clean(pixels):
    code = SLOW.replace("0.5", "1e6").replace("__main__.main()", HEARD)
    # Not both at once, which may be one.
    typed = [(b"slow", b"\x03"), (b"heard", b"\x03")]
    code, out = on_terminal(["-c", code], *JOB, typed=typed)
    assert code == 130
    assert b"\x1b" not in out
    assert shown(out)[-2].startswith("tileconv: error[130]: stopped by SIGINT at once"), out


def test_a_bar_is_one_line_and_gone_at_the_end(pixels):
    code, out = on_terminal(["-m", "tileconv"], *JOB, typed=[])
    assert code == 0
    assert b"tiles  " in out
    assert b"\x1b" not in out
    heading, done, rest = shown(out)
    assert "box" in heading
    assert re.match(r"out\.tif: \d+ tiles in", done)
    assert rest == ""


def test_a_terminal_that_is_closed_ends_a_run(pixels):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, *BIG])
    while b"left" not in os.read(terminal, 1 << 16):
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    assert os.listdir(".s.tif.tileconv")


def test_a_run_that_is_put_to_sleep_goes_on(pixels):
    process = python(SLOW.replace("index < 4", "index < 999"), *JOB, stdin=subprocess.DEVNULL)
    process.send_signal(signal.SIGTSTP)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0


# Python, where signals are the program's own affair.


class Interrupting(Listener):
    """Types Ctrl-C after some tiles."""

    def __init__(self, tiles):
        self.tiles = tiles

    def advanced(self, report):
        if report.tiles == self.tiles:
            signal.raise_signal(signal.SIGINT)


def test_a_keyboard_interrupt_in_a_program_keeps_what_is_done(pixels, monkeypatch):
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 1)
    job = {
        "input": {"path": "in.tif"},
        "kernel": {"name": "box", "size": 5},
        "output": {"path": "out.tif", "tile": 64},
        "run": {"memory": "1GiB"},
    }
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        tileconv.run(job, listener=Interrupting(5))
    assert not os.path.lexists("out.tif")
    assert threading.active_count() == threads
    report = tileconv.run(job)
    assert report.resumed_tiles >= 5
    assert tileconv.verify(job, everything=True).passed
