"""Where pixels come from: the protocol, and how a path finds its reader."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.stores.absent import AbsentChunks, Missing
from tileconv.stores.array_source import NpySource, NumpySource, is_npy
from tileconv.stores.chunk_cache import ChunkCache

if TYPE_CHECKING:
    import zarr


class Source(Protocol):
    """A raster that can be read by windows.

    Construction opens the file and checks it; it raises `InputError` for what cannot be
    read. `read` may be called from any number of threads at once. Pickling carries the
    path and the options, never the handle or pixels; the copy opens the file anew. `close`
    may be called twice; reading afterwards is an error.
    """

    @property
    def raster(self) -> Raster:
        """What the raster is."""

    @property
    def path(self) -> Path | None:
        """The file or folder it reads; None for pixels in memory."""

    @property
    def absent(self) -> AbsentChunks:
        """Chunks that the format allows to be missing and that were read as fill value."""

    @property
    def cache(self) -> ChunkCache | None:
        """What its decoded chunks go through; None for a source without chunks."""

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`, which lies inside the raster.

        Parameters
        ----------
        plane : int
            Number of the plane, see `Raster`.
        region : Region
        out : ndarray, shape region.shape + (samples,)
            Any strides and any dtype that the pixels can be cast to by assignment.

        Raises
        ------
        InputError
            Naming file, page or array, chunk and byte range.
        """

    def require_chunks(self) -> None:
        """Refuse a raster that has pixels, none of which was ever stored.

        Raises
        ------
        InputError
            Every chunk is absent.
        """

    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


# Byte order, then 42 for a classic TIFF, 43 for a BigTIFF.
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")


def open_source(
    source: str | os.PathLike[str] | np.ndarray | zarr.Array[Any],
    *,
    level: int = 0,
    dims: str | Sequence[str] | None = None,
    missing: Missing = Missing.WARN,
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
        from tileconv.stores.zarr_reader import ZarrSource

        return ZarrSource(source, level=level, dims=dims, missing=missing, cache=cache)
    path = Path(source)
    try:
        is_zarr, head = _look_at(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"input {path} does not exist; check the path") from None
    except OSError as error:
        raise InputError(
            f"input {path} cannot be read: {error.strerror}; check its permissions"
        ) from error
    if is_zarr:
        from tileconv.stores.zarr_reader import ZarrSource

        return ZarrSource(path, level=level, dims=dims, missing=missing, cache=cache)
    if is_npy(head):
        _refuse_level(level, str(path))
        return NpySource(path, dims=dims)
    if head.startswith(_TIFF_MAGIC):
        from tileconv.stores.tiff_reader import TiffSource

        return _tiff_with_dims(
            TiffSource(path, level=level, missing=missing, cache=cache), dims, path
        )
    what = "a folder without Zarr metadata" if path.is_dir() else "of no format tileconv knows"
    raise InputError(f"input {path} is {what}; give a TIFF, a Zarr or a .npy file")


def _look_at(path: Path) -> tuple[bool, bytes]:
    """Whether a path is a Zarr, and else the first bytes of the file. Raises OSError."""
    path.stat()
    if path.is_dir():
        # Listed, because a folder that must not be listed seems to hold nothing.
        names = {entry.name for entry in os.scandir(path)}
        return path.suffix.lower() == ".zarr" or not names.isdisjoint(_ZARR_METADATA), b""
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
            f"dims {','.join(dims)!r} are not those of {path}, {own}; leave dims out for a TIFF"
        )
    return source
