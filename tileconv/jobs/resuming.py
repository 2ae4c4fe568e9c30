"""Going on with what another run has done, where it is still there and still true.

What it says is done is believed in three steps: lengths are looked at before the first tile,
checksums beside the tiles that are left, and, where the input was damaged and has been repaired,
the pixels that each finished tile was made of. A tile that fails is done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tileconv.core.bitmap import Bitmap
from tileconv.errors import OutputExistsError
from tileconv.jobs.executors import run_bounded
from tileconv.jobs.journal import INPUT, Frame, Journal, refusal
from tileconv.jobs.plan import Plan
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.tile_task import TileTask
from tileconv.stores.absent import Absences, AbsentChunks, Bad, BadChunks, Missing
from tileconv.stores.sink import Sink
from tileconv.stores.source import Source

_LOOK_S = 0.2


def count_tiles(journal: Journal, report: Report) -> None:
    """Count what was done, where nothing is left to do."""
    for frame in journal.frames():
        report.resume(frame)


def believed_tiles(
    journal: Journal, source: Source, sink: Sink, report: Report, listener: Listener
) -> Bitmap:
    """The tiles that need not be done again, known to the sink and counted in the report.

    Parameters
    ----------
    journal : Journal
        Tiles that are not among them are struck from it.
    source : Source
    sink : Sink
        Told to resume, where the journal is.
    report : Report
    listener : Listener
        Is told of tiles that are done again.

    Raises
    ------
    OutputExistsError
        The input is another than the one they were made of.
    """
    done = recorded_tiles(journal, sink, report, listener)
    if may_have_changed(journal, source, report):
        changed = changed_frames(journal, source, sink, report, listener)
        if changed:
            withdraw(journal, done, report, changed, listener)
        if journal.input_changed:
            journal.accept_input(source.identity)
    return done


def recorded_tiles(journal: Journal, sink: Sink, report: Report, listener: Listener) -> Bitmap:
    """The tiles that the run before has finished and that are there, by the length."""
    done, lost, tiles = Bitmap(len(journal.grid)), set(), 0
    for frame in journal.frames():
        if sink.holds(frame.receipt):
            done.set(frame.indices)
            sink.record(frame.receipt)
            report.resume(frame)
        else:
            lost.add(frame.number)
            tiles += len(frame.tiles)
    if journal.damaged:
        listener.warned(
            f"the record of the run before in {journal.folder} is damaged within; tiles that it "
            "names from there on are done again"
        )
    if lost:
        listener.warned(_done_again(tiles, journal))
        journal.drop(lost)
    return done


def withdraw(
    journal: Journal, done: Bitmap, report: Report, lost: set[int], listener: Listener
) -> None:
    """Take back frames that were recorded: their tiles are not done."""
    journal.flush()
    tiles = 0
    for frame in journal.frames():
        if frame.number in lost:
            done.unset(frame.indices)
            report.withdraw(frame)
            tiles += len(frame.tiles)
    listener.warned(_done_again(tiles, journal))
    journal.drop(lost)


def _done_again(tiles: int, journal: Journal) -> str:
    return (
        f"{tiles} tiles in {journal.folder} are not as the run before has stored them, or of "
        "what the input now has; they are done again"
    )


def may_have_changed(journal: Journal, source: Source, report: Report) -> bool:
    """Whether finished tiles may be made of other pixels than the input now has.

    So it is when the input has been repaired, and when chunks were filled that now may not be.
    """
    absent_refused = source.absent.missing is Missing.ERROR and report.absent.count
    bad_refused = source.bad.bad is Bad.ERROR and report.bad.count
    return bool(journal.input_changed or absent_refused or bad_refused)


def changed_frames(
    journal: Journal, source: Source, sink: Sink, report: Report, listener: Listener
) -> set[int]:
    """Frames of which a tile was made of other pixels than the input now has.

    Parameters
    ----------
    journal : Journal
    source : Source
    sink : Sink
    report : Report
        Counts what is recorded; what it says of absent and bad chunks is counted anew.
    listener : Listener

    Raises
    ------
    OutputExistsError
        No chunk was filled, so it is another input.
    BadChunkError
        A chunk that was filled may not be, and is still bad or absent.
    """
    plan, filled = report.plan, report.absent.count + report.bad.count > 0
    task = TileTask(plan.work, source, sink.writer, plan.cache_bytes)

    def tiles() -> Iterator[tuple[Frame, int, int]]:
        for frame in journal.frames():
            for index, value in frame.tiles.tolist():
                yield frame, index, value

    def is_same(item: tuple[Frame, int, int]) -> tuple[Frame, int, bool, Absences, Absences]:
        frame, index, value = item
        same = task.input_checksum(plan.grid[index]) == value
        return frame, index, same, source.absent.news(), source.bad.news()

    changed: set[int] = set()
    absent, bad = AbsentChunks(report.chunks), BadChunks(report.chunks)
    with ThreadPoolExecutor(plan.workers, thread_name_prefix="tileconv") as pool:
        for frame, index, same, absences, damage in run_bounded(
            pool, is_same, tiles(), plan.workers + 1
        ):
            listener.each_tile()
            if same:
                absent.merge(absences)
                bad.merge(damage)
                continue
            if not filled:
                raise _another_input(journal, source, plan, index)
            changed.add(frame.number)
    report.absent, report.bad = absent, bad
    return changed


def _another_input(journal: Journal, source: Source, plan: Plan, index: int) -> OutputExistsError:
    (y0, x0), (y1, x1) = plan.grid[index].region.start, plan.grid[index].region.stop
    where = f"rows {y0}:{y1}, columns {x0}:{x1} of plane {plan.grid[index].plane}"
    return refusal(
        journal.folder,
        [f"{INPUT}: {source.identity} has other pixels around {where} than the one before"],
    )


class StoredCheck:
    """Looks at the checksums of what was staged before, in a thread, while the run goes on.

    Close it, whatever became of the run.

    Parameters
    ----------
    journal : Journal
        Read as far as it goes now.
    sink : Sink
    """

    def __init__(self, journal: Journal, sink: Sink) -> None:
        self._journal, self._sink = journal, sink
        self._lost: set[int] = set()
        self._failed: BaseException | None = None
        self._stop = threading.Event()
        self._frames = journal.frames()
        journal.numbered = True
        self._thread = threading.Thread(target=self._run, name="tileconv-check", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look at nothing more."""
        self._stop.set()
        self._thread.join()

    def lost(self, check: Callable[[], None]) -> set[int]:
        """Numbers of the frames of which a tile is not as it was stored, once all are looked at.

        Parameters
        ----------
        check : callable
            Called now and then; may raise to stop.
        """
        while self._thread.is_alive():
            check()
            self._thread.join(_LOOK_S)
        if self._failed is not None:
            raise self._failed
        return self._lost

    def _run(self) -> None:
        try:
            for frame in self._frames:
                if not self._sink.intact(frame.receipt, self._check):
                    self._lost.add(frame.number)
        except _StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._failed = error
        finally:
            self._journal.numbered = bool(self._lost)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """Nobody waits for what is looked at."""
