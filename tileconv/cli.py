"""The command door: options in, a job done; `tileconv.__main__` says what it came to.

Nothing but click is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from tileconv import __version__, stopping
from tileconv.cli_options import (
    KEYS,
    convolution_options,
    debug_option,
    dtype_options,
    input_options,
    json_option,
    place_options,
    quiet_option,
    run_options,
    storage_options,
)
from tileconv.errors import ConfigError, StorageError, TileconvError

if TYPE_CHECKING:
    from tileconv.jobs.config import Job


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Examples:\n\n\b\n"
    "  tileconv convolve slide.tif smooth.zarr --kernel gaussian:sigma=3 --memory 512MiB\n"
    "  tileconv run configs/quickstart.toml\n"
    "  tileconv plan slide.tif edges.tif --kernel sobel:axis=x --dtype float32",
)
@click.version_option(__version__, prog_name="tileconv")
def cli() -> None:
    """Convolve rasters that do not fit in memory, exactly as scipy would.

    A TIFF, Zarr or .npy of any size goes in, a finished TIFF or Zarr comes out; memory
    stays under a cap, and the output's name appears only when it is complete.

    Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a bug,
    2 usage or configuration, 3 bad input, 4 output exists, 5 locked by another run,
    6 storage failed, 7 memory cap cannot be kept, 8 cluster failed, 9 verification failed,
    130, 143 and 129 interrupted.
    """


@cli.command(short_help="Convolve INPUT into OUTPUT.")
@click.argument("input", metavar="INPUT")
@click.argument("output", metavar="OUTPUT")
@convolution_options
@input_options
@dtype_options
@storage_options
@run_options
@json_option
@quiet_option
@debug_option
def convolve(input: str, output: str, **options: Any) -> None:  # noqa: A002 - the argument's name
    """Convolve INPUT, a TIFF, Zarr or .npy, into OUTPUT, a .tif or .zarr.

    Defaults are in brackets.
    """
    _run_jobs([("", _job_of_options(input, output, options))], options)


@cli.command(short_help="Run jobs from TOML files.")
@click.argument("configs", metavar="CONFIG...", nargs=-1, required=True)
@run_options
@json_option
@quiet_option
@debug_option
def run(configs: tuple[str, ...], **options: Any) -> None:
    """Run the job of each CONFIG, one after another; options given here win over it."""
    _run_jobs([(config, _job_of_config(config, options)) for config in configs], options)


@cli.command(short_help="Say what a job would do, and what it would take.")
@click.argument("arguments", metavar="INPUT OUTPUT | CONFIG...", nargs=-1, required=True)
@convolution_options
@input_options
@dtype_options
@storage_options
@run_options
@json_option
@debug_option
def plan(arguments: tuple[str, ...], as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Plan a job, given as to `convolve` or to `run`: tiles, method, memory, reads, disk.

    Nothing is written.
    """
    from tileconv.jobs.describe import plan_dict, plan_table
    from tileconv.jobs.run import plan as make_plan
    from tileconv.stores.disk import free_bytes

    plans = []
    for config, job in _jobs_of("plan", arguments, options):
        with _naming(config):
            made = make_plan(job)
        free = free_bytes(job.output_path)
        plans.append(plan_dict(made) | {"free_disk_bytes": free})
        if not as_json:
            _print(plan_table(made, free))
    if as_json:
        _print_json(plans)


