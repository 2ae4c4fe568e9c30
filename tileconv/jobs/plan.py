"""How a job will be done, decided before a pixel is read: tiles, order, memory, reads.

The planner sees descriptions, never files: planning a raster of a petapixel takes as
long as planning a thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tileconv.core.boundary import plan_axis
from tileconv.core.grid import Region, Shape, TileGrid, align_down, align_up, ceil_div
from tileconv.errors import InputError, MemoryCapError
from tileconv.jobs.memory import MIB, Memory
from tileconv.jobs.work import Work

MAX_TILE_PIXELS = 1 << 24
"""Largest tile, so that a run can be watched, stopped and gone on with."""

MAX_TILE_NS = 5e9
"""Longest estimated time of a tile, for the same reason: Ctrl-C waits for tiles in flight."""

MAX_TILES = 1 << 40
"""Most tiles of a run; a raster that needs more is a mistake or an attack."""


PANEL_PIXELS, PANEL_CHUNKS = 1 << 15, 64
"""Width of a panel that is never exceeded: the larger of so many pixels, and of so many chunks of
the input. Wider ones would hardly decode less, and take memory that grows with the raster."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a job will be done.

    Parameters
    ----------
    work : Work
        What is computed.
    grid : TileGrid
        The tiles and their order.
    workers : int
        Threads of each process.
    cap_bytes : int
        The memory cap, for each process.
    cache_bytes : int
        Of decoded chunks, in each process.
    memory : Memory
        Peak bytes of each process, part by part.
    read_amplification : float
        Bytes decoded over bytes in the raster; with several processes, at most.
    processes : int
        That work on tiles.
    """

    work: Work
    grid: TileGrid
    workers: int
    cap_bytes: int
    cache_bytes: int
    memory: Memory
    read_amplification: float
    processes: int = 1

    @property
    def lanes(self) -> int:
        """Tiles worked on at once."""
        return self.workers * self.processes

    @property
    def total_bytes(self) -> int:
        """Peak bytes of all processes together."""
        return self.memory.peak_bytes * self.processes

    @property
    def tile_s(self) -> float:
        """Seconds one tile should take; rough."""
        tile = min(self.grid.tile[0], self.work.output_shape[0]) * self.grid.tile[1]
        return self.work.choice.ns_per_pixel * tile * max(1, self.work.source.samples) / 1e9


def make_plan(
    work: Work, *, cap_bytes: int, workers: int, baseline_bytes: int, processes: int = 1
) -> Plan:
    """The cheapest tiles and order whose peak memory stays within the cap.

    Parameters
    ----------
    work : Work
    cap_bytes : int
        Most bytes a process may have in memory.
    workers : int
        Threads of a process.
    baseline_bytes : int
        What the interpreter and the libraries take.
    processes : int
        Several share no cache: what two tiles both read, each may have to decode.

    Raises
    ------
    MemoryCapError
        Nothing fits; names the smallest cap that would.
    """
    if 0 in work.layout.raster.shape:
        grid = TileGrid(work.output_shape, work.layout.unit, work.source.planes)
        memory = Memory.of(work, grid.tile, workers=0, baseline_bytes=baseline_bytes)
        return Plan(work, grid, workers, cap_bytes, 0, memory, 1.0, processes)
    best: tuple[float, Plan] | None = None
    least: int | None = None
    for tile in _tile_shapes(work):
        bare = Memory.of(work, tile, workers=workers, baseline_bytes=baseline_bytes)
        least = bare.peak_bytes if least is None else min(least, bare.peak_bytes)
        if bare.peak_bytes > cap_bytes:
            continue
        spare = cap_bytes - bare.peak_bytes
        layout = _columns if processes > 1 else _panels
        grid, cache_bytes, amplification = layout(work, tile, workers, spare)
        memory = bare.with_cache(cache_bytes)
        plan = Plan(work, grid, workers, cap_bytes, cache_bytes, memory, amplification, processes)
        cost = _cost(plan)
        if best is None or cost < best[0]:
            best = cost, plan
    if best is None:
        assert least is not None
        raise MemoryCapError(
            f"a memory cap of {cap_bytes / MIB:.4g} MiB cannot be kept with {workers} "
            f"worker{'s' if workers > 1 else ''}{' in each process' if processes > 1 else ''}: "
            f"the smallest that can is {ceil_div(least, MIB)} MiB; "
            "raise --memory or lower --workers"
        )
    if len(best[1].grid) > MAX_TILES:
        raise InputError(f"the raster needs {len(best[1].grid)} tiles, more than {MAX_TILES}")
    return best[1]


def plan_on(plan: Plan, grid: TileGrid) -> Plan:
    """The plan of the same work on other tiles: those of a run that is gone on with.

    Raises
    ------
    MemoryCapError
        They do not fit the cap.
    """
    if grid == plan.grid:
        return plan
    bare = Memory.of(
        plan.work, grid.tile, workers=plan.workers, baseline_bytes=plan.memory.baseline_bytes
    )
    if bare.peak_bytes > plan.cap_bytes:
        raise MemoryCapError(
            f"the unfinished run has tiles of {grid.tile[0]} x {grid.tile[1]}, which take "
            f"{ceil_div(bare.peak_bytes, MIB)} MiB, more than {plan.cap_bytes // MIB}; raise "
            "--memory, lower --workers, or drop that run with --restart"
        )
    spare = plan.cap_bytes - bare.peak_bytes
    need = _cache_need(plan.work, grid, plan.workers)
    cache_bytes = need if need <= spare else 0
    shared = cache_bytes > 0 and plan.processes == 1
    return replace(
        plan,
        grid=grid,
        cache_bytes=cache_bytes,
        memory=bare.with_cache(cache_bytes),
        read_amplification=_shared(plan.work, grid) if shared else _unshared(plan.work, grid.tile),
    )


def _cache_need(work: Work, grid: TileGrid, workers: int) -> int:
    """Bytes of decoded chunks that serve a row of a panel and what is in the workers' hands."""
    source = work.source
    if source.chunk is None:
        return 0
    rows, columns = (_chunk_span(work, axis, grid.tile[axis]) for axis in (0, 1))
    across = grid.panel or grid.grid_shape[1]
    kept = rows * _chunk_span(work, 1, across * grid.tile[1])
    return (kept + workers * rows * columns) * source.chunk_planes * source.pixel_bytes


