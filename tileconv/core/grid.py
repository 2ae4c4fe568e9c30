"""Integer geometry: regions, halos, and the grid of tiles over a raster.

Everything is in array order ``(y, x)``, half-open, and exact integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, int]


def ceil_div(a: int, b: int) -> int:
    """Least integer not below ``a / b``, for ``b > 0``."""
    return -(-a // b)


def align_down(value: int, unit: int) -> int:
    """Greatest multiple of `unit` not above `value`."""
    return value // unit * unit


def align_up(value: int, unit: int) -> int:
    """Least multiple of `unit` not below `value`."""
    return ceil_div(value, unit) * unit


@dataclass(frozen=True, slots=True)
class Halo:
    """How far a pixel's value reaches: pixels read before and after it, for each axis."""

    before: Shape
    after: Shape

    def __post_init__(self) -> None:
        if min(*self.before, *self.after) < 0:
            raise ValueError(
                f"a halo reaches outwards, got before={self.before} after={self.after}"
            )


@dataclass(frozen=True, slots=True)
class Region:
    """A half-open box of pixels: rows ``start[0]:stop[0]``, columns ``start[1]:stop[1]``.

    It may lie outside any raster, where a boundary rule gives its pixels a value.
    """

    start: Shape
    stop: Shape

    @classmethod
    def of_shape(cls, shape: Shape) -> Region:
        """The region of a whole array of `shape`."""
        return cls((0, 0), shape)

    @property
    def shape(self) -> Shape:
        """Rows and columns; an empty region has a 0 in it, never a negative."""
        return (
            max(0, self.stop[0] - self.start[0]),
            max(0, self.stop[1] - self.start[1]),
        )

    @property
    def area(self) -> int:
        """Number of pixels."""
        rows, columns = self.shape
        return rows * columns

    @property
    def slices(self) -> tuple[slice, slice]:
        """The region as an index of an array; only for regions that do not start below 0."""
        return slice(self.start[0], self.stop[0]), slice(self.start[1], self.stop[1])

    def shift(self, by: Shape) -> Region:
        """Moved by `by` pixels."""
        (y0, x0), (y1, x1), (dy, dx) = self.start, self.stop, by
        return Region((y0 + dy, x0 + dx), (y1 + dy, x1 + dx))

    def within(self, outer: Region) -> Region:
        """Coordinates relative to the start of `outer`: ``a[outer][r.within(outer)] == a[r]``."""
        return self.shift((-outer.start[0], -outer.start[1]))

    def grow(self, halo: Halo) -> Region:
        """Every pixel that the pixels of this region read."""
        (y0, x0), (y1, x1) = self.start, self.stop
        return Region(
            (y0 - halo.before[0], x0 - halo.before[1]),
            (y1 + halo.after[0], x1 + halo.after[1]),
        )

    def intersect(self, other: Region) -> Region:
        """Pixels in both; empty, and nowhere in particular, where there are none."""
        y0, x0 = (max(a, b) for a, b in zip(self.start, other.start, strict=True))
        y1, x1 = (min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Region((y0, x0), (max(y0, y1), max(x0, x1)))

    def contains(self, other: Region) -> bool:
        """Whether every pixel of `other` is in this region."""
        return other.area == 0 or self.intersect(other) == other

    def around(self, inner: Region) -> list[Region]:
        """Disjoint regions that make up what is not in `inner`, which this one contains."""
        (y0, x0), (y1, x1) = self.start, self.stop
        (top, left), (bottom, right) = inner.start, inner.stop
        edges = (
            Region((y0, x0), (top, x1)),
            Region((bottom, x0), (y1, x1)),
            Region((top, x0), (bottom, left)),
            Region((top, right), (bottom, x1)),
        )
        return [edge for edge in edges if edge.area]

    def align_out(self, unit: Shape) -> Region:
        """Smallest region around this one whose edges are multiples of `unit`."""
        (y0, x0), (y1, x1), (uy, ux) = self.start, self.stop, unit
        return Region(
            (align_down(y0, uy), align_down(x0, ux)), (align_up(y1, uy), align_up(x1, ux))
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """A unit of work: the region of one plane that one task computes and writes."""

    index: int
    plane: int
    region: Region

    def __str__(self) -> str:
        (y0, x0), (y1, x1) = self.region.start, self.region.stop
        return f"tile {self.index}, plane {self.plane}, rows {y0}:{y1}, columns {x0}:{x1}"


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Tiles that partition every plane of a raster, in the order they are worked on.

    The order is chosen for the cache of decoded chunks: within a plane the grid is
    cut into panels of `panel` tile columns, and each panel is walked row by row, so
    that the chunks two rows of tiles share are still held when the second is read::

        panel = 2          0 1 | 6 7 | 12
                           2 3 | 8 9 | 13
                           4 5 |10 11| 14

    Re-iterable, and any tile can be asked for by its index: nothing is stored that
    grows with the number of tiles.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a plane.
    tile : (int, int)
        Rows and columns of a tile; the last of each axis may be smaller.
    planes : int
        Number of planes.
    panel : int or None
        Tile columns of a panel; None for the whole width.
    """

    shape: Shape
    tile: Shape
    planes: int = 1
    panel: int | None = None

    def __post_init__(self) -> None:
        if min(self.tile) < 1:
            raise ValueError(f"a tile has at least one pixel, got {self.tile}")
        if min(*self.shape, self.planes) < 0:
            raise ValueError(f"negative shape {self.shape} or planes {self.planes}")
        if self.panel is not None and self.panel < 1:
            raise ValueError(f"a panel has at least one column of tiles, got {self.panel}")

    @property
    def grid_shape(self) -> Shape:
        """Tiles down and across."""
        return ceil_div(self.shape[0], self.tile[0]), ceil_div(self.shape[1], self.tile[1])

    def __len__(self) -> int:
        down, across = self.grid_shape
        return down * across * self.planes

    def __iter__(self) -> Iterator[Tile]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of {len(self)}")
        down, across = self.grid_shape
        plane, rest = divmod(index, down * across)
        width = min(self.panel or across, across)
        panel, rest = divmod(rest, down * width)
        row, column = divmod(rest, min(width, across - panel * width))
        y0, x0 = row * self.tile[0], (panel * width + column) * self.tile[1]
        return Tile(
            index,
            plane,
            Region(
                (y0, x0),
                (min(y0 + self.tile[0], self.shape[0]), min(x0 + self.tile[1], self.shape[1])),
            ),
        )
