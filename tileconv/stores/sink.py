"""Where pixels go: what every sink offers."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tileconv.core.grid import Region
from tileconv.stores.layout import Layout


class Sink(Protocol):
    """A raster being written, tile by tile, in any order, from any number of threads.

    Construction takes a layout and a path, where nothing stands yet; it raises
    `OutputExistsError` when something does, and `StorageError` when it cannot be created.
    `close` may be called twice and after `finish`; writing afterwards is an error.
    """

    @property
    def layout(self) -> Layout:
        """What is written."""

    def write(self, plane: int, region: Region, block: np.ndarray) -> int:
        """Encode and store the pixels of `region`; returns the bytes stored.

        Parameters
        ----------
        plane : int
            Number of the plane, see `Raster`.
        region : Region
            Starts on `Layout.unit`, stops on it or at the end of the raster; written once.
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

    def finish(self) -> None:
        """Make the file whole. Raises `StorageError` when a unit was never written."""

    def close(self) -> None:
        """Release the file without making it whole."""
