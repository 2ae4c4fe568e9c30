"""The memory model: every byte of a run's peak has a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from tileconv.core.grid import Region, Shape, ceil_div

if TYPE_CHECKING:
    from tileconv.jobs.plan import Work

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak resident bytes of one process, part by part.

    Parameters
    ----------
    parts : mapping of str to int
        Bytes of each part; those of the workers are for all of them together.
    """

    parts: Mapping[str, int]

    @property
    def peak_bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @classmethod
    def of(
        cls, work: Work, tile: Shape, *, workers: int, cache_bytes: int, baseline_bytes: int
    ) -> Self:
        """The peak of a run with tiles of this shape."""
        source, layout = work.source, work.layout
        # The largest piece: a tile in the middle, pushed off the engine's lattice.
        lattice = work.engine.lattice
        offset = tuple(0 if t % n == 0 else n - 1 for t, n in zip(tile, lattice, strict=True))
        shape = tuple(min(t, n) for t, n in zip(tile, work.output_shape, strict=True))
        region = Region((offset[0], offset[1]), (offset[0] + shape[0], offset[1] + shape[1]))
        computed = region.align_out(lattice)
        block = work.operation.window(computed)
        workspace = work.engine.workspace_bytes(
            computed.shape, source.samples, work.block_dtype, work.cast.dtype
        )
        tiles = source.planes * ceil_div(work.output_shape[0], tile[0]) * ceil_div(
            work.output_shape[1], tile[1]
        )  # fmt: skip
        parts = {
            "interpreter and libraries": baseline_bytes,
            "offset tables of the input": source.table_bytes,
            "offset tables of the output": layout.table_bytes,
            "record of finished tiles": ceil_div(tiles, 8),
            "kernel, prepared": work.engine.held_bytes,
            "cache of decoded chunks": cache_bytes,
            "extended blocks": workers * block.area * source.samples * work.block_dtype.itemsize,
            # A chunk as it is stored, and as it comes out of the codec.
            "chunks being decoded": workers * 2 * source.chunk_bytes,
            "workspace of the engine": workers * workspace,
            "output blocks": workers * computed.area * layout.raster.pixel_bytes,
            "encoded output": workers * layout.write_bytes,
        }
        moving = sum(parts.values()) - baseline_bytes
        parts["slack of the allocator"] = SLACK_BYTES + moving // SLACK_PART
        return cls(parts)

    def with_cache(self, cache_bytes: int) -> Self:
        """The same with a cache of this size."""
        return replace(self, parts={**self.parts, "cache of decoded chunks": cache_bytes})


SLACK_BYTES = 8 * MIB
SLACK_PART = 16
"""What the C allocator keeps beyond what is asked of it: 8 MiB and a sixteenth."""


def baseline_bytes(work: Work) -> int:
    """What the interpreter and the libraries of a job take, compiling included.

    Measured as the peak of a process that plans the job, compiles its engine and opens
    its stores, with the largest value seen on Python 3.11 and 3.13, x86-64, 2026-11,
    rounded up to 5 MiB.
    """
    libraries = BASE_MIB
    if work.choice.method == "fft":
        libraries += FFT_MIB
    if work.choice.method == "reference":
        libraries += SCIPY_SIGNAL_MIB
    if work.layout.format == "zarr":
        libraries += ZARR_MIB
    return libraries * MIB


BASE_MIB = 190
FFT_MIB = 15
SCIPY_SIGNAL_MIB = 80
ZARR_MIB = 30
