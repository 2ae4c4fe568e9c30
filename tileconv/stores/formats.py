"""How a path finds its reader, by what it holds, and its writer, by its ending."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.stores.absent import Bad, Missing
from tileconv.stores.array_source import NpySource, NumpySource, is_npy
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.layout import Layout
from tileconv.stores.sink import Sink
from tileconv.stores.source import Source
from tileconv.stores.tiff.layout import tiff_layout
from tileconv.stores.tiff.tags import TiffTags
from tileconv.stores.zarr.layout import zarr_layout

if TYPE_CHECKING:
    import zarr

# Byte order, then 42 for a classic TIFF, 43 for a BigTIFF.
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")


def open_source(
    source: str | os.PathLike[str] | np.ndarray | zarr.Array[Any],
    *,
    level: int = 0,
    dims: str | Sequence[str] | None = None,
    missing: Missing = Missing.WARN,
    bad: Bad = Bad.ERROR,
    cache: ChunkCache | None = None,
) -> Source:
    """The source of a raster, found by what the file holds, not by its name.

    Parameters
    ----------
    source : path, numpy array or zarr.Array
        A TIFF, a .npy, a Zarr array, an OME-Zarr image.
    level : int
        Resolution level of a TIFF or OME-Zarr pyramid, 0 the full size.
    dims : str or sequence of str, optional
        Names of an array's axes; see `tileconv.stores.axes.raster_dims`.
    missing : Missing
        What to do about chunks that the format allows to be absent.
    bad : Bad
        What to do about chunks that cannot be read or decoded.
    cache : ChunkCache, optional
        Shared cache of decoded chunks; without one, a source makes its own.

    Raises
    ------
    ConfigError
        The path does not exist, or has no such level or axes.
    InputError
        It cannot be read, or is no raster that tileconv knows.
    """
    if isinstance(source, np.ndarray):
        _refuse_level(level, "an array in memory")
        return NumpySource(source, dims=dims)
    if not isinstance(source, str | os.PathLike):
        from tileconv.stores.zarr.reader import ZarrSource

        return ZarrSource(source, level=level, dims=dims, missing=missing, bad=bad, cache=cache)
    path = Path(source)
    try:
        is_zarr, head = _look_at(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"input {path} does not exist; check the path") from None
    except ValueError:  # A zero byte.
        raise ConfigError(f"input {str(path)!r} is no path; give the name of a file") from None
    except OSError as error:
        raise InputError(
            f"input {path} cannot be read: {error.strerror}; check its permissions"
        ) from error
    if is_zarr:
        from tileconv.stores.zarr.reader import ZarrSource

        return ZarrSource(path, level=level, dims=dims, missing=missing, bad=bad, cache=cache)
    if is_npy(head):
        _refuse_level(level, str(path))
        return NpySource(path, dims=dims)
    if head.startswith(_TIFF_MAGIC):
        from tileconv.stores.tiff.reader import TiffSource

        tiff = TiffSource(path, level=level, missing=missing, bad=bad, cache=cache)
        return _tiff_with_dims(tiff, dims, path)
    what = "a folder without Zarr metadata" if path.is_dir() else "of no format tileconv knows"
    raise InputError(f"input {path} is {what}; give a TIFF, a Zarr or a .npy file")


def _look_at(path: Path) -> tuple[bool, bytes]:
    """Whether a path is a Zarr, and else the first bytes of the file. Raises OSError."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        # Listed, because a folder that must not be listed seems to hold nothing.
        names = {entry.name for entry in os.scandir(path)}
        return path.suffix.lower() == ".zarr" or not names.isdisjoint(_ZARR_METADATA), b""
    if not stat.S_ISREG(mode):
        # Opening a pipe would wait for somebody to write into it.
        raise InputError(f"input {path} is no regular file; give a TIFF, a Zarr or a .npy file")
    with path.open("rb") as file:
        return False, file.read(8)


def _refuse_level(level: int, label: str) -> None:
    if level:
        raise ConfigError(f"{label} has level 0 only, not {level}")


def _tiff_with_dims(source: Source, dims: str | Sequence[str] | None, path: Path) -> Source:
    """A TIFF's own axes are binding: it says itself which are y and x."""
    if dims is not None and tuple(name.lower() for name in dims) != source.raster.dims:
        own = ",".join(source.raster.dims)
        source.close()
        raise ConfigError(
            f"axes {','.join(dims)!r} are not those of {path}, {own}; leave axes out for a TIFF"
        )
    return source


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


def open_sink(
    layout: Layout, path: str | Path, *, resume: bool = False, durable: bool = False
) -> Sink:
    """A sink that writes `layout` to `path`, where nothing may stand yet, or goes on there.

    A durable one stores so that a loss of power takes nothing of what it says is stored.
    """
    # Planning needs the layouts alone, and a job one format's encoders.
    if layout.format == "tiff":
        from tileconv.stores.tiff.writer import TiffSink

        return TiffSink(path, layout, resume=resume, durable=durable)
    from tileconv.stores.zarr.writer import ZarrSink

    return ZarrSink(path, layout, resume=resume, durable=durable)