def _tile_shapes(work: Work) -> Iterator[Shape]:
    """Tiles of whole write units: square ones, wide ones, and whatever covers a small raster."""
    unit, shape, seen = work.layout.unit, work.output_shape, set()
    pixel_ns = work.choice.ns_per_pixel * max(1, work.source.samples)
    most = min(MAX_TILE_PIXELS, int(MAX_TILE_NS / pixel_ns))
    steps = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    for down in steps:
        for across in steps:
            if not down <= across <= 4 * down:
                continue
            tile = (
                min(down * unit[0], align_up(shape[0], unit[0])),
                min(across * unit[1], align_up(shape[1], unit[1])),
            )
            fits = tile == unit or tile[0] * tile[1] <= most
            if fits and tile not in seen:
                seen.add(tile)
                yield tile


def _panels(work: Work, tile: Shape, workers: int, spare_bytes: int) -> tuple[TileGrid, int, float]:
    """The widest panels whose chunks the cache can hold until the next row of tiles reads them.

    Returns the grid, the cache's bytes and the read amplification.
    """
    shape, source = work.output_shape, work.source
    across = ceil_div(shape[1], tile[1])
    if source.chunk is None:
        return TileGrid(shape, tile, source.planes), 0, _unshared(work, tile)
    widest = max(PANEL_PIXELS, PANEL_CHUNKS * source.chunk[1])
    panel = min(across, ceil_div(widest, tile[1]))
    while panel >= 1:
        grid = TileGrid(shape, tile, source.planes, None if panel == across else panel)
        if (need := _cache_need(work, grid, workers)) <= spare_bytes:
            return grid, need, _shared(work, grid)
        panel //= 2
    return TileGrid(shape, tile, source.planes), 0, _unshared(work, tile)


def _columns(
    work: Work, tile: Shape, workers: int, spare_bytes: int
) -> tuple[TileGrid, int, float]:
    """Columns of tiles, of which a batch is a piece: its tiles share chunks, batches do not.

    As `_panels`; the amplification is that of tiles that share nothing, a bound.
    """
    grid = TileGrid(work.output_shape, tile, work.source.planes, 1)
    need = _cache_need(work, grid, workers)
    return grid, need if need <= spare_bytes else 0, _unshared(work, tile)


def _shared(work: Work, grid: TileGrid) -> float:
    """Read amplification when the cache holds what a row of a panel and the next both read."""
    chunk, (rows, columns) = work.source.chunk or (1, 1), work.source.spatial
    width = (grid.panel or grid.grid_shape[1]) * grid.tile[1]
    read = _kept_length(work, grid.tile[0], chunk[0]) * _read_length(work, 1, width, chunk[1])
    return read / max(1, rows * columns)


