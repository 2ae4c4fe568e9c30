"""Runs jobs in processes of their own, which may be told to die at a step of the protocol.

``python -m harness.driver`` imports everything once and then forks a process for each line it
reads: a run costs some hundredths of a second, and dies as a process dies. Of a job, a child
writes what happens to a log, by single appends that a kill cannot take back.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from harness import jobs
from harness.disk import Call, Watched
from harness.faults import Fault
from harness.steps import Stepper

KILLED = -signal.SIGKILL


class Killer(Stepper):
    """Ends the process by SIGKILL at one hit of one step: before, in the middle, or after it."""

    def __init__(self, step: str, hit: int, when: str) -> None:
        super().__init__()
        self._at, self._when = (step, hit), when
        self._doomed: Call | None = None

    def before(self, call):
        if self.step(call) != self._at:
            return
        if self._when == "before":
            self.die()
        if self._when == "half":
            call.make(call.length // 2)
            self.die()
        self._doomed = call

    def after(self, call):
        if call is self._doomed:
            self.die()

    failed = after

    def die(self) -> None:
        """End this process."""
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def count_changes(root: str, found: Counter, event: str, values: tuple) -> None:
    """Count what Python itself says of calls that change what is stored in a folder.

    An audit hook: it sees every such call, whoever makes it by whichever name, except writes.
    """
    if event == "open":
        path, _, flags = values
        if not isinstance(path, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            found["open-write"] += _is_in(root, path)
    elif event.startswith(("os.", "shutil.")) and event not in _NO_CHANGES:
        path = values[1] if event in ("os.rename", "os.link") else values[0]
        deep = event in ("os.remove", "os.rmdir") and values[-1] != -1
        found[event] += deep or isinstance(path, int) or _is_in(root, path)


_NO_CHANGES = {"os.listdir", "os.scandir", "os.putenv", "os.unsetenv", "os.walk", "shutil.rmtree"}


def _is_in(root: str, path: object) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(
        os.fsdecode(path)
    ).startswith(root + os.sep)


class Log:
    """What a child says while it lives."""

    def __init__(self, path: str) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, what: str, **more) -> None:
        os.write(
            self._handle, (json.dumps({"what": what, "at": time.time(), **more}) + "\n").encode()
        )


def child(order: dict) -> int:
    """Do what one line asks for; returns the exit code."""
    os.setpgid(0, 0)
    errors = os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    os.dup2(errors, 1)
    log = Log(order["log"])
    _listened(log, order)
    root = Path(order["job"]["output"]["path"]).parent
    kill = order.get("kill")
    watcher = Killer(**kill) if kill else Stepper()
    if order.get("fault"):
        watcher = Fault(root, **order["fault"])
    if order.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], resource.RLIM_INFINITY))
    audited: Counter[str] = Counter()
    if order.get("audit"):
        sys.addaudithook(partial(count_changes, str(root), audited))
    with Watched(root, watcher) if order.get("watched", True) else contextlib.nullcontext():
        log.say("start")
        try:
            code = _run(order, log)
        finally:
            if isinstance(watcher, Stepper):
                log.say(
                    "steps",
                    hits=watcher.hits,
                    strange=watcher.strange,
                    kinds=watcher.kinds,
                    audited=audited,
                )
    return code


def _run(order: dict, log: Log) -> int:
    from tileconv.jobs import journal
    from tileconv.jobs.cluster import backend

    if "flush_s" in order:
        journal.FLUSH_S = order["flush_s"]
    backend.BATCH_S = backend.ClusterBackend.batch_s = 0.0
    if order.get("no_exchange"):
        _refuse_exchange()
    if order.get("arguments"):
        from tileconv.__main__ import main

        sys.argv = ["tileconv", *order["arguments"]]
        exit_now = os._exit

        def leave(code: int) -> None:
            log.say("left", code=code)
            exit_now(code)

        os._exit = leave
        main()
    import tileconv
    from tileconv.errors import TileconvError

    ear = jobs.Ear()
    try:
        report = tileconv.run(order["job"], listener=ear, restart=order.get("restart", False))
    except TileconvError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    log.say("done", tiles=report.tiles, resumed=ear.found)
    return 0


def _listened(log: Log, order: dict) -> None:
    """Have tiles that are finished, and that are recorded, written to the log; slowed first."""
    from tileconv.jobs.journal import Journal
    from tileconv.jobs.tile_task import TileTask

    def tile_done(task, tile, usual=TileTask.__call__):
        time.sleep(order.get("tile_s", 0))
        if "gate" in order:
            log.say("at the gate")
        while "gate" in order and not os.path.exists(order["gate"]):
            time.sleep(0.002)
        result = usual(task, tile)
        log.say("tile", index=tile.index)
        return result

    def recorded(journal, tiles, *rest, usual=Journal.record):
        usual(journal, tiles, *rest)
        log.say("recorded", tiles=tiles[:, 0].tolist())

    TileTask.__call__, Journal.record = tile_done, recorded


def _refuse_exchange() -> None:
    """As on systems that cannot exchange names."""
    import errno

    from tileconv.jobs import renaming

    def refuse(*_):
        raise OSError(errno.ENOSYS, "not here")

    renaming._renameat2 = refuse


def serve() -> None:
    """Fork for each line of stdin, wait for whom the next ones name."""
    import distributed  # noqa: F401 - once for all children

    import tileconv

    jobs.small_tiles()
    # A kill takes nothing of what was written.
    os.fsync = os.fdatasync = lambda _: None
    with tempfile.TemporaryDirectory() as folder:  # What is compiled is loaded once.
        import numpy as np

        np.save(f"{folder}/in.npy", jobs.make_pixels(40, 40))
        for name in jobs.NAMES:
            job = jobs.make_job(Path(folder, "in.npy"), Path(folder, name))
            tileconv.run(job)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            code = 70
            try:
                code = child(order)
            except BaseException:  # noqa: BLE001 - told, and the process ends here
                import traceback

                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)


class Run:
    """A child that was started."""

    def __init__(self, driver: "Driver", pid: int, order: dict) -> None:
        self.pid, self._driver, self.order = pid, driver, order

    def wait(self) -> int:
        """Its exit code, or minus the signal it died by."""
        code = int(self._driver._ask({"wait": self.pid}))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return code

    def kill(self) -> int:
        """End it by SIGKILL, unless it has ended; as `wait`."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def events(self) -> list[dict]:
        """What it has said so far."""
        with contextlib.suppress(FileNotFoundError):
            lines = Path(self.order["log"]).read_text().splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith("\n")]
        return []

    def said(self, what: str) -> list[dict]:
        return [event for event in self.events if event["what"] == what]

    @property
    def recorded(self) -> set[int]:
        """Tiles that its journal has."""
        return {tile for event in self.said("recorded") for tile in event["tiles"]}

    @property
    def finished(self) -> set[int]:
        """Tiles whose data were stored."""
        return {event["index"] for event in self.said("tile")}

    @property
    def left_at(self) -> float:
        """When its command line ended, as `time.time` has it."""
        (left,) = self.said("left")
        return left["at"]

    @property
    def stderr(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return Path(self.order["stderr"]).read_text()
        return ""


class Driver:
    """Starts processes that run jobs; a context."""

    def __enter__(self):
        here = Path(__file__).parents[1]
        paths = [str(here), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._folder = tempfile.TemporaryDirectory()
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def start(self, job: dict, **order) -> Run:
        self._count += 1
        stem = f"{self._folder.name}/{self._count}"
        order |= {"job": job, "log": f"{stem}.log", "stderr": f"{stem}.err"}
        return Run(self, int(self._ask(order)), order)

    def _ask(self, order: dict) -> str:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


if __name__ == "__main__":
    serve()
