"""Where pixels go: the output as a whole, and what writes tiles of it in any process.

One process holds the `Sink`. Every process that computes tiles holds a `Writer`, the same one
or a pickled copy of it; it stores tiles and gives a `Receipt` for each. Receipts come back to
the sink, which makes the output whole from what they say, and from nothing else::

    task -> writer.write -> receipt -> sink.record ... sink.finish
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tileconv.core.grid import Region, TileGrid, ceil_div
from tileconv.stores.layout import Layout

UNIT_FIELDS = 4
"""Numbers that a receipt has for each write unit."""


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """Where write units are stored.

    Parameters
    ----------
    units : ndarray of uint64, shape (units, 4)
        Number in `unit_grid`, offset and length in bytes, and `checksum` of each.
    part : str
        Name of the part file they are in; ``""`` where they are in the output itself.
    """

    units: np.ndarray
    part: str = ""

    @classmethod
    def of(
        cls,
        layout: Layout,
        plane: int,
        region: Region,
        places: Sequence[tuple[int, int, int]],
        part: str = "",
    ) -> Receipt:
        """The receipt of a tile, from offset, length and checksum of each unit, row by row."""
        units = np.empty((len(places), UNIT_FIELDS), np.uint64)
        units[:, 0] = unit_numbers(layout, plane, region)
        units[:, 1:] = places
        return cls(units, part)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all units, as encoded."""
        return int(self.units[:, 2].sum())


class Writer(Protocol):
    """Encodes and stores tiles, in any order, from any number of threads at once.

    Pickling carries the layout and paths; the copy writes part files of its own, so that two
    processes never write the same file. `close` may be called twice; writing afterwards is an
    error.
    """

    @property
    def layout(self) -> Layout:
        """What is written."""

    def write(self, plane: int, region: Region, block: np.ndarray) -> Receipt:
        """Encode and store the pixels of `region`.

        Memory besides the block is at most ``layout.write_bytes``. When it returns, other
        machines that see the file system see what was stored.

        Parameters
        ----------
        plane : int
            Number of the plane, see `Raster`.
        region : Region
            Starts on `Layout.unit`, stops on it or at the end of the raster.
        block : ndarray, shape region.shape + (samples,)
            In the raster's dtype, with any strides.

        Raises
        ------
        ValueError
            The region is not made of whole units (a task that does not own what it writes
            would spoil its neighbour's), or the block has another shape or dtype.
        StorageError
            Naming the path, what failed, and for a full disk the bytes needed and free.
        """

    def close(self) -> None:
        """Write no more."""


class Sink(Protocol):
    """A raster being written; one process holds it.

    Construction takes a layout and a path, where nothing stands yet; it raises
    `OutputExistsError` when something does, and `StorageError` when it cannot be created.
    Told to resume, it takes what another sink of the same layout has left there, whose
    receipts are recorded before anything is written. Until `finish` no reader takes what
    stands there for a raster; part files beside it are the caller's to remove. `close` may be
    called twice and after `finish`. A durable one, and its writers, have what they store
    survive a loss of power before they say that it is stored.
    """

    @property
    def layout(self) -> Layout:
        """What is written."""

    @property
    def writer(self) -> Writer:
        """The writer of this process; pickle it for others."""

    def record(self, receipt: Receipt) -> None:
        """Take units for written. A later receipt for the same ones replaces the first."""

    def holds(self, receipt: Receipt) -> bool:
        """Whether what a receipt names is there, all its bytes; what they are is not looked at."""

    def intact(self, receipt: Receipt, check: Callable[[], None]) -> bool:
        """Whether what a receipt names is there, and has the checksums that it names.

        May be called from another thread while the writer writes other units. `check` is
        called now and then, and may raise to stop.
        """

    def finish(self) -> None:
        """Make the file whole. Raises `StorageError` when a unit is not there."""

    def close(self) -> None:
        """Release the file without making it whole."""


def check_block(layout: Layout, plane: int, region: Region, block: np.ndarray) -> None:
    """Refuse a region that is not made of whole write units, and a block that is not its pixels.

    Raises
    ------
    ValueError
        Anything else would leave a unit half written.
    """
    raster = layout.raster
    whole = Region.of_shape(raster.spatial)
    if not 0 <= plane < raster.planes or region.area == 0 or not whole.contains(region):
        raise ValueError(f"{region} of plane {plane} is not in a raster of {whole.shape}")
    if region.align_out(layout.unit).intersect(whole) != region:
        raise ValueError(f"{region} is not made of whole write units of {layout.unit}")
    if block.shape != (*region.shape, raster.samples):
        raise ValueError(f"a block of {block.shape} is not {region}")
    if block.dtype.newbyteorder("=") != raster.dtype.newbyteorder("="):
        raise ValueError(f"a block of {block.dtype} is not {raster.dtype}")


def unit_grid(layout: Layout) -> TileGrid:
    """The grid of write units, in the order of their numbers."""
    return TileGrid(layout.raster.spatial, layout.unit, layout.raster.planes)


def unit_numbers(layout: Layout, plane: int, region: Region) -> np.ndarray:
    """Numbers in `unit_grid` of the units of a region, row by row."""
    down, across = unit_grid(layout).grid_shape
    (y0, x0), (y1, x1), (uy, ux) = region.start, region.stop, layout.unit
    rows = plane * down + np.arange(y0 // uy, ceil_div(y1, uy))
    columns = np.arange(x0 // ux, ceil_div(x1, ux))
    numbers: np.ndarray = (rows[:, None] * across + columns).ravel()
    return numbers


def unit_regions(layout: Layout, plane: int, region: Region) -> Iterator[tuple[int, Region]]:
    """Number and region of each write unit of a region, row by row."""
    units = unit_grid(layout)
    for number in unit_numbers(layout, plane, region).tolist():
        yield number, units[number].region


def unit_place(layout: Layout, number: int) -> tuple[int, int, int]:
    """Plane, row and column of a write unit, by its number in `unit_grid`."""
    down, across = unit_grid(layout).grid_shape
    plane, rest = divmod(number, down * across)
    return plane, *divmod(rest, across)


def unit_name(layout: Layout, number: int) -> str:
    """A write unit, for people."""
    plane, row, column = unit_place(layout, number)
    return f"row {row}, column {column} of plane {plane}"


def parts_folder(path: Path) -> Path:
    """Where writers keep what is not yet in the output at `path`; beside it, gone at its end."""
    return path.with_name(f"{path.name}.parts")
