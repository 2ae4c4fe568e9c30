"""What a run tells while it runs, and at its end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from tileconv.jobs.memory import MIB
from tileconv.jobs.plan import Plan
from tileconv.jobs.report import Report

if TYPE_CHECKING:
    from rich.progress import Progress


class Listener:
    """Hears what a run has to tell, in the thread that called it; this one says nothing.

    Attributes
    ----------
    each_tile : callable
        Called after each batch of tiles, before the commit; may raise to stop the run.
    """

    each_tile: Callable[[], None] = staticmethod(lambda: None)

    def started(self, plan: Plan) -> None:
        """The plan is made; the first tile comes next."""

    def connected(self, link: str) -> None:
        """A cluster does the work; its dashboard is at `link`."""

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

    def warned(self, text: str) -> None:
        """Say it."""
        self._say(f"tileconv: warning: {text}")

    def advanced(self, report: Report) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._last >= self._every_s:
            self._last = now
            count = len(report.plan.grid)
            done = report.tiles - report.resumed_tiles
            left_s = report.elapsed_s * (count - report.tiles) / done
            self._say(
                f"{report.tiles} of {count} tiles ({100 * report.tiles // count} %), "
                f"{rate(report)}, {duration(left_s)} left"
            )

    def finished(self, report: Report) -> None:
        """Say what was done."""
        self._say(summary(report))

    def _say(self, text: str) -> None:
        # A log that cannot be written is no reason to lose a run.
        with contextlib.suppress(OSError):
            print(text, file=self._stream, flush=True)


class BarProgress(PlainProgress):
    """A bar with tiles, rate and time left, for a terminal."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        super().__init__(stream)
        self._bar: Progress | None = None

    def started(self, plan: Plan) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        super().started(plan)
        self._bar = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("tiles  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
        self._bar.add_task("tiles", total=len(plan.grid), rate="")
        self._bar.start()

    def advanced(self, report: Report) -> None:
        """Move the bar."""
        assert self._bar is not None
        self._bar.update(self._bar.task_ids[0], completed=report.tiles, rate=rate(report))

    def finished(self, report: Report) -> None:
        """Take the bar away and say what was done."""
        self.stop()
        super().finished(report)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


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
