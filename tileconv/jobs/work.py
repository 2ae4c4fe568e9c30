"""What a job computes, resolved: everything a pixel's value depends on, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tileconv.core.boundary import Boundary
from tileconv.core.engines import build_engine
from tileconv.core.engines.base import Engine
from tileconv.core.grid import Region, Shape
from tileconv.core.kernels import Kernel
from tileconv.core.methods import Choice, Method, choose
from tileconv.core.operation import Operation
from tileconv.core.pixels import Cast, accumulation_dtype, default_output_dtype
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
    """

    source: Raster
    operation: Operation
    choice: Choice
    engine: Engine
    block_dtype: np.dtype
    cast: Cast
    refuse_clipped: bool
    layout: Layout

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


BuildEngine = Callable[[Method, Kernel, np.dtype], Engine]
"""Makes the engine of a method for a kernel and the dtype of its sums."""


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
    dtype = job.output_dtype(source.dtype) or default_output_dtype(source.dtype, kernel)
    accumulator = accumulation_dtype(source.dtype, dtype, kernel)
    cast = Cast(dtype, nan_fill=job.output.nan_fill)
    cast.check(accumulator)
    choice = choose(
        kernel,
        source.dtype,
        accumulator,
        output_dtype=dtype,
        forced=job.convolution.method,
    )
    axis = source.y_axis
    output = Raster(
        (*source.shape[:axis], *output_shape, *source.shape[axis + 2 :]), dtype, source.dims
    )
    file_format = format_of(job.output_path)
    same_place = None if tags is None else tags.moved(operation.placement)
    return Work(
        source=source,
        operation=operation,
        choice=choice,
        engine=build(choice.method, kernel, accumulator),
        block_dtype=_block_dtype(source.dtype, accumulator, operation),
        cast=cast,
        refuse_clipped=job.output.overflow == "error",
        layout=plan_layout(
            file_format,
            output,
            compression=job.output.compression,
            level=job.output.compression_level,
            chunk=job.output.tile,
            tags=same_place if file_format == "tiff" else None,
        ),
    )


def _block_dtype(dtype: np.dtype, accumulator: np.dtype, operation: Operation) -> np.dtype:
    """The input's dtype, or the accumulator where that cannot hold the fill value."""
    if operation.boundary is not Boundary.FILL:
        return dtype
    with np.errstate(all="ignore"):
        held = np.array(operation.fill_value).astype(dtype)
    return dtype if held == operation.fill_value else accumulator
