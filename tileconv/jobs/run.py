"""One run of one job: source -> plan -> tiles -> engine -> sink."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tileconv.errors import ConfigError, InputError, StorageError
from tileconv.jobs.config import Job, Run, as_job
from tileconv.jobs.executors import local_executor, run_bounded
from tileconv.jobs.limits import (
    default_memory_cap,
    resident_bytes,
    usable_cores,
)
from tileconv.jobs.memory import baseline_bytes, settle
from tileconv.jobs.plan import Plan, make_plan
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.spelling import parse_size
from tileconv.jobs.staging import check_output, stage
from tileconv.jobs.tile_task import TileTask
from tileconv.jobs.work import Work, resolve
from tileconv.stores.absent import Missing
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.disk import free_bytes
from tileconv.stores.formats import format_of, open_sink, open_source
from tileconv.stores.source import Source

JobLike = Job | str | os.PathLike[str] | Mapping[str, object]


def run(job: JobLike, *, listener: Listener | None = None) -> Report:
    """Run a job: convolve its raster into its output, within its memory cap.

    Parameters
    ----------
    job : Job, path to a TOML config, or mapping of its tables
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
    To keep the cap, the C library's threshold for giving freed memory back is fixed for the
    whole process; see `tileconv.jobs.memory.settle`.
    """
    job = as_job(job)
    check_names(job)
    with open_input(job) as source:
        return execute(
            plan_for(job, source),
            source,
            job.output_path,
            overwrite=job.output.overwrite,
            listener=listener or Listener(),
        )


def execute(
    plan: Plan,
    source: Source,
    output: Path,
    *,
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
    overwrite : bool
        Whether an output that is there is replaced.
    listener : Listener
    """
    check_disk(plan, output, listener)
    cache = source.cache or ChunkCache(0)
    cache.capacity_bytes = plan.cache_bytes
    report = Report(plan, str(output))
    listener.started(plan)
    with stage(output, overwrite=overwrite) as staging:
        warm_up(plan.work)
        settle()
        sink = open_sink(plan.work.layout, staging.result)
        try:
            task = TileTask(plan.work, source, sink)
            with local_executor(plan.workers) as executor:
                for result in run_bounded(executor, task, plan.grid, plan.workers + 1):
                    report.add(result)
                    listener.advanced(report)
                    listener.each_tile()
            sink.finish()
        finally:
            sink.close()
        staging.commit()
    report.decoded_bytes = cache.load_bytes
    report.absent_chunks, report.absent_first = source.absent.count, source.absent.first
    # A config's folder leaves detours in the name: configs/../out.
    tidy = Path(os.path.normpath(output))
    if tidy.exists() and tidy.samefile(output):
        report.output = str(tidy)
    report.close()
    listener.finished(report)
    return report


def plan(job: JobLike) -> Plan:
    """How a job would be done, and what it will take; nothing is written.

    Parameters
    ----------
    job : Job, path to a TOML config, or mapping of its tables

    Raises
    ------
    TileconvError
        As `run` would, before its first tile.
    """
    job = as_job(job)
    check_names(job)
    with open_input(job) as source:
        return plan_for(job, source)


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


def plan_for(job: Job, source: Source) -> Plan:
    """The plan of a job for an open source."""
    source.require_chunks()
    work = resolve(job, source.raster, source.tags)
    return plan_within(work, job.run)


def plan_within(work: Work, limits: Run) -> Plan:
    """The plan of some work within what a job's ``[run]`` gives, or the machine."""
    return make_plan(
        work,
        cap_bytes=default_memory_cap() if limits.memory is None else parse_size(limits.memory),
        workers=limits.workers or usable_cores(),
        baseline_bytes=max(baseline_bytes(work), resident_bytes()),
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


def warm_up(work: Work) -> None:
    """Compile or load the engine's machine code once, before threads would all do it."""
    rows, columns = work.operation.kernel.shape
    samples = work.source.samples
    block = np.zeros((rows, columns, samples), work.block_dtype)
    work.engine.apply(block, np.empty((1, 1, samples), work.cast.dtype), work.cast)
