"""Whole processes, timed.

A process that is started counts as no smaller than the one that starts it: Linux takes over the
peak memory of the parent when it executes the program. So the runner imports the standard library
alone, and whatever needs numpy (kernels, comparisons) is a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RSS_UNIT = 1 if sys.platform == "darwin" else 1 << 10
"""Bytes that ru_maxrss counts in."""


class RunError(Exception):
    """A process that did not do its work; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process took, its start included, and the processes that it waited for."""

    wall_s: float
    cpu_s: float
    peak_mib: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    return importlib.util.find_spec(package) is not None


def last_words(log: Path) -> str:
    """The last line of what a process said on stderr."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "no message"


def timed(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Usage:
    """Run a process to its end.

    Parameters
    ----------
    command : list of str
    log : Path
        Takes its stderr; stdout is dropped.
    environment : dict or None
        Variables besides those of this process.

    Raises
    ------
    RunError
        If its exit code is not 0.
    """
    variables = os.environ | (environment or {})
    with log.open("wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=variables,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - began
    # Popen has not seen its end, and would wait for it.
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code < 0:
        raise RunError(f"killed by signal {-code}")
    if code:
        raise RunError(f"exit code {code}: {last_words(log)}")
    cpu = usage.ru_utime + usage.ru_stime
    return Usage(wall, cpu, usage.ru_maxrss * RSS_UNIT / (1 << 20))


def answer(command: list[str]) -> Any:
    """What a process prints, as JSON.

    Raises
    ------
    RunError
        If its exit code is not 0.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RunError(lines[-1][:200])
    return json.loads(done.stdout.splitlines()[-1])


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
