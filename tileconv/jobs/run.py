"""One run of one job: source -> plan -> tiles -> engine -> sink."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tileconv.errors import ConfigError, InputError, StorageError
from tileconv.jobs.backends import Backend, ThreadsBackend
from tileconv.jobs.batches import Batches, BatchTask
from tileconv.jobs.config import Job, Run, as_job
from tileconv.jobs.executors import run_bounded
from tileconv.jobs.plan import Plan, make_plan
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.staging import check_output, stage
from tileconv.jobs.tile_task import TileTask
from tileconv.jobs.work import Work, resolve
from tileconv.stores.absent import Missing
from tileconv.stores.disk import free_bytes
from tileconv.stores.formats import format_of, open_sink, open_source
from tileconv.stores.sink import Sink
from tileconv.stores.source import Source

JobLike = Job | str | os.PathLike[str] | Mapping[str, object]


def run(job: JobLike, *, client: Any = None, listener: Listener | None = None) -> Report:
    """Run a job: convolve its raster into its output, within its memory cap.

    Parameters
    ----------
    job : Job, path to a TOML config, or mapping of its tables
    client : distributed.Client or None
        A dask cluster to run on, whatever ``run.cluster`` says; it is left open. Without
        either, threads of this process do the work.
    listener : Listener or None
        Is told of the plan, of each tile, and of the end.

    Returns
    -------
    Report
        What was done, and what it took.

    Raises
    ------
    TileconvError
        Nothing stands under the output's name then.

    Notes
    -----
    To keep the cap, the C library's threshold for giving freed memory back is fixed in every
    process that works on tiles; see `tileconv.jobs.memory.settle`.
    """
    job = as_job(job)
    check_names(job)
    with open_input(job) as source, backend_of(job.run, client) as backend:
        source.require_chunks()
        work = resolve(job, source.raster, source.tags)
        return execute(
            plan_within(work, job.run, backend),
            source,
            job.output_path,
            backend=backend,
            overwrite=job.output.overwrite,
            listener=listener or Listener(),
        )


def execute(
    plan: Plan,
    source: Source,
    output: Path,
    *,
    backend: Backend,
    overwrite: bool,
    listener: Listener,
) -> Report:
    """Do what was planned: tile after tile into a staged output, and give it its name.

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
    listener : Listener
    """
    check_disk(plan, output, listener)
    report = Report(plan, str(output), source.absent.chunks)
    if backend.link is not None:
        listener.connected(backend.link)
    listener.started(plan)
    with stage(output, overwrite=overwrite) as staging:
        sink = open_sink(plan.work.layout, staging.result)
        try:
            convolve_tiles(plan, source, sink, backend, staging.folder, report, listener)
            sink.finish()
        finally:
            sink.close()
        staging.commit()
    # A config's folder leaves detours in the name: configs/../out.
    tidy = Path(os.path.normpath(output))
    if tidy.exists() and tidy.samefile(output):
        report.output = str(tidy)
    report.close()
    listener.finished(report)
    return report


def convolve_tiles(  # noqa: PLR0913, PLR0917 - the architecture's one sentence
    plan: Plan,
    source: Source,
    sink: Sink,
    backend: Backend,
    folder: Path,
    report: Report,
    listener: Listener,
) -> None:
    """Every tile of a plan, from the source through the backend into the sink."""
    task = TileTask(plan.work, source, sink.writer, plan.cache_bytes)
    count = len(plan.grid)
    batches = Batches(
        range(count), count, target_s=backend.batch_s, tile_s=plan.tile_s, lanes=backend.lanes
    )
    call = BatchTask(plan.grid, task)
    with backend.executor(plan, call, folder) as executor:
        for result in run_bounded(executor, call, batches, backend.in_flight):
            for tile in result.tiles:
                sink.record(tile.receipt)
            batches.learn(result)
            report.add(result)
            listener.advanced(report)
            listener.each_tile()
            if result.error is not None:
                raise result.error


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
def backend_of(limits: Run, client: Any = None) -> Iterator[Backend]:
    """What a job's tiles are worked on by: a client, the cluster it names, or threads."""
    where = limits.cluster if client is None else client
    if where is None:
        yield ThreadsBackend()
        return
    from tileconv.jobs.cluster import connected

    with connected(where, limits) as backend:
        yield backend


def check_names(job: Job) -> None:
    """Refuse what can be refused from the names alone, before a file is opened."""
    source = None if job.input.path is None else job.resolve(job.input.path)
    if source is not None:
        refuse_missing(source)
    format_of(job.output_path)
    check_output(job.output_path, source, overwrite=job.output.overwrite)


def refuse_missing(source: Path) -> None:
    """Say that an input is not there, or may not be looked at, before anything else."""
    try:
        source.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"input {source} does not exist; check input.path") from None
    except OSError as error:
        raise InputError(
            f"input {source} cannot be read: {error.strerror}; check input.path"
        ) from None


def open_input(job: Job) -> Source:
    """The job's source: its file, or its made-up raster."""
    spec = job.input
    if spec.sample is not None:
        from tileconv.stores.sample_source import SampleSource

        return SampleSource(*spec.made_up())
    assert spec.path is not None
    return open_source(
        job.resolve(spec.path),
        level=spec.level,
        dims=spec.axes,
        missing=Missing(spec.missing),
    )


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


def check_disk(plan: Plan, output: Path, listener: Listener) -> None:
    """Refuse to start what cannot end, and say what may not: the disk has too little room.

    Raises
    ------
    StorageError
        The output's size is known, because it is not compressed, and larger than what is free.
    """
    layout, free = plan.work.layout, free_bytes(output)
    if layout.max_bytes <= free:
        return
    if layout.compression == "none":
        raise StorageError(
            f"output {output} needs {layout.max_bytes} bytes, the disk has {free} free; "
            "free some, choose another folder, or compress the output"
        )
    listener.warned(
        f"output {output} takes at most {layout.max_bytes} bytes, the disk has {free} free; "
        "it may not fit"
    )
