"""How the process ends: one line on stderr that says why, and an exit code."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from typing import NoReturn

_SAID = threading.Lock()
"""Held by the thread that says why: there is one line, and what came first is in it."""


def open_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr empty ones.

    The next file it opens would have their number, and what is printed would land in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def last_line(code: int, message: str, *, wait: bool = True) -> None:
    """Write ``tileconv: error[CODE]: message`` to stderr, unless that was done already.

    Parameters
    ----------
    code : int
        What the process leaves with.
    message : str
        Made one line; what a terminal would take for orders is escaped.
    wait : bool
        Whether to wait for somebody who is slow to read stderr, or rather say nothing.
    """
    if not _SAID.acquire(blocking=False):
        return
    # A terminal that is gone, or a log that cannot be written, changes nothing about the end.
    with contextlib.suppress(OSError, ValueError):
        line = _blank() + f"tileconv: error[{code}]: {printable(message)}\n"
        if wait or select.select([], [2], [], 0)[1]:
            encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
            _write(line.encode(encoding, "backslashreplace"))


def leave(code: int) -> NoReturn:
    """End the process at once.

    The interpreter's own end has further opinions on pipes that broke and signals that came.
    """
    os._exit(code)


def printable(text: str) -> str:
    """`text` in one line, with everything escaped that is not for people to see."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _blank() -> str:
    """What clears a terminal's line, where a bar or ``^C`` may stand."""
    if not os.isatty(2):
        return ""
    columns = os.get_terminal_size(2).columns
    return "\r" + " " * (columns - 1) + "\r"


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(2, text) :]
