"""What a job computes, resolved: everything a pixel's value depends on, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tileconv.core.accumulators import (
    ROUNDING,
    accumulate_named,
    accumulation_dtype,
    default_output_dtype,
    held_fill,
    may_round,
)
from tileconv.core.boundary import Boundary
from tileconv.core.engines import build_engine
from tileconv.core.engines.base import Engine
from tileconv.core.grid import Region, Shape
from tileconv.core.methods import Choice, choose
from tileconv.core.operation import Mode, Operation
from tileconv.core.pixels import Cast
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.jobs.config import Job
from tileconv.stores.formats import format_of, plan_layout
from tileconv.stores.layout import Layout
from tileconv.stores.tiff.tags import TiffTags


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What is to be computed, whatever the memory and the workers: the job, resolved.

    Everything a pixel's value depends on is here, and nothing else.

    Parameters
    ----------
    source : Raster
        The input.
    operation : Operation
    choice : Choice
        The method and why it was chosen.
    engine : Engine
        The method, prepared for this kernel.
    block_dtype : numpy.dtype
        Of extended blocks: the input's, or a wider one where the fill value needs it.
    cast : Cast
        How sums become output pixels.
    refuse_clipped : bool
        Whether a value outside the output's range is an error.
    layout : Layout
        The output.
    warnings : tuple of str
        What the user should know of the values: that they may not be exact.
    """

    source: Raster
    operation: Operation
    choice: Choice
    engine: Engine
    block_dtype: np.dtype
    cast: Cast
    refuse_clipped: bool
    layout: Layout
    warnings: tuple[str, ...] = ()

    @property
    def output_shape(self) -> Shape:
        """Rows and columns of an output plane."""
        return self.layout.raster.spatial

    def computed(self, region: Region) -> Region:
        """What the engine computes for a tile: the tile, out to the engine's own lattice."""
        whole = Region.of_shape(self.output_shape)
        return region.align_out(self.engine.lattice).intersect(whole)

    def window(self, region: Region) -> Region:
        """Input positions read for a tile."""
        return self.operation.window(self.computed(region))


BuildEngine = Callable[..., Engine]
"""Makes an engine, as `tileconv.core.engines.build_engine` does."""


def resolve(
    job: Job, source: Raster, tags: TiffTags | None = None, *, build: BuildEngine = build_engine
) -> Work:
    """What `job` computes from a raster like `source`.

    Parameters
    ----------
    job : Job
    source : Raster
        Description of the input.
    tags : TiffTags or None
        Metadata a TIFF output carries on.
    build : callable
        What makes the engine; whoever computes nothing with it needs none.

    Raises
    ------
    ConfigError
        The kernel, the dtype or the method does not fit the raster.
    InputError
        The raster's dtype cannot be convolved.
    """
    if source.dtype.kind not in "biufc":
        raise InputError(f"pixels of dtype {source.dtype} cannot be convolved; convert them first")
    operation = job.make_operation()
    kernel = operation.kernel
    output_shape = operation.output_shape(source.spatial)
    if 0 in output_shape and 0 not in source.shape:
        raise ConfigError(
            f"mode 'valid' leaves no pixel: the kernel has {kernel.shape[0]} x {kernel.shape[1]} "
            f"weights, the raster {source.spatial[0]} x {source.spatial[1]} pixels; "
            "use mode 'same'"
        )
    values = _values(job, source.dtype, operation, build)
    dtype = values.cast.dtype
    axis = source.y_axis
    output = Raster(
        (*source.shape[:axis], *output_shape, *source.shape[axis + 2 :]), dtype, source.dims
    )
    file_format = format_of(job.output_path)
    same_place = None if tags is None else tags.moved(operation.placement)
    return Work(
        source=source,
        operation=values.operation,
        choice=values.choice,
        engine=values.engine,
        block_dtype=values.block_dtype,
        cast=values.cast,
        refuse_clipped=job.output.overflow == "error",
        layout=plan_layout(
            file_format,
            output,
            compression=job.output.compression,
            level=job.output.compression_level,
            chunk=job.output.tile,
            tags=same_place if file_format == "tiff" else None,
        ),
        warnings=values.warnings,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """The parts of `Work` that values depend on."""

    operation: Operation
    choice: Choice
    engine: Engine
    block_dtype: np.dtype
    cast: Cast
    warnings: tuple[str, ...]


def _values(job: Job, pixels: np.dtype, operation: Operation, build: BuildEngine) -> _Values:
    """How the sums of pixels of a dtype are formed and cast, and the fill value as they see it."""
    kernel, fill = operation.kernel, _fill_read(operation)
    dtype = job.output_dtype(pixels) or default_output_dtype(pixels, kernel)
    accumulate = accumulate_named(job.convolution.accumulate)
    accumulator = accumulation_dtype(pixels, dtype, kernel, accumulate=accumulate, fill=fill)
    cast = Cast(dtype, nan_fill=job.output.nan_fill)
    cast.check(accumulator)
    forced = job.convolution.method
    choice = choose(kernel, pixels, accumulator, output_dtype=dtype, forced=forced, fill=fill)
    engine = build(choice.method, kernel, accumulator, limbs=choice.limbs)
    rounds = may_round(pixels, dtype, kernel, accumulator, fill)
    block_dtype = pixels
    if fill is not None:
        block_dtype, held = held_fill(pixels, accumulator, fill)
        operation = replace(operation, fill_value=held)
    warnings = _rounding(accumulator) if rounds else ()
    return _Values(operation, choice, engine, block_dtype, cast, warnings)


def _fill_read(operation: Operation) -> complex | None:
    """The fill value where outputs read it; None where they read no pixel outside the raster."""
    inside = operation.mode is Mode.VALID or operation.kernel.shape == (1, 1)
    filled = operation.boundary is Boundary.FILL and not inside
    return operation.fill_value if filled else None


def _rounding(accumulator: np.dtype) -> tuple[str, ...]:
    """The warning of integers that may not be exact."""
    why = f"no 64-bit integer dtype holds every sum, so they are formed in {accumulator}"
    return (f"{ROUNDING}: {why}; smaller weights or a raster of fewer bits would be exact",)
