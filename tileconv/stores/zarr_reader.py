"""Zarr v2 and v3 arrays, with and without shards, as a source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tileconv.core.grid import Region, ceil_div
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.stores.absent import AbsentChunks, Missing
from tileconv.stores.axes import raster_dims
from tileconv.stores.chunk_cache import DEFAULT_CACHE_BYTES, ChunkCache
from tileconv.stores.zarr_chunks import (
    ChunkLoader,
    Coords,
    chunk_loader,
    grid_number,
    grid_shape,
)

if TYPE_CHECKING:
    import zarr

MAX_CHUNKS = 1 << 32
"""Most chunks an array may have: at 512 x 512 a petapixel; more is a mistake or an attack."""

_CODECS = {
    "adler32", "astype", "bitround", "blosc", "bytes", "bz2", "cast_value", "crc32", "crc32c",
    "delta", "endian", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma",
    "packbits", "pcodec", "quantize", "scale_offset", "sharding_indexed", "shuffle", "transpose",
    "zfpy", "zlib", "zstd",
}  # fmt: skip
"""Codecs that may run on a file's word. Not among them: pickle, which runs what the file says,
others that make objects, and whatever else is installed and registered itself."""


class ZarrSource:
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
        cache: ChunkCache | None = None,
    ) -> None:
        self._source = source
        self._options = {"level": level, "dims": dims, "missing": missing}
        if isinstance(source, str | Path):
            self._label = str(source)
            array, names = _open(Path(source), level)
        else:
            self._label = str(source.store_path)
            if level:
                raise ConfigError(f"{self._label} is an array; it has level 0 only, not {level}")
            array, names = source, None
        _check(array, self._label)
        self._shape, self._chunk = tuple(array.shape), tuple(array.chunks)
        self._grid = grid_shape(self._shape, self._chunk)
        dtype = np.dtype(array.dtype).newbyteorder("=")
        # Zarr v2 may leave the fill value open; zarr reads 0 then.
        self._fill = np.asarray(0 if array.fill_value is None else array.fill_value, dtype)
        self._absent = AbsentChunks(math.prod(self._grid), missing)
        self._cache = ChunkCache(DEFAULT_CACHE_BYTES) if cache is None else cache
        self._token = object()
        loader = chunk_loader(array, self._label)
        self._loader: ChunkLoader | None = loader
        axes = raster_dims(self._shape, dims=dims, names=names or _axis_names(array))
        self._raster = self._describe(axes, dtype, loader)

    @property
    def raster(self) -> Raster:
        """What the raster is."""
        return self._raster

    @property
    def path(self) -> Path | None:
        """The folder; None for an array that was given as an object."""
        return Path(self._source) if isinstance(self._source, str | Path) else None

    @property
    def absent(self) -> AbsentChunks:
        """Chunks that were not there and were read as fill value."""
        return self._absent

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._source, self._options)

    def _describe(self, dims: tuple[str, ...], dtype: np.dtype, loader: ChunkLoader) -> Raster:
        y = dims.index("y")
        planes = math.prod(self._chunk[:y])
        samples = math.prod(self._shape[y + 2 :])
        # Raster counts chunks in whole pixels: one that is longer than the sample axes, or
        # padded there, counts as more planes.
        planes *= ceil_div(math.prod(self._chunk[y + 2 :]), max(1, samples))
        return Raster(
            shape=self._shape,
            dtype=dtype,
            dims=dims,
            chunk=(self._chunk[y], self._chunk[y + 1]),
            chunk_planes=planes,
            compression=loader.compression,
            table_bytes=loader.table_bytes + ceil_div(self._absent.chunks, 8),
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
        """One chunk; an absent one is its fill value, an array without axes."""
        chunk = loader.load(coords)
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


def _open(path: Path, level: int) -> tuple[zarr.Array[Any], list[str] | None]:
    """The array at `path`, or the level of the image there; with the image's axis names."""
    import zarr

    try:
        node = zarr.open(str(path), mode="r")
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: permission denied") from error
    except Exception as error:
        # The metadata are the file's, and zarr has no one error for what may be wrong in them.
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a Zarr that can be read: {reason}") from error
    if isinstance(node, zarr.Array):
        if level:
            raise ConfigError(f"{path} is a single array; it has level 0 only, not {level}")
        return node, None
    attributes = dict(node.attrs)
    ome = attributes.get("ome", attributes)
    if not (isinstance(ome, dict) and ome.get("multiscales")):
        keys = sorted(node.array_keys())
        inside = f"it holds {', '.join(keys[:10])}; open one of these" if keys else "it is empty"
        raise InputError(
            f"{path} is a Zarr group, neither an array nor an OME-Zarr image: {inside}"
        )
    try:
        image = ome["multiscales"][0]
        levels = [str(dataset["path"]) for dataset in image["datasets"]]
        names = [axis["name"] if isinstance(axis, dict) else axis for axis in image.get("axes", [])]
        names = [str(name) for name in names]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: its OME-Zarr metadata are not readable: {error!r}") from error
    if not 0 <= level < len(levels):
        raise ConfigError(f"{path} has levels 0 .. {len(levels) - 1}, not {level}")
    if ".." in Path(levels[level]).parts or Path(levels[level]).is_absolute():
        raise InputError(f"{path}: level {level} points outside the image, to {levels[level]!r}")
    try:
        array = node[levels[level]]
    except Exception as error:
        raise InputError(f"{path}: level {level}, {levels[level]!r}, is not there") from error
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: level {level}, {levels[level]!r}, is a group, not an array")
    return array, names or None


def _check(array: zarr.Array[Any], label: str) -> None:
    """Refuse arrays that are no rasters, and metadata that ask for too much."""
    metadata: dict[str, Any] = array.metadata.to_dict()
    if np.dtype(array.dtype).kind not in "biufc":
        raise InputError(
            f"{label} holds {array.dtype}, not numbers; tileconv reads bool, "
            "integer, float and complex arrays"
        )
    grid = metadata.get("chunk_grid", {"name": "regular"})
    if grid["name"] != "regular":
        raise InputError(f"{label} has {grid['name']} chunks; tileconv reads regular ones")
    for name in _codec_names(metadata):
        if name not in _CODECS:
            raise InputError(
                f"{label} is encoded with {name!r}, which tileconv does not decode; "
                "rewrite it with zstd, blosc or gzip"
            )
    if array.chunks and min(array.chunks) < 1:
        raise InputError(f"{label} has chunks of shape {array.chunks}, which hold nothing")
    chunks = math.prod(grid_shape(tuple(array.shape), tuple(array.chunks)))
    if chunks > MAX_CHUNKS:
        raise InputError(f"{label} has {chunks} chunks, more than {MAX_CHUNKS}; rechunk it")


def _codec_names(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Names of all codecs of an array, also inside its shards; numcodecs' without a prefix."""
    stages = [metadata.get("compressor"), *(metadata.get("filters") or ())]
    for codec in [*filter(None, stages), *metadata.get("codecs", ())]:
        named = codec if isinstance(codec, Mapping) else codec.get_config()
        yield str(named.get("id", named.get("name"))).removeprefix("numcodecs.")
        options = named.get("configuration") or {}
        yield from _codec_names({"codecs": options.get("codecs", ())})
        yield from _codec_names({"codecs": options.get("index_codecs", ())})


def _axis_names(array: zarr.Array[Any]) -> list[str | None] | None:
    """Axis names an array carries: Zarr v3's, or xarray's attribute in v2."""
    names = getattr(array.metadata, "dimension_names", None)
    if names is None:
        names = array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple):
        return None
    return [name if isinstance(name, str) else None for name in names]
