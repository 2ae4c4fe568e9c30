"""The memory model: every byte of a run's peak has a name."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from tileconv.core.grid import Region, Shape, ceil_div
from tileconv.jobs.work import Work

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
            "libraries of the reader": source.reader_bytes,
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


SLACK_BYTES = 12 * MIB
SLACK_PART = 16
"""What the C allocator keeps beyond what is asked of it: 12 MiB and a sixteenth."""

BASE_MIB = 190
FFT_MIB = 8
SCIPY_SIGNAL_MIB = 80
"""What a process takes before its first tile, MiB; the additions for what some jobs need.

Measured as the peak of processes whose rasters are 64 x 64, with an empty cache of compiled
code, the largest value on Python 3.11 and 3.13, x86-64, 2026-11, rounded up: 181 for direct
and separable, 187 for fft.
"""


def baseline_bytes(work: Work) -> int:
    """What the interpreter and the libraries of a job take, compiling included."""
    libraries = BASE_MIB
    if work.choice.method == "fft":
        libraries += FFT_MIB
    if work.choice.method == "reference":
        libraries += SCIPY_SIGNAL_MIB
    return libraries * MIB


def return_freed_memory() -> None:
    """Have the C library give freed blocks of 128 KiB and more back to the system at once.

    glibc raises that threshold each time such a block is freed, up to 32 MiB, and from then
    on keeps what lies below it: chunks, encoded tiles and batches leave holes that count as
    resident. Measured on a cap of 512 MiB: 355 to 380 MiB without, 345 with, every time.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library has its own ways
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 << 10)


_M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""
