"""Where pixels go: the protocol, and how a path finds its writer."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError
from tileconv.stores.layout import Layout
from tileconv.stores.tiff_layout import tiff_layout
from tileconv.stores.tiff_tags import TiffTags
from tileconv.stores.zarr_layout import zarr_layout

__all__ = ["Layout", "Sink", "format_of", "open_sink", "plan_layout"]


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


_ENDINGS = {".tif": "tiff", ".tiff": "tiff", ".zarr": "zarr"}


def format_of(path: str | Path) -> str:
    """The format an output's ending asks for: ``"tiff"`` or ``"zarr"``.

    Raises
    ------
    ConfigError
        For any other ending, and for ``.ome.tif`` and ``.ome.zarr``, which promise metadata
        that would not be there.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    ending = "".join(suffixes[-2:]) if suffixes[-2:-1] == [".ome"] else "".join(suffixes[-1:])
    try:
        return _ENDINGS[ending]
    except KeyError:
        raise ConfigError(
            f"output {str(path)!r} ends in {ending or 'nothing'}, which names no format that can "
            f"be written; use {', '.join(_ENDINGS)}"
        ) from None


def plan_layout(
    file_format: str,
    raster: Raster,
    *,
    compression: str | None = None,
    level: int | None = None,
    chunk: int | None = None,
    tags: TiffTags | None = None,
) -> Layout:
    """How a raster will be stored; pure.

    Parameters
    ----------
    file_format : str
        From `format_of`.
    raster : Raster
        Shape, dtype and axes of the output; its storage fields are not looked at.
    compression, level
        None for the format's default.
    chunk : int or None
        Side of a TIFF tile or Zarr chunk in pixels; None for the format's default, 512.
    tags : TiffTags or None
        Metadata of a TIFF input, that a TIFF output carries on; Zarr has no place for it.

    Raises
    ------
    ConfigError
        The format has no such compression or level, or cannot hold the dtype.
    InputError
        The format cannot hold the raster's shape.
    """
    if file_format == "tiff":
        return tiff_layout(raster, compression=compression, level=level, chunk=chunk, tags=tags)
    return zarr_layout(raster, compression=compression, level=level, chunk=chunk)


def open_sink(layout: Layout, path: str | Path) -> Sink:
    """A sink that writes `layout` to `path`, where nothing may stand yet."""
    # Planning needs the layouts alone, and a job one format's encoders.
    if layout.format == "tiff":
        from tileconv.stores.tiff_writer import TiffSink

        return TiffSink(path, layout)
    from tileconv.stores.zarr_writer import ZarrSink

    return ZarrSink(path, layout)
