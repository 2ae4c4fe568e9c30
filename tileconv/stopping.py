"""Ctrl-C, SIGTERM and a terminal that is closed: the process ends in time, and with its code.

A signal is heard three times, each where the time before may not have been enough:

- Its handler raises `Stopped` in the main thread. But an exception that is raised there vanishes
  where Python code runs inside a foreign callback (a compiler's, say).
- So it is recorded too, and a run looks at the record after every tile.
- And where the main thread does not come to run Python at all, because it is in a long call or
  waits for slow tiles, a thread that the signal wakes ends the process after `GRACE_S`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

from tileconv.ending import last_line, leave

GRACE_S = 7.0
"""What tiles in flight may take before they are dropped; a run has ended 10 s after a signal."""

ADVICE = "the same command again goes on"


class Stopped(BaseException):
    """A signal asked the process to stop.

    Not KeyboardInterrupt: an interpreter that has seen one end a frame kills itself by
    SIGINT at its own end, whatever exit code it was given.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}")
        self.exit_code = 128 + number
        self.told = f"stopped by {self}; {ADVICE}"


class _Record:
    number: int | None = None
    raising = True
    too_late = False


def listen() -> None:
    """Take SIGINT, SIGTERM and SIGHUP from here on; a second one ends the process at once.

    A SIGHUP that is ignored, as nohup has it, stays so.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    threading.Thread(target=_watch, args=(reader, set(numbers)), daemon=True).start()
    # Written to when a signal comes, whatever the main thread is doing.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Where an exception cannot go on, Python prints it instead; the record says what is needed.
    usual = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if lost.exc_type is Stopped else usual(lost)
    for number in numbers:
        signal.signal(number, _stop)


def check() -> None:
    """Raise `Stopped` if a signal has come, even if its own exception was lost."""
    if _Record.number is not None:
        raise Stopped(_Record.number)


def hold() -> None:
    """Nothing is left that could be stopped: signals are recorded, and not raised."""
    _Record.raising = False


def too_late() -> None:
    """What could be stopped is done; what is left takes the time it takes."""
    _Record.too_late = True
    hold()


def release() -> None:
    """Something is begun that can be stopped: raise signals again, also one that came meanwhile."""
    _Record.raising, _Record.too_late = True, False
    check()


def _stop(number: int, _: FrameType | None) -> None:
    if _Record.number is None:
        _Record.number = number
        if _Record.raising:
            raise Stopped(number)


def _watch(reader: int, numbers: set[int]) -> NoReturn:
    """End the process when a second signal comes, or `GRACE_S` after the first."""
    first = _heard(reader, numbers, None)
    assert first is not None
    second = _heard(reader, numbers, time.monotonic() + GRACE_S)
    if second is None and _Record.too_late:
        # The output has its name; what is left is to tidy up.
        second = _heard(reader, numbers, None)
    number = second or first
    name = signal.Signals(number).name
    how = "at once" if second else f"after {GRACE_S:g} s, what was in flight is dropped"
    last_line(128 + number, f"stopped by {name} {how}; {ADVICE}", wait=False)
    leave(128 + number)


def _heard(reader: int, numbers: set[int], deadline: float | None) -> int | None:
    """The next of the signals `numbers` that comes; None where none does before the deadline."""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            return None
        (number,) = os.read(reader, 1)
        if number in numbers:
            return number
