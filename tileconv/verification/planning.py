"""How a check is done within the memory cap and the time that it may take; pure.

The memory model is the check's own: what a run plans with knows boundary rules and engines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tileconv.core.grid import Region, Tile, TileGrid, ceil_div
from tileconv.errors import MemoryCapError
from tileconv.jobs.memory import MIB, SLACK_BYTES, SLACK_PART
from tileconv.jobs.work import Work
from tileconv.verification.reading import Reading
from tileconv.verification.recomputation import Recomputation

BASE_MIB = 95
"""Memory of a process besides its pieces: 70 to 80 MiB with scipy.fft, scipy.ndimage and
tifffile, without a compiler; Python 3.11, x86-64, 2026-11."""

SIDE, WIDE_SIDE, LEAST_SIDE = 256, 512, 32
"""Rows and columns computed at a time; the second for kernels beyond half the first. Arrays of
256 x 256 stay below the size that the allocator gives back and asks for anew."""

LEAST_PATCHES = 8
"""Fewest squares that are taken of a tile where not all of it is checked."""

RUN_SHARE = 2
"""A check takes at most so many times what the run takes, if it takes longer than `SHORT_NS`."""

SHORT_NS = 1e9
"""Time any check may take: twice as long as starting a run takes."""

# Rough costs of moving pixels, ns a byte, and of a tile and a piece, 2-core x86-64, 2026-11.
_DECODE_NS, _ENCODE_NS, _RAW_NS = 3.0, 5.0, 0.8
_TILE_NS, _PIECE_NS = 2e6, 6e5

_WEIGHT_BYTES = 96
"""Bytes needed on the way for one weight, in long double."""


@dataclass(frozen=True, slots=True, eq=False)
class CheckPlan:
    """How an output is checked.

    Parameters
    ----------
    recomputation : Recomputation
    input, output : Reading
        As they are read within the cap.
    parts : mapping of str to int
        Bytes of everything.
    workers : int
    cap_bytes : int
    share : float
        Of each tile's pixels, roughly, that are checked.
    """

    recomputation: Recomputation
    input: Reading
    output: Reading
    parts: Mapping[str, int]
    workers: int
    cap_bytes: int
    share: float = 1.0

    @property
    def peak_bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a check.

    Parameters
    ----------
    workers : int
        Threads.
    cap_bytes : int
        Of memory.
    resident_bytes : int
        In memory already.
    """

    workers: int
    cap_bytes: int
    resident_bytes: int


Build = Callable[[int], Recomputation]
"""Makes the recomputation for so many rows and columns at a time."""


def plan_check(
    work: Work,
    readings: tuple[Reading, Reading],
    build: Build,
    *,
    limits: Limits,
    everything: bool,
) -> CheckPlan:
    """The largest pieces that keep the cap; tileconv's own readers where others would not.

    Raises
    ------
    MemoryCapError
        Nothing fits; names the smallest cap that would.
    """
    least: int | None = None
    workers, cap_bytes = limits.workers, limits.cap_bytes
    weights = work.operation.kernel.weights
    libraries = max(BASE_MIB * MIB, limits.resident_bytes)
    sides = [side for side in (WIDE_SIDE, SIDE, 128, 64, LEAST_SIDE) if side <= _side(work)]
    built: dict[int, Recomputation] = {}
    fitting: CheckPlan | None = None
    for without in ((), (0,), (1,), (0, 1)):
        if any(readings[number].reader is None for number in without):
            continue
        for side in sides:
            if side not in built:
                kernel_bytes = _WEIGHT_BYTES * weights.size
                # Small kernels are prepared to find out how much is needed besides.
                if kernel_bytes > SLACK_BYTES and libraries + kernel_bytes > cap_bytes:
                    least = libraries + SLACK_BYTES + 2 * kernel_bytes
                    break
                built[side] = build(side)
            found = _parts(work, readings, without, built[side], workers, libraries)
            total = sum(found.values())
            least = total if least is None else min(least, total)
            if total > cap_bytes:
                continue
            why = "another reader would exceed the memory cap"
            given = [
                reading.without_other(why) if number in without else reading
                for number, reading in enumerate(readings)
            ]
            plan = CheckPlan(built[side], given[0], given[1], found, workers, cap_bytes)
            # Better small pieces, and what they share decoded once.
            if cap_bytes - total >= workers * sum(reading.decoded_bytes for reading in given):
                return _keeping(plan, work, everything=everything)
            fitting = fitting or plan
        if fitting is not None:
            return _keeping(fitting, work, everything=everything)
    assert least is not None
    raise MemoryCapError(
        f"a memory cap of {cap_bytes / MIB:.4g} MiB cannot be kept with {workers} "
        f"worker{'s' if workers > 1 else ''}: the smallest that can is "
        f"{ceil_div(least, MIB)} MiB; raise --memory or lower --workers"
    )


def _side(work: Work) -> int:
    return SIDE if max(work.operation.kernel.shape) <= SIDE // 2 else WIDE_SIDE


def _parts(
    work: Work,
    readings: tuple[Reading, Reading],
    without: tuple[int, ...],
    recomputation: Recomputation,
    workers: int,
    libraries: int,
) -> dict[str, int]:
    """Peak bytes, part by part, without pieces that are kept."""
    decoded = [
        reading.raster.chunk_bytes if number in without else reading.decoded_bytes
        for number, reading in enumerate(readings)
    ]
    rasters = [reading.raster for reading in readings]
    workspace = recomputation.workspace_bytes(
        work.output_shape, work.source.samples, work.source.dtype, work.cast.dtype
    )
    parts = {
        "interpreter and libraries": libraries,
        "libraries of the readers": max(raster.reader_bytes for raster in rasters),
        # tileconv's and the other reader's.
        "offset tables": 2 * sum(raster.table_bytes for raster in rasters),
        "kernel, prepared": recomputation.held_bytes
        + _WEIGHT_BYTES * work.operation.kernel.weights.size,
        "decoded pieces that are kept": 0,
        # As it is stored, as it is decoded, and a copy of that.
        "pieces being decoded": workers * 3 * max(decoded),
        "workspace": workers * workspace,
    }
    parts["slack of the allocator"] = SLACK_BYTES + (sum(parts.values()) - libraries) // SLACK_PART
    return parts


