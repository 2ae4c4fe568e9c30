"""Which tiles of an output are checked, where not all are; pure.

What goes wrong goes wrong somewhere in particular: in a corner, along an edge, where tiles
meet, in the first or the last. Those are always looked at; the rest by chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np

from tileconv.core.grid import Region, Shape, Tile, TileGrid, ceil_div

REACH = 32
"""Pixels looked at on each side of a border between tiles."""

BORDERS_MIN = 4
"""Fewest places where tiles meet, of those there are."""

Unit = tuple[int, int, int]
"""A write unit: plane, row and column of the grid."""


def sampled(grid: TileGrid, samples: int, seed: int) -> list[Tile]:
    """Whole write units, and windows over borders between the others; no pixel twice.

    The four corners and units along each edge of the first, the last and one other plane;
    `samples` units more, anywhere; and as many places, at least four, where four units meet
    (or two, where they lie in a row), rather those where larger tiles of a run may meet.

    Parameters
    ----------
    grid : TileGrid
        The write units, row by row.
    samples : int
    seed : int
        The same sample for the same seed.

    Returns
    -------
    list of Tile
        Units first, then windows, both in the order of the raster; numbered from 0.
    """
    if not len(grid):
        return []
    rng = np.random.default_rng(seed)
    units = _outline(grid, rng)
    count = min(len(grid), samples + len(units))
    drawn = [_unit(grid, int(i)) for i in rng.choice(len(grid), count, replace=False)]
    units.update([unit for unit in drawn if unit not in units][:samples])
    whole = [(unit[0], _region(grid, unit)) for unit in units]
    windows = set(_windows(grid, units, max(samples, BORDERS_MIN), rng))
    places = [*_ordered(whole), *_ordered(windows)]
    return [Tile(index, plane, region) for index, (plane, region) in enumerate(places)]


def is_unit(grid: TileGrid, tile: Tile) -> bool:
    """Whether a sampled tile is a whole write unit."""
    return tile.region == _region(grid, (tile.plane, *_unit_at(grid, tile.region)))


def _ordered(places: Iterable[tuple[int, Region]]) -> list[tuple[int, Region]]:
    return sorted(places, key=lambda place: (place[0], place[1].start))


def _outline(grid: TileGrid, rng: np.random.Generator) -> set[Unit]:
    """Corners and a unit of each edge, of the first, the last and one more plane."""
    (down, across) = grid.grid_shape
    units: set[Unit] = set()
    for plane in {0, grid.planes - 1, int(rng.integers(grid.planes))}:
        for row, column in product((0, down - 1), (0, across - 1)):
            units.add((plane, row, column))
            units.add((plane, row, int(rng.integers(across))))
            units.add((plane, int(rng.integers(down)), column))
    return units


def _unit(grid: TileGrid, index: int) -> Unit:
    down, across = grid.grid_shape
    return index // (down * across), index // across % down, index % across


def _unit_at(grid: TileGrid, region: Region) -> Shape:
    (y, x), (rows, columns) = region.start, grid.tile
    return y // rows, x // columns


def _region(grid: TileGrid, unit: Unit) -> Region:
    plane, row, column = unit
    down, across = grid.grid_shape
    return grid[(plane * down + row) * across + column].region


def _windows(
    grid: TileGrid, units: set[Unit], count: int, rng: np.random.Generator
) -> Iterator[tuple[int, Region]]:
    """Parts of windows over the places where units meet, but for those in `units`."""
    if grid.grid_shape == (1, 1):
        return
    whole = Region.of_shape(grid.shape)
    # Half a unit at most, so that windows at its two ends do not overlap.
    reach = [max(1, min(REACH, side // 2)) for side in grid.tile]
    for _ in range(count):
        plane = int(rng.integers(grid.planes))
        y, x = (_border(*axis, rng) for axis in zip(grid.shape, grid.tile, strict=True))
        for top, left in product((y - reach[0], y), (x - reach[1], x)):
            box = Region((top, left), (top + reach[0], left + reach[1])).intersect(whole)
            if box.area and (plane, *_unit_at(grid, box)) not in units:
                yield plane, box


def _border(length: int, side: int, rng: np.random.Generator) -> int:
    """A place inside an axis where units, and tiles of a few units, meet; its middle for none."""
    steps = [side << power for power in range(6) if side << power < length]
    if not steps:
        return length // 2
    step = steps[int(rng.integers(len(steps)))]
    return step * int(rng.integers(1, ceil_div(length, step)))
