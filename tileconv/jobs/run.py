"""One run of one job: source -> plan -> tiles -> engine -> sink."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tileconv.core.bitmap import Bitmap
from tileconv.jobs.backends import Backend, ThreadsBackend
from tileconv.jobs.batches import Batches, BatchResult, BatchTask
from tileconv.jobs.config import Job, Run, as_job
from tileconv.jobs.executors import run_bounded
from tileconv.jobs.fingerprint import settings_of
from tileconv.jobs.journal import Journal
from tileconv.jobs.opening import check_disk, check_names, open_input
from tileconv.jobs.plan import Plan, make_plan, plan_on
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.resuming import StoredCheck, believed_tiles, count_tiles, withdraw
from tileconv.jobs.staging import Staging, noting_bad_input, stage
from tileconv.jobs.tile_task import TileTask
from tileconv.jobs.work import Work, resolve
from tileconv.stores.absent import Bad, Missing
from tileconv.stores.formats import open_sink
from tileconv.stores.sink import Sink
from tileconv.stores.source import Source

JobLike = Job | str | os.PathLike[str] | Mapping[str, object]


def run(
    job: JobLike,
    *,
    client: Any = None,
    restart: bool = False,
    listener: Listener | None = None,
) -> Report:
    """Run a job: convolve its raster into its output, within its memory cap.

    A job that was killed, or failed, goes on where it was.

    Parameters
    ----------
    job : Job, path to a TOML config, or mapping of its tables
    client : distributed.Client or None
        A dask cluster to run on, whatever ``run.cluster`` says; it is left open. Without
        either, threads of this process do the work.
    restart : bool
        Whether to begin anew instead of going on with what another run has left.
    listener : Listener or None
        Is told of the plan, of each tile, and of the end.

    Returns
    -------
    Report
        What was done, and what it took.

    Raises
    ------
    TileconvError
        Nothing stands under the output's name then; the same call again goes on.

    Notes
    -----
    To keep the cap, the C library's threshold for giving freed memory back is fixed in every
    process that works on tiles; see `tileconv.jobs.memory.settle`.
    """
    job, listener = as_job(job), listener or Listener()
    check_names(job)
    with (
        noting_bad_input(job.output_path, job.input_path),
        open_input(job) as source,
        backend_of(job.run, client, listener) as backend,
    ):
        source.require_chunks()
        work = resolve(job, source.raster, source.tags)
        return execute(
            plan_within(work, job.run, backend),
            source,
            job.output_path,
            backend=backend,
            overwrite=job.output.overwrite,
            restart=restart,
            durable=job.run.durable,
            listener=listener,
        )


def execute(  # noqa: PLR0913 - each is said by name
    plan: Plan,
    source: Source,
    output: Path,
    *,
    backend: Backend,
    overwrite: bool,
    restart: bool,
    durable: bool,
    listener: Listener,
) -> Report:
    """Do what was planned, or what is left of it: tiles into a staged output, then its name.

    Parameters
    ----------
    plan : Plan
    source : Source
        What the plan was made for; its cache is given the size that was planned.
    output : Path
    backend : Backend
        What the plan was made for.
    overwrite : bool
        Whether an output that is there is replaced.
    restart : bool
        Whether to drop what another run has left.
    durable : bool
        Whether what is done must survive a loss of power.
    listener : Listener
    """
    if backend.link is not None:
        listener.connected(backend.link)
    with stage(
        output,
        overwrite=overwrite,
        restart=restart,
        durable=durable,
        needed_bytes=plan.work.layout.max_bytes,
    ) as staging:
        settings = settings_of(plan.work, source)
        is_done = staging.is_done(
            settings,
            no_absent=source.absent.missing is Missing.ERROR,
            no_bad=source.bad.bad is Bad.ERROR,
        )
        journal = Journal(staging.folder, settings, plan.grid, durable=durable)
        # On the tiles of the run that is gone on with, whatever this one would have chosen.
        report = Report(plan_on(plan, journal.grid), str(output), source.absent.chunks)
        if is_done:
            count_tiles(journal, report)
            listener.resumed(report)
        else:
            result = fill(staging, journal, report, source, backend, listener)
            listener.committing()
            journal.committing(result)
            staging.commit(result)
    # A config's folder leaves detours in the name: configs/../out.
    tidy = Path(os.path.normpath(output))
    with contextlib.suppress(OSError):
        if tidy.samefile(output):
            report.output = str(tidy)
    report.close()
    listener.finished(report)
    return report


def fill(
    staging: Staging,
    journal: Journal,
    report: Report,
    source: Source,
    backend: Backend,
    listener: Listener,
) -> Path:
    """Make a staged output whole: every tile that is not done, whatever the run before has left.

    Parameters
    ----------
    staging : Staging
    journal : Journal
        Of its folder.
    report : Report
        Of the plan; counts what is done.
    source, backend
        What the plan was made for.
    listener : Listener

    Returns
    -------
    Path
        The output, which has yet to take its name.
    """
    plan, path = report.plan, staging.result()
    sink = open_sink(plan.work.layout, path, resume=journal.resumed, durable=staging.durable)
    with contextlib.closing(sink), journal.flushing():
        done = believed_tiles(journal, source, sink, report, listener)
        check_disk(report, staging.output, listener, parts=not backend.in_process)
        listener.started(plan)
        for text in plan.work.warnings:
            listener.warned(text)
        listener.resumed(report)

        def heard(result: BatchResult) -> None:
            journal.add(result)
            done.set(result.indices)
            report.add(result)
            listener.advanced(report)
            listener.each_tile()

        def convolve_rest() -> None:
            convolve_tiles(
                plan, source, sink, done, backend=backend, folder=staging.folder, heard=heard
            )

        with contextlib.closing(StoredCheck(journal, sink)) as stored:
            convolve_rest()
            lost = stored.lost(listener.each_tile)
        if lost:
            withdraw(journal, done, report, lost, listener)
            convolve_rest()
        sink.finish()
    return path


def convolve_tiles(  # noqa: PLR0913 - the architecture's one sentence, word by word
    plan: Plan,
    source: Source,
    sink: Sink,
    done: Bitmap,
    *,
    backend: Backend,
    folder: Path,
    heard: Callable[[BatchResult], None],
) -> None:
    """Every tile of a plan that is not done, from the source through the backend to the sink.

    Parameters
    ----------
    plan, source, sink, backend
        Made for each other.
    done : Bitmap
        Which tiles are left out.
    folder : Path
        Where the sink's output is staged.
    heard : callable
        Is given what comes back, once the sink has recorded it; may raise to stop the run.
    """
    task = BatchTask(plan.grid, TileTask(plan.work, source, sink.writer, plan.cache_bytes))
    batches = Batches(
        done.clear(),
        done.size - done.count(),
        target_s=backend.batch_s,
        tile_s=plan.tile_s,
        lanes=backend.lanes,
    )
    failed: Exception | None = None
    with backend.executor(plan, task, folder) as executor:
        for result in run_bounded(
            executor, task, batches, backend.in_flight, failed=lambda one: one.error is not None
        ):
            for tile in result.tiles:
                sink.record(tile.receipt)
            batches.learn(result)
            if result.tiles:
                heard(result)
            failed = failed or result.error
        if failed is not None:
            raise failed


def plan(job: JobLike, *, client: Any = None) -> Plan:
    """How a job would be done, and what it will take; nothing is written.

    Parameters
    ----------
    job : Job, path to a TOML config, or mapping of its tables
    client : distributed.Client or None
        As for `run`.

    Raises
    ------
    TileconvError
        As `run` would, before its first tile.
    """
    job = as_job(job)
    check_names(job)
    with open_input(job) as source, backend_of(job.run, client) as backend:
        source.require_chunks()
        return plan_within(resolve(job, source.raster, source.tags), job.run, backend)


@contextlib.contextmanager
def backend_of(
    limits: Run, client: Any = None, listener: Listener | None = None
) -> Iterator[Backend]:
    """What a job's tiles are worked on by: a client, the cluster it names, or threads."""
    where = limits.cluster if client is None else client
    if where is None:
        yield ThreadsBackend()
        return
    from tileconv.jobs.cluster.connect import connected

    with connected(where, limits, listener or Listener()) as backend:
        yield backend


def plan_within(work: Work, limits: Run, backend: Backend) -> Plan:
    """The plan of some work within what a job's ``[run]`` gives, or the machines."""
    given = backend.resources(work, limits)
    return make_plan(
        work,
        cap_bytes=given.cap_bytes,
        workers=given.threads,
        baseline_bytes=given.baseline_bytes,
        processes=given.processes,
    )