def _unshared(work: Work, tile: Shape) -> float:
    """Read amplification when every tile decodes all that it reads."""
    chunk, (rows, columns) = work.source.chunk or (1, 1), work.source.spatial
    read = _read_length(work, 0, tile[0], chunk[0]) * _read_length(work, 1, tile[1], chunk[1])
    return read / max(1, rows * columns)


def _decoded(work: Work, axis: int, start: int, stop: int, chunk: int) -> tuple[int, int]:
    """Pixels of an axis in the chunks that the outputs ``start:stop`` read.

    Returns those next to the outputs, and those that the edge rule brings from afar.
    """
    length = min(stop, work.output_shape[axis])
    box = ((start, 0), (length, 1)) if axis == 0 else ((0, start), (1, length))
    window, limit = work.window(Region(*box)), work.source.spatial[axis]
    lo, hi = window.start[axis], window.stop[axis]
    near = range(align_down(min(max(lo, 0), limit), chunk), min(max(hi, 0), limit))
    runs: list[list[int]] = []
    for read in sorted(
        plan_axis(lo, hi, limit, work.operation.boundary).reads, key=lambda read: read.start
    ):
        first, last = align_down(read.start, chunk), align_up(read.stop, chunk)
        if runs and first <= runs[-1][1]:
            runs[-1][1] = max(last, runs[-1][1])
        else:
            runs.append([first, last])
    end = align_up(limit, chunk) if work.source.whole_chunks else limit
    sizes = [(min(last, end) - first, first in near or near.start in range(first, last))
             for first, last in runs]  # fmt: skip
    return sum(n for n, own in sizes if own), sum(n for n, own in sizes if not own)


def _read_length(work: Work, axis: int, step: int, chunk: int) -> int:
    """Pixels of an axis decoded in all, when each `step` outputs decode their own chunks."""
    count = ceil_div(work.output_shape[axis], step)
    # The first, the last, and one in between that stands for all the others.
    total = 0
    for index, times in ((0, 1), (1, max(0, count - 2)), (count - 1, 1 if count > 1 else 0)):
        total += times * sum(_decoded(work, axis, index * step, (index + 1) * step, chunk))
    return total


def _kept_length(work: Work, step: int, chunk: int) -> int:
    """Rows decoded in all, when what the next row of tiles reads is still in the cache."""
    rows, limit = work.output_shape[0], work.source.spatial[0]
    last = align_down(rows - 1, step)
    far = _decoded(work, 0, 0, step, chunk)[1]
    if last:
        far += _decoded(work, 0, last, rows, chunk)[1]
    return (align_up(limit, chunk) if work.source.whole_chunks else limit) + far


def _chunk_span(work: Work, axis: int, step: int) -> int:
    """Most pixels of whole chunks that `step` outputs touch along an axis."""
    assert work.source.chunk is not None
    chunk, limit = work.source.chunk[axis], work.source.spatial[axis]
    reach = work.operation.kernel.shape[axis] - 1
    lattice = work.engine.lattice[axis]
    return min(align_up(align_up(step, lattice) + reach, chunk) + chunk, align_up(limit, chunk))


# Rough costs of moving pixels, ns a byte, on one core of a 2-core x86-64 machine, 2026-11;
# they only have to rank tilings of one job.
_DECODE_NS = 3.0
_RAW_NS = 0.8
_TILE_NS = 2e6


def _cost(plan: Plan) -> float:
    """Estimated ns a pixel: what grows when tiles are small, uneven, or read twice."""
    work, grid = plan.work, plan.grid
    rows, columns = (min(t, n) for t, n in zip(grid.tile, work.output_shape, strict=True))
    typical = Region((0, 0), (rows, columns))
    waste = work.computed(typical).area / typical.area
    read_ns = _RAW_NS if work.source.compression == "none" else _DECODE_NS
    pixel = (
        work.choice.ns_per_pixel * waste * work.source.samples
        + read_ns * work.source.pixel_bytes * plan.read_amplification
        + _RAW_NS * work.source.pixel_bytes * work.window(typical).area / typical.area
        + _TILE_NS / typical.area
    )
    # At the end workers wait for the last tile, half of one each on average.
    count = len(grid)
    return pixel * (ceil_div(count, plan.lanes) + 0.5) * plan.lanes / count