def _keeping(plan: CheckPlan, work: Work, *, everything: bool) -> CheckPlan:
    """The plan with as many decoded pieces kept as are of use, and fit."""
    kernel, unit = work.operation.kernel.shape, work.layout.unit
    spare = (plan.cap_bytes - plan.peak_bytes) * SLACK_PART // (SLACK_PART + 1)
    needs = []
    for reading, reach in ((plan.input, kernel), (plan.output, (1, 1))):
        raster, chunk = reading.raster, reading.raster.chunk
        if chunk is None:
            needs.append(0)
            continue
        rows, columns = (
            min(ceil_div(u + k, c) + 1, ceil_div(n, c))
            for u, k, c, n in zip(unit, reach, chunk, raster.spatial, strict=True)
        )
        number = rows * columns * plan.workers
        if everything and reach is kernel:
            number += rows * ceil_div(raster.spatial[1], chunk[1])
        needs.append(number * raster.chunk_bytes)
    kept = min(sum(needs), max(0, spare))
    for reading, need in zip((plan.input, plan.output), needs, strict=True):
        reading.keep(kept * need // sum(needs) if need else 0)
    parts = {**plan.parts, "decoded pieces that are kept": kept}
    parts["slack of the allocator"] += ceil_div(kept, SLACK_PART)
    return replace(plan, parts=parts)


def thinned(plan: CheckPlan, work: Work, tiles: list[Tile], build: Build) -> CheckPlan:
    """The plan with fewer pixels of each tile, where all of them would take too long."""
    samples = max(1, work.source.samples)
    pixels = sum(tile.region.area for tile in tiles) * samples
    budget = max(RUN_SHARE * run_ns(work), SHORT_NS)
    fixed = len(tiles) * _tile_ns(work)
    if fixed + pixels * plan.recomputation.ns_per_pixel <= budget:
        return plan
    # The largest squares of which there are enough: many small ones take longer.
    sides = [side for side in (128, 64, LEAST_SIDE) if side <= plan.recomputation.side]
    for patch in sides:
        recomputation = build(patch)
        pixel_ns = recomputation.ns_per_pixel + _PIECE_NS / patch**2
        share = max(0.0, budget - fixed) / (pixels * pixel_ns)
        if share >= 1:
            return plan
        if share * math.prod(work.layout.unit) >= LEAST_PATCHES * patch**2:
            break
    return replace(plan, recomputation=recomputation, share=share)


def run_ns(work: Work) -> float:
    """Estimated time of the whole run, on one core."""
    raster, source = work.layout.raster, work.source
    values = raster.planes * math.prod(work.output_shape) * max(1, source.samples)
    read_ns = _RAW_NS if source.compression == "none" else _DECODE_NS
    write_ns = _RAW_NS if work.layout.compression == "none" else _ENCODE_NS
    moved = read_ns * source.nbytes + write_ns * raster.nbytes
    return float(values * work.choice.ns_per_pixel + moved)


def _tile_ns(work: Work) -> float:
    """Estimated time of reading one tile of both rasters, which no thinning saves."""
    source, unit = work.source, work.layout.unit
    window = [n + k - 1 for n, k in zip(unit, work.operation.kernel.shape, strict=True)]
    if source.chunk is not None:
        window = [n + c for n, c in zip(window, source.chunk, strict=True)]
    window = [min(n, limit) for n, limit in zip(window, source.spatial, strict=True)]
    area = min(math.prod(unit), math.prod(work.output_shape))
    written = area * work.layout.raster.pixel_bytes
    return _TILE_NS + _DECODE_NS * (math.prod(window) * source.pixel_bytes + written)


def pieces(region: Region, side: int) -> Iterator[Region]:
    """A region in squares of a side, row by row."""
    (top, left), (bottom, right) = region.start, region.stop
    for y in range(top, bottom, side):
        for x in range(left, right, side):
            yield Region((y, x), (min(y + side, bottom), min(x + side, right)))


def patches(tile: Tile, side: int, share: float, seed: int) -> list[Region]:
    """Squares of a tile: its corners, some along its edges, some anywhere.

    Parameters
    ----------
    tile : Tile
    side : int
        Of a square.
    share : float
        Of its pixels.
    seed : int
        The same squares for the same seed.
    """
    grid = TileGrid(tile.region.shape, (side, side))
    down, across = grid.grid_shape
    count = max(LEAST_PATCHES, math.ceil(share * len(grid)))
    every = list(pieces(tile.region, side))
    if count >= len(every):
        return every
    corners = {0, across - 1, (down - 1) * across, down * across - 1}
    edges = [
        n for n in range(len(every))
        if n // across in (0, down - 1) or n % across in (0, across - 1)
    ]  # fmt: skip
    rng = np.random.default_rng([seed, tile.index])
    taken = set(corners)
    rest = count - len(taken)
    for of, number in ((edges, rest // 3), (range(len(every)), rest)):
        left = [n for n in rng.permutation(np.array(of)).tolist() if n not in taken]
        taken.update(left[: min(number, count - len(taken))])
    return [every[n] for n in sorted(taken)]
