"""Zarr v2 and v3 arrays, with and without shards, as a source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.core.grid import Region, ceil_div
from tileconv.core.raster import Raster
from tileconv.errors import BadChunkError, ConfigError, InputError
from tileconv.stores.absent import AbsentChunks, Bad, BadChunks, Missing
from tileconv.stores.axes import raster_dims
from tileconv.stores.chunk_cache import DEFAULT_CACHE_BYTES, ChunkCache
from tileconv.stores.source import Source
from tileconv.stores.zarr.array import axis_names, check_array, open_array
from tileconv.stores.zarr.chunks import (
    ChunkLoader,
    Coords,
    chunk_loader,
    grid_number,
    grid_shape,
)

if TYPE_CHECKING:
    import zarr


LIBRARY_BYTES = 12 << 20
"""Memory of zarr-python: 10 MiB, Python 3.11 and 3.13, x86-64, 2026-11."""


class ZarrSource(Source):
    """A Zarr array as a source of windows; see `tileconv.stores.source.Source`.

    Parameters
    ----------
    source : path or zarr.Array
        A folder that holds an array, or an OME-Zarr group (0.4 or 0.5), of which `level`
        picks a resolution of the first image.
    level : int
        Resolution level; an array has only level 0.
    dims : str or sequence of str, optional
        Names of the axes, where the file's own will not do; see `raster_dims`.
    missing : Missing
        What to do about absent chunks.
    bad : Bad
        What to do about chunks that cannot be read or decoded.
    cache : ChunkCache, optional
        Decoded chunks, possibly shared with other sources; None for one of its own of
        `DEFAULT_CACHE_BYTES`.

    Raises
    ------
    InputError
        It is no Zarr array of numbers, or not one that can be trusted.
    ConfigError
        It has no such level, or `dims` do not fit.
    """

    def __init__(
        self,
        source: str | Path | zarr.Array[Any],
        *,
        level: int = 0,
        dims: str | Sequence[str] | None = None,
        missing: Missing = Missing.WARN,
        bad: Bad = Bad.ERROR,
        cache: ChunkCache | None = None,
    ) -> None:
        self._source = source
        self._options = {"level": level, "dims": dims, "missing": missing, "bad": bad}
        self._label, array, names = _opened(source, level)
        self._shape, self._chunk = tuple(array.shape), tuple(array.chunks)
        self._grid = grid_shape(self._shape, self._chunk)
        dtype = np.dtype(array.dtype).newbyteorder("=")
        # Zarr v2 may leave the fill value open; zarr reads 0 then.
        self._fill = np.asarray(0 if array.fill_value is None else array.fill_value, dtype)
        self._absent = AbsentChunks(math.prod(self._grid), missing)
        self._bad = BadChunks(self._absent.chunks, bad)
        self._cache = ChunkCache(DEFAULT_CACHE_BYTES) if cache is None else cache
        self._token = object()
        loader = chunk_loader(array, self._label)
        self._loader: ChunkLoader | None = loader
        axes = raster_dims(self._shape, dims=dims, names=names)
        self._raster = self._describe(axes, dtype, loader)

    @property
    def raster(self) -> Raster:
        """Description of the raster."""
        return self._raster

    @property
    def path(self) -> Path | None:
        """The folder; None for an array that was given as an object."""
        return Path(self._source) if isinstance(self._source, str | Path) else None

    @property
    def identity(self) -> str:
        """See `Source.identity`; chunks that are written anew make it another array."""
        if self.path is None:
            return super().identity
        try:
            return f"{self.path.resolve()}, chunks and metadata of {self._open_loader().stamp()}"
        except OSError as error:
            raise InputError(f"input {self._label} cannot be looked at: {error.strerror}") from None

    @property
    def absent(self) -> AbsentChunks:
        """Chunks that were not there and were read as fill value."""
        return self._absent

    @property
    def bad(self) -> BadChunks:
        """Chunks that could not be read or decoded, and were filled with the fill value."""
        return self._bad

    @property
    def cache(self) -> ChunkCache:
        """Its decoded chunks; the capacity may be changed."""
        return self._cache

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`; see `Source.read`."""
        loader = self._open_loader()
        target = out.reshape(out.shape[:2] + self._raster.sample_shape)
        for coords, inside, outside in self._pieces(self._raster.plane_index(plane), region):
            number = grid_number(coords, self._grid)
            load = partial(self._load, loader, coords, number)
            chunk = self._cache.get((self._token, number), load)
            if not chunk.ndim:  # The fill value of a chunk that has no pixels.
                self._absent.meet((number,))
                self._bad.meet((number,))
            target[outside] = chunk[inside] if chunk.ndim else chunk

    def require_chunks(self) -> None:
        """Refuse an array that has pixels, none of which was ever stored.

        Raises
        ------
        InputError
            Every chunk is absent.
        """
        if self._raster.nbytes and not self._open_loader().any_stored():
            raise InputError(
                f"{self._label}: every one of its {self._absent.chunks} chunks is missing; "
                "check the path, and that the array was written"
            )

    def close(self) -> None:
        """Let go of the array; reading afterwards is an error."""
        self._loader = None

    def __reduce__(self) -> tuple[Any, ...]:
        path = self.path
        return _reopen, (self._source if path is None else path.absolute(), self._options)

    def _describe(self, dims: tuple[str, ...], dtype: np.dtype, loader: ChunkLoader) -> Raster:
        y = dims.index("y")
        planes = math.prod(self._chunk[:y])
        samples = math.prod(self._shape[y + 2 :])
        # Raster counts chunks in whole pixels: one that is longer than the sample axes, or
        # padded there, counts as more planes.
        planes *= ceil_div(math.prod(self._chunk[y + 2 :]), max(1, samples))
        return Raster(
            reader_bytes=LIBRARY_BYTES,
            shape=self._shape,
            dtype=dtype,
            dims=dims,
            chunk=(self._chunk[y], self._chunk[y + 1]),
            chunk_planes=planes,
            compression=loader.compression,
            table_bytes=loader.table_bytes + ceil_div(self._absent.chunks, 4),
        )

    def _pieces(
        self, plane: tuple[int, ...], region: Region
    ) -> Iterator[tuple[Coords, tuple[int | slice, ...], tuple[slice, ...]]]:
        """Chunks that hold a region: coordinates, part of the chunk, part of the block."""
        y = len(plane)
        lo = (*region.start, *(0 for _ in self._raster.sample_shape))
        hi = (*region.stop, *self._raster.sample_shape)
        before = [divmod(at, size) for at, size in zip(plane, self._chunk[:y], strict=True)]
        axes = [_axis_pieces(*bounds) for bounds in zip(lo, hi, self._chunk[y:], strict=True)]
        for parts in product(*axes):
            coords = (*(at for at, _ in before), *(at for at, _, _ in parts))
            inside: tuple[int | slice, ...] = (
                *(within for _, within in before),
                *(within for _, within, _ in parts),
            )
            yield coords, inside, tuple(without for _, _, without in parts)

    def _load(self, loader: ChunkLoader, coords: Coords, number: int) -> np.ndarray:
        """One chunk; one without pixels is its fill value, an array without axes."""
        try:
            chunk = loader.load(coords)
        except BadChunkError as error:
            self._bad.add(number, loader.name(coords), error)
        else:
            if chunk is not None:
                return chunk
            self._absent.add(number, loader.name(coords))
        return self._fill.copy()

    def _open_loader(self) -> ChunkLoader:
        if self._loader is None:
            raise ValueError(f"{self._label} is closed")
        return self._loader


