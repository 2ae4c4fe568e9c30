"""The memory model: every byte of a run's peak has a name."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tileconv.core.grid import Region, Shape
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

    @property
    def baseline_bytes(self) -> int:
        """What the interpreter and the libraries take."""
        return self.parts["interpreter and libraries"]

    @classmethod
    def of(cls, work: Work, tile: Shape, *, workers: int, baseline_bytes: int) -> Self:
        """The peak of a run with tiles of this shape and without a cache."""
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
        parts = {
            "interpreter and libraries": baseline_bytes,
            "libraries of the reader": source.reader_bytes,
            "offset tables of the input": source.table_bytes,
            "offset tables of the output": layout.table_bytes,
            "kernel, prepared": work.engine.held_bytes,
            "cache of decoded chunks": 0,
            "extended blocks": workers * block.area * source.samples * work.block_dtype.itemsize,
            # A chunk as it is stored, and as it comes out of the codec.
            "chunks being decoded": workers * 2 * source.chunk_bytes,
            "workspace of the engine": workers * workspace,
            "output blocks": workers * computed.area * layout.raster.pixel_bytes,
            "encoded output": workers * layout.write_bytes,
        }
        moving = sum(parts.values()) - baseline_bytes
        parts["slack of the allocator"] = SLACK_BYTES + moving // SLACK_PART
        # Before the first tile there is the compiler, and then what prepares the kernel.
        preparing = work.engine.held_bytes + work.engine.preparing_bytes
        starting = max(COMPILING_MIB * MIB, COMPILED_MIB * MIB + preparing)
        starting += source.reader_bytes + source.table_bytes
        parts["compiling"] = max(0, starting - sum(parts.values()))
        return cls(parts)

    def with_cache(self, cache_bytes: int) -> Self:
        """The same with a cache of this size."""
        # It is in memory when the compiler no longer is.
        compiling = max(0, self.parts["compiling"] - cache_bytes)
        changed = {"cache of decoded chunks": cache_bytes, "compiling": compiling}
        return replace(self, parts={**self.parts, **changed})


SLACK_BYTES = 12 * MIB
SLACK_PART = 16
"""What the C allocator keeps beyond what is asked of it: 12 MiB and a sixteenth."""

BASE_MIB = 130
FFT_MIB = 10
SCIPY_SIGNAL_MIB = 80
COMPILING_MIB = 260
COMPILED_MIB = 190
"""What a process takes besides its tiles, MiB: after it has settled; while it compiles, and from
then until it has settled.

Measured as what was resident once processes had settled, 98 to 119, and as their peak before,
161 to 221, with rasters of 64 x 64, with and without a cache of compiled code; Python 3.11 and
3.13, x86-64, 2026-11. Rounded up, for a system that caches more of LLVM's 170 MiB.
"""

DISTRIBUTED_MIB = 30
"""What a worker of a cluster takes besides, MiB: settled ones had 115 to 136 before their first
tile; the same machine and date. What a worker really has is looked at before a run, too.
"""


def baseline_bytes(work: Work) -> int:
    """What the interpreter and the libraries of a job take once it has settled."""
    libraries = BASE_MIB
    if work.choice.method == "fft":
        libraries += FFT_MIB
    if work.choice.method == "reference":
        libraries += SCIPY_SIGNAL_MIB
    return libraries * MIB


def settle() -> None:
    """Give back what starting up took: called once everything is compiled, before the tiles.

    Two things, of glibc and Linux; elsewhere nothing happens. Freed blocks of 1 MiB and more
    go back to the system at once from here on: glibc would raise that threshold with each one
    that is freed, up to 32 MiB, and keep what lies below it. And the compiler's pages are let
    go: 70 to 110 MiB of them lie in memory after it has run, how many depends on how the
    system has cached its file, and none is needed again; one that is comes back by itself.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        for start, length in _compiler_pages():
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED)


def _compiler_pages() -> list[tuple[int, int]]:
    """Address and length of each mapping of LLVM's file that is as the file is, unwritten."""
    found = []
    name, start, stop, flags = "", 0, 0, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            addresses, flags, name = fields[0], fields[1], fields[-1]
            start, stop = (int(part, 16) for part in addresses.split("-"))
        elif fields[0] == "Anonymous:" and "llvmlite" in name:
            unwritten = fields[1] == "0" and "w" not in flags
            # A page that was written to, even by the linker, would lose what was written.
            found += [(start, stop - start)] if unwritten else []
    return found


_M_MMAP_THRESHOLD = -3
_MADV_DONTNEED = 4
"""Of glibc's malloc.h and Linux's mman.h."""
