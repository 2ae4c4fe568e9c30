"""What a sink will write, decided before a file exists."""

from __future__ import annotations

from dataclasses import dataclass

from tileconv.core.grid import Shape
from tileconv.core.raster import Raster


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a sink will write, and the memory and disk it takes; no file is touched.

    Parameters
    ----------
    format : str
        ``"tiff"`` or ``"zarr"``.
    raster : Raster
        Shape, dtype, axes; its `chunk` is the storage chunk (TIFF tile, Zarr inner chunk).
    unit : (int, int)
        Rows and columns of the write unit: the smallest piece that is written whole, by one
        task. A multiple of the chunk; tiles are multiples of it.
    compression : str
    level : int or None
        None for a codec without levels.
    write_bytes : int
        Most memory one call of `Writer.write` takes besides the block, whatever the block's
        size; every thread that writes takes it once.
    table_bytes : int
        Memory the sink holds from its opening to its end, in the one process that has it.
    max_bytes : int
        Most bytes the finished output can have on disk: pixels that do not compress, tables
        and headers.
    metadata : object or None
        What the format carries besides pixels: `tileconv.stores.tiff.tags.TiffTags` for TIFF.
    """

    format: str
    raster: Raster
    unit: Shape
    compression: str
    level: int | None
    write_bytes: int
    table_bytes: int
    max_bytes: int
    metadata: object | None = None