def _axis_pieces(lo: int, hi: int, size: int) -> list[tuple[int, slice, slice]]:
    """Chunks of `size` that ``lo .. hi - 1`` touches: number, part of it, part of the range."""
    pieces = []
    for at in range(lo // size, ceil_div(hi, size)):
        a, b = max(lo, at * size), min(hi, (at + 1) * size)
        pieces.append((at, slice(a - at * size, b - at * size), slice(a - lo, b - lo)))
    return pieces


def _reopen(source: str | Path | zarr.Array[Any], options: dict[str, Any]) -> ZarrSource:
    return ZarrSource(source, **options)


def _opened(source: object, level: int) -> tuple[str, zarr.Array[Any], Sequence[str | None] | None]:
    """What error messages call the array, the array, and the names of its axes."""
    import zarr

    if isinstance(source, str | Path):
        label = str(source)
        array, names = open_array(Path(source), level)
    elif isinstance(source, zarr.Array):
        label, array, names = str(source.store_path), source, None
        if level:
            raise ConfigError(f"{label} is an array; it has level 0 only, not {level}")
    else:
        kind = type(source).__name__
        raise ConfigError(f"a raster is a path, a numpy or a Zarr array, not a {kind}")
    check_array(array, label)
    return label, array, names or axis_names(array)
