"""What is looked at before a run: names, the input, and the room on the disk."""

from __future__ import annotations

from pathlib import Path

from tileconv.errors import ConfigError, InputError, StorageError
from tileconv.jobs.config import Job
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.staging import check_output
from tileconv.stores.absent import Bad, Missing
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.disk import free_bytes
from tileconv.stores.formats import format_of, open_source
from tileconv.stores.source import Source


def check_names(job: Job) -> None:
    """Refuse what can be refused from the names alone, before a file is opened."""
    if (source := job.input_path) is not None:
        refuse_missing(source)
    check_output_name(job)


def check_output_name(job: Job) -> None:
    """Refuse an output that can be refused from the names alone."""
    format_of(job.output_path)
    check_output(job.output_path, job.input_path, overwrite=job.output.overwrite)


def refuse_missing(source: Path) -> None:
    """Say that an input is not there, or may not be looked at, before anything else."""
    try:
        source.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"input {source} does not exist; check input.path") from None
    except OSError as error:
        raise InputError(
            f"input {source} cannot be read: {error.strerror}; check input.path"
        ) from None


def open_input(job: Job, cache: ChunkCache | None = None) -> Source:
    """The job's source: its file, or its made-up raster; `cache` as for `open_source`."""
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
        bad=Bad(spec.on_bad_tile),
        cache=cache,
    )


def check_disk(report: Report, output: Path, listener: Listener, *, parts: bool) -> None:
    """Refuse to start what cannot end, and say what may not: the disk has too little room.

    Parameters
    ----------
    report : Report
        Counts what is stored already, by a run that is gone on with.
    output : Path
    listener : Listener
    parts : bool
        Whether a TIFF is written in parts, which are there until all of them are joined.

    Raises
    ------
    StorageError
        The output's size is known, because it is not compressed, and larger than what is free.
    """
    layout, free = report.plan.work.layout, free_bytes(output)
    copies = 2 if parts and layout.format == "tiff" else 1
    needed = copies * layout.max_bytes - report.stored_bytes
    if needed <= free:
        return
    if layout.compression == "none":
        raise StorageError(
            f"output {output} needs {needed} bytes, the disk has {free} free; "
            "free some, choose another folder, or compress the output"
        )
    listener.warned(
        f"output {output} takes at most {needed} bytes, the disk has {free} free; it may not fit"
    )
