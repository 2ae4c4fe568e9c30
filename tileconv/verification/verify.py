"""Whether an output holds what its job would write: recomputed apart from it, and compared.

What is judged here has no part in judging: the weights, their order and their place, the fill
value and the boundary rule are made from the job as the user wrote it; tifffile, zarr-python and
numpy read the pixels; sums are scipy's and numpy's, in a wider dtype than the job's. Of a run's
own code only what reads words, describes files and chooses a method is used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tileconv.core.boundary import boundary_named
from tileconv.core.grid import Shape, Tile, TileGrid
from tileconv.core.kernels import Kernel
from tileconv.core.methods import Method
from tileconv.core.pixels import Cast, CastCounts
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError, VerificationError
from tileconv.jobs.config import Job, as_job
from tileconv.jobs.executors import run_bounded
from tileconv.jobs.limits import (
    default_memory_cap,
    peak_resident_bytes,
    resident_bytes,
    usable_cores,
)
from tileconv.jobs.memory import settle
from tileconv.jobs.opening import open_input, refuse_missing
from tileconv.jobs.run import JobLike
from tileconv.jobs.spelling import parse_size
from tileconv.jobs.work import Work, resolve
from tileconv.stores.absent import Missing
from tileconv.stores.formats import format_of, open_source
from tileconv.stores.source import Source
from tileconv.verification.checking import CheckTask, told, unreadable
from tileconv.verification.comparison import Comparison, Target
from tileconv.verification.planning import Limits, plan_check, thinned
from tileconv.verification.reading import KeptChunks, Reading, reading_of
from tileconv.verification.recomputation import Judged, Recomputation
from tileconv.verification.result import Verification, failed_line
from tileconv.verification.sampling import is_unit, sampled
from tileconv.verification.weights import weights_of

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
    """Recompute an output's pixels from its source, apart from the job, and compare.

    A value is right if a sum within the error bound of the exact one would have become it. The
    bound is the pixel's own: ``64 eps S M + n t``, with S the sum of the magnitudes of the n
    weights, M the largest pixel under the kernel, eps and the least subnormal t those of the
    dtype the job forms its sums in (``2**-40`` for 64 eps in transforms in double precision).
    Where the window holds zeros alone the value is 0, and sums of whole numbers into an integer
    dtype are exact. Where S M is beyond the dtype's range infinity and NaN are right as well.

    Where this would take more than twice the run, fewer pixels of each tile are checked, unless
    `everything` is asked for.

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
        raise VerificationError(failed_line(found), found)
    return found


def _compared(job: Job, wanted: tuple[int, int] | None, each_tile: EachTile) -> Verification:
    """The verification of an output; `wanted` are samples and seed, None for everything."""
    path = job.output_path
    with open_input(job, KeptChunks()) as source:
        source.require_chunks()
        work = resolve(job, source.raster, source.tags, build=_Uncomputed)
        with (
            _open_output(path, work.layout.raster) as output,
            _readings(job, source, output) as two,
        ):
            build = partial(_recomputation, job, work)
            plan = plan_check(
                work,
                two,
                build,
                limits=_limits(job),
                everything=wanted is None,
            )
            sample = None if wanted is None else sampled(_units(work), *wanted)
            if sample is not None:
                plan = thinned(plan, work, sample, build)
            target = Target(work.cast.dtype, work.cast.nan_fill)
            rule = boundary_named(job.convolution.boundary).value
            task = CheckTask(plan, rule, target, None if wanted is None else wanted[1])
            try:
                return _check(task, work, str(path), sample, each_tile)
            finally:
                plan.input.close_other()
                plan.output.close_other()


@dataclass(frozen=True, slots=True, eq=False)
class _Uncomputed:
    """In the place of a job's engine, which a check does not make: what its sums are formed in."""

    method: Method
    kernel: Kernel
    accumulator: np.dtype
    limbs: int = 1

    lattice = (1, 1)
    held_bytes = preparing_bytes = 0

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Nothing is computed."""
        del shape, samples, block, out
        return 0

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Nothing is computed."""
        del block, out, cast
        raise AssertionError("a check computes nothing with a job's engine")


def _recomputation(job: Job, work: Work, side: int) -> Recomputation:
    """The independent sums of a job, of so many rows and columns at a time."""
    filled = boundary_named(job.convolution.boundary) == "fill"
    judged = Judged(
        accumulator=work.engine.accumulator,
        method=work.choice.method,
        fill=job.convolution.fill_value if filled else None,
        pixels=work.source.dtype,
        output=work.cast.dtype,
    )
    return Recomputation(weights_of(job), judged, side)


def _limits(job: Job) -> Limits:
    """The limits of a job's ``[run]``, or of the machine."""
    given = job.run.memory
    return Limits(
        workers=job.run.workers or usable_cores(),
        cap_bytes=default_memory_cap() if given is None else parse_size(given),
        resident_bytes=resident_bytes(),
    )


@contextmanager
def _readings(job: Job, source: Source, output: Source) -> Iterator[tuple[Reading, Reading]]:
    """Both rasters, read by others."""
    refused = job.input.missing == Missing.ERROR.value
    given = reading_of(source, job.input.level, refuse_absent=refused)
    try:
        written = reading_of(output, refuse_absent=True)
    except BaseException:
        given.close_other()
        raise
    try:
        yield given, written
    finally:
        given.close_other()
        written.close_other()


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
        output = open_source(path, missing=Missing.ERROR, cache=KeptChunks())
        there = output.raster
        if there.shape == wanted.shape and there.y_axis != wanted.y_axis:
            # Axes that have no names in the file; the job knows them.
            output.close()
            output = open_source(path, dims=wanted.dims, missing=Missing.ERROR, cache=KeptChunks())
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


def _units(work: Work) -> TileGrid:
    return TileGrid(work.output_shape, work.layout.unit, work.layout.raster.planes)


def _check(
    task: CheckTask, work: Work, path: str, sample: list[Tile] | None, each_tile: EachTile
) -> Verification:
    """Check the tiles of a sample, or every write unit."""
    started = time.perf_counter()
    plan, raster, units = task.plan, work.layout.raster, _units(work)
    tiles: Iterable[Tile] = units if sample is None else sample
    count = len(units) if sample is None else len(sample)
    # Import what scipy needs once, before threads would.
    plan.recomputation.prepare()
    settle()
    result = Comparison()
    with ThreadPoolExecutor(plan.workers, thread_name_prefix="tileconv") as executor:
        for done, part in enumerate(run_bounded(executor, task, tiles, plan.workers + 1), 1):
            result = result.plus(part)
            each_tile(done, count)
    pixels = result.values // max(1, raster.samples)
    total = raster.planes * math.prod(raster.spatial)
    looked_at = total if sample is None else sum(tile.region.area for tile in sample)
    whole = len(units) if sample is None else sum(is_unit(units, tile) for tile in sample)
    return Verification(
        output=path,
        shape=raster.shape,
        dtype=str(raster.dtype),
        method=str(work.choice.method),
        tiles=whole,
        tiles_total=len(units),
        borders=0 if sample is None else len(sample) - whole,
        share=pixels / looked_at if pixels else 1.0,
        pixels=pixels,
        pixels_total=total,
        input_reader=plan.input.name,
        output_reader=plan.output.name,
        result=result,
        elapsed_s=time.perf_counter() - started,
        peak_memory_bytes=peak_resident_bytes(),
        planned_memory_bytes=plan.peak_bytes,
        cap_bytes=plan.cap_bytes,
    )
