"""Ctrl-C and SIGTERM: recorded first, raised second, so that neither can be lost.

An exception raised by a signal handler vanishes where Python code runs inside a foreign
callback (a compiler's, say). The record does not: a run looks at it after every tile.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


class Stopped(BaseException):
    """A signal asked the process to stop.

    Not KeyboardInterrupt: an interpreter that has seen one end a frame kills itself by
    SIGINT at its own end, whatever exit code it was given.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}")
        self.exit_code = 128 + number


class _Record:
    number: int | None = None


def listen() -> None:
    """Take SIGINT and SIGTERM from here on; a second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def check() -> None:
    """Raise `Stopped` if a signal has come, even if its own exception was lost."""
    if _Record.number is not None:
        raise Stopped(_Record.number)


def _stop(number: int, _: FrameType | None) -> None:
    if _Record.number is not None:
        os._exit(128 + number)
    _Record.number = number
    raise Stopped(number)