@cli.command(short_help="Compare an output with what scipy gives.")
@click.argument("arguments", metavar="INPUT OUTPUT | CONFIG...", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Check every pixel, not a sample.")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Tiles of the output to check besides corners, edges and places where tiles meet.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Chooses the sample.",
)
@convolution_options
@input_options
@dtype_options
@storage_options
@run_options
@json_option
@quiet_option
@debug_option
def verify(arguments: tuple[str, ...], as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Verify the output of a job, given as to `convolve` or to `run`.

    A sample of tiles, with every corner and edge, is recomputed from the input and compared, within
    the job's memory cap, by other readers and sums than the job's. Where that would take more than
    twice the run, fewer pixels of each tile are compared, unless --all is given. Leaves with 9 if a
    pixel is out of the error bound.
    It takes every option of the job, so that the same arguments can be given; those that say
    where it runs, and what it replaces, mean nothing here.
    """
    from tileconv.errors import VerificationError
    from tileconv.verification.result import Verification, verification_table
    from tileconv.verification.verify import verify as verify_output

    told: list[dict[str, object]] = []

    def tell(found: Verification) -> None:
        told.append(found.as_dict())
        if not as_json:
            _print(verification_table(found))

    try:
        for config, job in _jobs_of("verify", arguments, options):
            with _naming(config):
                found = verify_output(
                    job,
                    everything=options["everything"],
                    samples=options["samples"],
                    seed=options["seed"],
                    each_tile=_each_tile(quiet=options["quiet"]),
                )
            tell(found)
    except TileconvError as error:
        # Whether or not this can be printed, the error is what happened.
        with contextlib.suppress(StorageError):
            if isinstance(error, VerificationError) and error.verification is not None:
                tell(cast("Verification", error.verification))
            if as_json and told:
                _print_json(told)
        raise
    if as_json:
        _print_json(told)


@cli.command(short_help="Say what is in a raster.")
@click.argument("path")
@place_options
@json_option
@debug_option
def info(path: str, as_json: bool, **options: Any) -> None:  # noqa: FBT001
    """Say what is in the raster at PATH: shape, axes, dtype, chunks, compression."""
    from tileconv.jobs.describe import raster_dict, raster_table
    from tileconv.stores.formats import open_source

    with open_source(
        Path(path),
        level=options["level"] or 0,
        dims=options["axes"],
    ) as source:
        raster = source.raster
        if as_json:
            _print_json([{"path": path, **raster_dict(raster)}])
        else:
            for name, text in [("path", path), *raster_table(raster)]:
                _print(f"{name:<12} {text}")


@cli.command(short_help="Make up a raster of any size.")
@click.argument("path")
@click.option(
    "--pattern",
    type=click.Choice(["slide", "step", "zoneplate"]),
    default="slide",
    show_default=True,
    help="Stained tissue, two halves of ones, or rings of rising frequency.",
)
@click.option("--shape", default="16384x16384", show_default=True, help="Rows x columns [x 3].")
@click.option("--dtype", default="uint8", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@storage_options
@run_options
@json_option
@quiet_option
@debug_option
def sample(path: str, pattern: str, shape: str, dtype: str, seed: int, **options: Any) -> None:
    """Make up a raster and write it to PATH, a .tif or .zarr.

    The same pixels on every machine, whatever the workers.
    """
    from tileconv.jobs.config import Job

    tables: dict[str, dict[str, object]] = {
        "input": {"sample": pattern, "shape": shape, "dtype": dtype, "seed": seed},
        "kernel": {"name": "identity"},
        "output": {"path": path, "dtype": "input"},
    }
    _run_jobs([("", Job.of(_with_options(tables, options)))], options)


def _with_options(
    tables: dict[str, dict[str, object]], options: dict[str, Any]
) -> dict[str, dict[str, object]]:
    """Tables of a job with the options that were given laid over them."""
    for name, (table, key) in KEYS.items():
        if options.get(name) is not None:
            tables[table] = {**tables.get(table, {}), key: options[name]}
    return tables


def _job_of_options(source: str, output: str, options: dict[str, Any]) -> Job:
    from tileconv.jobs.config import Job
    from tileconv.jobs.spelling import parse_kernel

    if options["kernel"] is None:
        raise click.UsageError("--kernel is missing; give one like gaussian:sigma=2 or psf.npy")
    tables: dict[str, dict[str, object]] = {
        "input": {"path": source},
        "kernel": parse_kernel(options["kernel"]),
        "output": {"path": output},
    }
    return Job.of(_with_options(tables, options))


def _job_of_config(config: str, options: dict[str, Any]) -> Job:
    from tileconv.jobs.config import Job

    given = {name for name in ("kernel", *KEYS) if options.get(name) is not None}
    if strays := given - {"overwrite", "memory", "workers", "cluster", "durability"}:
        stray = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(strays))
        raise click.UsageError(f"{stray}: write it into the config {config} instead")
    return Job.load(config, overrides=_with_options({}, options))


def _jobs_of(
    command: str, arguments: tuple[str, ...], options: dict[str, Any]
) -> list[tuple[str, Job]]:
    """Jobs given as to `convolve` or as to `run`, each with its config, or ""."""
    if all(argument.endswith(".toml") for argument in arguments):
        return [(config, _job_of_config(config, options)) for config in arguments]
    if len(arguments) == 2:
        return [("", _job_of_options(*arguments, options))]
    raise click.UsageError(
        f"{command} takes INPUT OUTPUT, or configs ending in .toml; got {' '.join(arguments)}"
    )


def _each_tile(*, quiet: bool) -> Callable[[int, int], None]:
    """Looks at signals after a tile, and says now and then how far a verification is."""
    last = time.monotonic()

    def each_tile(done: int, count: int) -> None:
        nonlocal last
        stopping.check()
        now = time.monotonic()
        if not quiet and now - last >= 10:
            last = now
            with contextlib.suppress(OSError):
                click.echo(f"{done} of {count} tiles verified", err=True)

    return each_tile


def _run_jobs(jobs: list[tuple[str, Job]], options: dict[str, Any]) -> None:
    """Run jobs one after another, each with the config it came from, or ""."""
    from tileconv.jobs.progress import BarProgress, Listener, PlainProgress
    from tileconv.jobs.run import run as run_job

    told: Listener = Listener()
    if not options["quiet"]:
        told = BarProgress() if sys.stderr.isatty() else PlainProgress()
    told.each_tile, told.committing = stopping.check, stopping.too_late
    reports = []
    if len(jobs) > 1:
        _check_together(jobs)
    try:
        for config, job in jobs:
            stopping.release()
            with _naming(config):
                report = run_job(job, restart=options["restart"], listener=told)
                reports.append(report.as_dict())
    finally:
        told.stop()
    if options["as_json"]:
        _print_json(reports)


def _check_together(jobs: list[tuple[str, Job]]) -> None:
    """Find now what would stop a later job, but for its input, which an earlier one may make."""
    from tileconv.jobs.opening import check_output_name

    taken: dict[Path, str] = {}
    for config, job in jobs:
        with _naming(config):
            check_output_name(job)
            job.make_operation()
            output = job.output_path.absolute()
            if output in taken and not job.output.overwrite:
                raise ConfigError(f"output {output} is that of {taken[output]}; choose another")
            taken[output] = config


@contextlib.contextmanager
def _naming(config: str) -> Iterator[None]:
    """Errors of a config's job say which config it was; ``""`` for a job that has none."""
    try:
        yield
    except ConfigError as error:
        if config in str(error):
            raise
        raise ConfigError(f"{config}: {error}") from error


def _print_json(values: list[dict[str, object]]) -> None:
    """One document: the value, or the list where there are several."""
    _print(json.dumps(values[0] if len(values) == 1 else values, indent=2))


def _print(text: str) -> None:
    """Write a result to stdout, now, so that a full disk behind it is noticed."""
    if sys.stdout is None:
        raise StorageError("cannot write the result to stdout, which is closed; redirect it")
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError as error:
        raise StorageError(
            f"cannot write the result to stdout: {error.strerror}; redirect it elsewhere"
        ) from None
