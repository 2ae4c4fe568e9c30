"""Whether an output holds what its job would write: recomputed with scipy, and compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tileconv.core.grid import Tile, TileGrid
from tileconv.core.pixels import Cast
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError, VerificationError
from tileconv.jobs.backends import ThreadsBackend, warm_up
from tileconv.jobs.config import Job, Run, as_job
from tileconv.jobs.executors import run_bounded
from tileconv.jobs.limits import peak_resident_bytes, resident_bytes
from tileconv.jobs.memory import BASE_MIB, FFT_MIB, MIB, settle
from tileconv.jobs.opening import open_input, refuse_missing
from tileconv.jobs.plan import Plan, make_plan
from tileconv.jobs.run import JobLike
from tileconv.jobs.work import Work, resolve
from tileconv.stores.absent import Missing
from tileconv.stores.formats import format_of, open_source
from tileconv.stores.source import Source
from tileconv.verification.checking import CheckTask, recomputing, told, unreadable
from tileconv.verification.comparison import Comparison
from tileconv.verification.result import Verification, accusation
from tileconv.verification.sampling import is_unit, sampled

NDIMAGE_MIB = 15
"""Memory of scipy.ndimage: 12 MiB, Python 3.11 and 3.13, x86-64, 2026-11."""

EachTile = Callable[[int, int], None]
"""Is told how many tiles are checked, and of how many."""


def verify(
    job: JobLike,
    *,
    everything: bool = False,
    samples: int = 16,
    seed: int = 0,
    each_tile: EachTile | None = None,
) -> Verification:
    """Recompute an output's pixels with scipy, from its source, and compare.

    A value is right if a sum within the error bound of scipy's, ``64 eps * sum |weights| *
    max |pixels|``, would have become it: eps that of the dtype the job forms its sums in, the
    largest pixel of those that the job's own engine sees with it. Sums of whole numbers into
    an integer dtype must be exact. Pixels above 1e15 (1e150 in double precision), which stand
    for missing data, count only where the kernel reaches them.

    Parameters
    ----------
    job : Job, path to a TOML config, or mapping of its tables
        What the output was made by. Its memory cap and workers hold here as well; a cluster
        is not used.
    everything : bool
        Check every pixel. Otherwise: of the first, the last and one more plane the corners and
        tiles along each edge, `samples` tiles more, and places where tiles meet.
    samples : int
        Tiles taken by chance; a tile is a whole write unit of the output.
    seed : int
        The same sample for the same seed.
    each_tile : callable, optional
        Called as ``each_tile(done, count)`` after each tile; may raise to stop.

    Returns
    -------
    Verification
        Of an output that passed.

    Raises
    ------
    VerificationError
        The output has another shape or dtype than the job's, cannot be read, or holds a value
        that is out of the bound; then its `verification` is a `Verification`.
    ConfigError
        The job is none, or the output is not there.
    InputError
        The input cannot be read.
    MemoryCapError
        The cap cannot be kept.
    """
    if samples < 0 or seed < 0:
        raise ConfigError(f"samples and seed are 0 or more, got {samples} and {seed}")
    job = as_job(job)
    if job.input.path is not None:
        refuse_missing(job.resolve(job.input.path))
    format_of(job.output_path)
    _refuse_missing_output(job.output_path)
    wanted = None if everything else (samples, seed)
    found = _compared(job, wanted, each_tile or (lambda _, __: None))
    if not found.passed:
        raise VerificationError(accusation(found), found)
    return found


def _compared(job: Job, wanted: tuple[int, int] | None, each_tile: EachTile) -> Verification:
    """What comparing an output comes to; `wanted` are samples and seed, None for everything."""
    path = job.output_path
    with open_input(job) as source:
        source.require_chunks()
        work = resolve(job, source.raster, source.tags)
        with _open_output(path, work.layout.raster) as output:
            checked = recomputing(work, output.raster)
            plan = _planned(checked, job.run)
            method = str(work.choice.method)
            sample = None if wanted is None else sampled(_units(work), *wanted)
            # Its engine may hold a spectrum, which the plan of the check does not count.
            del work
            task = CheckTask(checked, source, output)
            return _check(task, plan, (str(path), method), sample, each_tile)


def _refuse_missing_output(path: Path) -> None:
    try:
        refuse_missing(path)
    except ConfigError as error:
        raise ConfigError(f"{told(error)}; run the job first") from None
    except InputError as error:
        raise InputError(f"{told(error)}; check its permissions") from None


def _open_output(path: Path, wanted: Raster) -> Source:
    """The output as a source, once its shape and dtype are the job's."""
    try:
        output = open_source(path, missing=Missing.ERROR)
        there = output.raster
        if there.shape == wanted.shape and there.y_axis != wanted.y_axis:
            # Axes that have no names in the file; the job knows them.
            output.close()
            output = open_source(path, dims=wanted.dims, missing=Missing.ERROR)
    except (InputError, ConfigError) as error:
        raise unreadable(error) from error
    if (there.shape, there.dtype) != (wanted.shape, wanted.dtype):
        output.close()
        is_there, should_be = (
            f"{' x '.join(str(n) for n in raster.shape)} {raster.dtype}"
            for raster in (there, wanted)
        )
        raise VerificationError(
            f"output {path} is {is_there}, the job writes {should_be}; "
            "check the arguments, or run the job again"
        )
    return output


