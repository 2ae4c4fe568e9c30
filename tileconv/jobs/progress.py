"""What a run tells while it runs, and at its end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from tileconv.jobs.memory import MIB
from tileconv.jobs.plan import Plan
from tileconv.jobs.report import Report

BAR_S = 0.1
"""Least seconds between two drawings of a bar."""


class Listener:
    """Hears what a run has to tell, in the thread that called it; this one says nothing.

    Attributes
    ----------
    each_tile : callable
        Called after each batch of tiles, before the commit; may raise to stop the run.
    committing : callable
        Called before the output takes its name: it is too late to stop the run.
    """

    each_tile: Callable[[], None] = staticmethod(lambda: None)
    committing: Callable[[], None] = staticmethod(lambda: None)

    def started(self, plan: Plan) -> None:
        """The plan is made; the first tile comes next."""

    def connected(self, link: str) -> None:
        """A cluster does the work; its dashboard is at `link`."""

    def waiting(self, what: str) -> None:
        """Nothing goes on until something is there, which may take a while."""

    def warned(self, text: str) -> None:
        """Something may go wrong that need not."""

    def resumed(self, report: Report) -> None:
        """Tiles that another run has done are counted; there may be none."""

    def advanced(self, report: Report) -> None:
        """Some tiles are done."""

    def finished(self, report: Report) -> None:
        """The output has its name."""

    def stop(self) -> None:
        """Leave the terminal as it was; the run is over, however it ended."""


class PlainProgress(Listener):
    """A line now and then, for logs.

    Parameters
    ----------
    stream : text file
    every_s : float
        Least seconds between two lines.
    """

    def __init__(self, stream: TextIO = sys.stderr, every_s: float = 10.0) -> None:
        self._stream = stream
        self._every_s = every_s
        self._last = time.monotonic()

    def connected(self, link: str) -> None:
        """Say where to watch."""
        self._say(f"dashboard: {link}")

    def started(self, plan: Plan) -> None:
        """Say what begins."""
        self._say(heading(plan))
        self._last = time.monotonic()

    def resumed(self, report: Report) -> None:
        """Say what need not be done again."""
        if report.resumed_tiles:
            count = len(report.plan.grid)
            self._say(f"going on: {report.resumed_tiles} of {count} tiles are done already")

    def waiting(self, what: str) -> None:
        """Say for what."""
        self._say(f"waiting for {what}")

    def warned(self, text: str) -> None:
        """Say it."""
        self._say(f"tileconv: warning: {text}")

    def advanced(self, report: Report) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._last >= self._every_s:
            self._last = now
            count = len(report.plan.grid)
            self._say(
                f"{report.tiles} of {count} tiles ({100 * report.tiles // count} %), "
                f"{rate(report)}, {_left(report)} left"
            )

    def finished(self, report: Report) -> None:
        """Say what was done."""
        self._say(summary(report))

    def _say(self, text: str) -> None:
        # A log that cannot be written is no reason to lose a run.
        with contextlib.suppress(OSError):
            print(text, file=self._stream, flush=True)


class BarProgress(PlainProgress):
    """A bar with tiles, rate and time left, for a terminal.

    It is one line that is written over and over, with nothing but carriage returns and spaces: a
    process may be killed at any moment and leaves the terminal as it was. It is drawn in the
    thread of the run.
    """

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        super().__init__(stream)
        self._drawn = 0
        self._drawn_at = float("-inf")

    def advanced(self, report: Report) -> None:
        """Move the bar."""
        now = time.monotonic()
        if now - self._drawn_at >= BAR_S:
            self._drawn_at = now
            with contextlib.suppress(OSError):
                columns = os.get_terminal_size(self._stream.fileno()).columns or 80
                # Room for the cursor, and for the ^C that a terminal shows.
                self._draw(bar(report, columns - 4))

    def finished(self, report: Report) -> None:
        """Take the bar away and say what was done."""
        self.stop()
        super().finished(report)

    def stop(self) -> None:
        """Take the bar away."""
        with contextlib.suppress(OSError):
            self._draw("")
        self._drawn_at = float("-inf")

    def _say(self, text: str) -> None:
        self.stop()
        super()._say(text)

    def _draw(self, text: str) -> None:
        """Write `text` over what was drawn before."""
        if text or self._drawn:
            # With as many more spaces as a ^C takes.
            rest = max(0, self._drawn + 2 - len(text)) if self._drawn else 0
            back = "" if text else "\r"
            self._drawn = len(text)
            self._stream.write(f"\r{text}{' ' * rest}{back}")
            self._stream.flush()


def bar(report: Report, columns: int) -> str:
    """How far a run is, in at most so many columns: the part of a bar, and figures."""
    count = len(report.plan.grid)
    figures = (
        f" {report.tiles}/{count} tiles  {rate(report)}  "
        f"{duration(report.elapsed_s)}, {_left(report)} left"
    )
    width = min(40, columns - len(figures) - 2)
    if width < 5:
        return figures[:columns].strip()
    filled = width * report.tiles // max(1, count)
    return f"[{'#' * filled}{'.' * (width - filled)}]{figures}"


def _left(report: Report) -> str:
    """Time until the last tile is done, if those to come take what those of this run took."""
    done = report.tiles - report.resumed_tiles
    left = len(report.plan.grid) - report.tiles
    return duration(report.elapsed_s * left / max(1, done))


def heading(plan: Plan) -> str:
    """One line on what begins."""
    raster, grid = plan.work.layout.raster, plan.grid
    size = " x ".join(str(n) for n in raster.shape)
    return (
        f"{size} {raster.dtype}, {plan.work.operation.kernel.name}, "
        f"{plan.work.choice.method}; {len(grid)} tiles of {grid.tile[0]} x {grid.tile[1]}, "
        f"{_hands(plan)}, {plan.memory.peak_bytes // MIB} of {plan.cap_bytes // MIB} MiB"
        + (f" each, {plan.total_bytes // MIB} MiB in all" if plan.processes > 1 else "")
    )


def _hands(plan: Plan) -> str:
    """Who does the work: ``2 threads``, or ``16 processes of 4 threads``."""
    threads = f"{plan.workers} thread{'s' if plan.workers > 1 else ''}"
    return f"{plan.processes} processes of {threads}" if plan.processes > 1 else threads


def summary(report: Report) -> str:
    """What was done, in a few lines."""
    stored = f"{report.stored_bytes / MIB:.1f} MiB stored"
    done = (
        f"{report.output}: {report.tiles} tiles in {duration(report.elapsed_s)}, "
        f"{rate(report)}, peak memory {report.peak_memory_bytes // MIB} MiB, {stored}"
    )
    lines = [done]
    if report.plan.processes > 1 or len(report.peaks) > 1:
        lines.append(
            f"{len(report.peaks)} processes, {100 * report.busy:.0f} % busy; "
            f"{report.decoded_bytes / MIB / max(report.elapsed_s, 1e-9):.0f} MiB/s decoded, "
            f"{report.stored_bytes / MIB / max(report.elapsed_s, 1e-9):.0f} MiB/s stored"
        )
    if report.clipped:
        lines.append(f"{report.clipped} values did not fit the output dtype and were clipped")
    if report.nans:
        lines.append(f"{report.nans} NaN became {report.plan.work.cast.nan_fill}")
    if report.absent.count:
        lines.append(
            f"{report.absent.count} chunks of the input are absent and were read as its "
            f"fill value: {', '.join(report.absent.first)}"
        )
    if report.bad.count:
        lines.append(
            f"{report.bad.count} chunks of the input are bad and were read as its fill value: "
            f"{', '.join(report.bad.first[:10])}"
        )
    return "\n".join(lines)


def rate(report: Report) -> str:
    """Output pixels a second, for people."""
    return f"{report.pixels_per_s / 1e6:.1f} Mpx/s"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
