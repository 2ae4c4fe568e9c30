"""Where pixels go: the protocol, and the layout a sink will write, known before it exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tileconv.core.grid import Region, Shape
from tileconv.core.raster import Raster


@dataclass(frozen=True, slots=True)
class Layout:
    """What a sink will write, decided by the planner without touching a file.

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
        None for the codec's own default.
    """

    format: str
    raster: Raster
    unit: Shape
    compression: str
    level: int | None
    metadata: object | None = None


class Sink(Protocol):
    """A raster being written, tile by tile, in any order, from any number of threads."""

    @property
    def layout(self) -> Layout:
        """What is written."""

    def write(self, plane: int, region: Region, block: np.ndarray) -> int:
        """Encode and store the pixels of `region`; returns the bytes stored.

        Parameters
        ----------
        plane : int
        region : Region
            Starts on `Layout.unit`, stops on it or at the end of the raster; written once.
        block : ndarray, shape region.shape + (samples,)
            In the raster's dtype.
        """

    def finish(self) -> None:
        """Make the file whole. Raises `StorageError` when a tile was never written."""

    def close(self) -> None:
        """Release the file without making it whole."""