def _planned(work: Work, limits: Run) -> Plan:
    """The plan of a check within what a job's ``[run]`` gives, or the machine."""
    given = ThreadsBackend().resources(work, limits)
    # Not what scipy.signal takes, which jobs by the method of this name are planned with.
    libraries = (BASE_MIB + FFT_MIB + NDIMAGE_MIB) * MIB
    return make_plan(
        work,
        cap_bytes=given.cap_bytes,
        workers=given.threads,
        baseline_bytes=max(libraries, resident_bytes()),
    )


def _units(work: Work) -> TileGrid:
    return TileGrid(work.output_shape, work.layout.unit, work.layout.raster.planes)


def _check(
    task: CheckTask,
    plan: Plan,
    names: tuple[str, str],
    sample: list[Tile] | None,
    each_tile: EachTile,
) -> Verification:
    """Check the tiles of a sample, or of the plan."""
    started = time.perf_counter()
    work, raster = task.work, task.work.layout.raster
    units = _units(work)
    tiles: Iterable[Tile] = plan.grid if sample is None else sample
    count = len(plan.grid) if sample is None else len(sample)
    for source, capacity_bytes in ((task.source, plan.cache_bytes), (task.output, 0)):
        if source.cache is not None:
            source.cache.capacity_bytes = capacity_bytes
    # Import what scipy needs once, before threads would; sums alone need no compiled cast.
    warm_up(replace(work, cast=Cast(work.engine.accumulator)))
    settle()
    result = Comparison()
    with ThreadPoolExecutor(plan.workers, thread_name_prefix="tileconv") as executor:
        for done, part in enumerate(run_bounded(executor, task, tiles, plan.workers + 1), 1):
            result = result.plus(part)
            each_tile(done, count)
    whole = len(units) if sample is None else sum(is_unit(units, tile) for tile in sample)
    return Verification(
        output=names[0],
        shape=raster.shape,
        dtype=str(raster.dtype),
        method=names[1],
        tiles=whole,
        tiles_total=len(units),
        borders=0 if sample is None else len(sample) - whole,
        pixels=result.values // max(1, raster.samples),
        pixels_total=raster.planes * math.prod(raster.spatial),
        result=result,
        elapsed_s=time.perf_counter() - started,
        peak_memory_bytes=peak_resident_bytes(),
        planned_memory_bytes=plan.memory.peak_bytes,
        cap_bytes=plan.cap_bytes,
    )
