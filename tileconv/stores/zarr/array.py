"""Opens Zarr arrays and OME-Zarr images, and refuses what cannot be trusted.

OME-Zarr: https://ngff.openmicroscopy.org/0.5/index.html#multiscale-md
"""

from __future__ import annotations

import math
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.errors import ConfigError, InputError, one_line
from tileconv.stores.zarr.chunks import grid_shape

if TYPE_CHECKING:
    import zarr

MAX_CHUNKS = 1 << 32
"""Most chunks an array may have: at 512 x 512 a petapixel; more is a mistake or an attack."""

MAX_METADATA_BYTES = 64 << 20
"""Most bytes of a file of metadata; consolidated ones hold those of every array."""

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")

_CODECS = {
    "adler32", "astype", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta",
    "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits",
    "quantize", "sharding_indexed", "shuffle", "transpose", "zlib", "zstd",
}  # fmt: skip
"""Codecs that may run on a file's word. Not among them: pickle, which runs what the file says,
others that make objects, and whatever else is installed and registered itself."""


def open_array(path: Path, level: int) -> tuple[zarr.Array[Any], list[str] | None]:
    """The array at `path`, or the level of the image there, with the image's axis names.

    Raises
    ------
    InputError
        It cannot be read, or is a group of anything but an image.
    ConfigError
        It has no such level.
    """
    import zarr

    _check_metadata(path)
    try:
        with warnings.catch_warnings():
            # Of codecs that version 3 does not name; what is not decoded is refused below.
            warnings.simplefilter("ignore")
            node = zarr.open(str(path), mode="r")
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: permission denied") from error
    except Exception as error:
        # The metadata are the file's, and zarr has no one error for what may be wrong in them.
        reason = one_line(error)
        raise InputError(f"{path} is not a Zarr that can be read: {reason}") from error
    if isinstance(node, zarr.Array):
        if level:
            raise ConfigError(f"{path} is a single array; it has level 0 only, not {level}")
        return node, None
    attributes = _attributes(node)
    ome = attributes.get("ome", attributes)
    if not (isinstance(ome, dict) and ome.get("multiscales")):
        # Not zarr's list, which opens the metadata of everything it finds.
        keys = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
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
    for folder in (Path(levels[level]), *Path(levels[level]).parents):
        _check_metadata(path / folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = node[levels[level]]
    except Exception as error:
        raise InputError(f"{path}: level {level}, {levels[level]!r}, is not there") from error
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: level {level}, {levels[level]!r}, is a group, not an array")
    return array, names or None


def _check_metadata(folder: Path) -> None:
    """Refuse metadata that zarr-python would wait for, or read, without end."""
    for name in _METADATA:
        path = folder / name
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file; restore it from its source")
        if status.st_size > MAX_METADATA_BYTES:
            raise InputError(
                f"{path} has {status.st_size} bytes, more than the {MAX_METADATA_BYTES} that "
                "metadata may have; restore it from its source"
            )


def check_array(array: zarr.Array[Any], label: str) -> None:
    """Refuse arrays that are no rasters, and metadata that ask for too much.

    Raises
    ------
    InputError
    """
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


def _attributes(node: zarr.Array[Any] | zarr.Group) -> dict[str, Any]:
    """A node's attributes; none where the metadata have something else in their place."""
    try:
        return dict(node.attrs)
    except (TypeError, ValueError, LookupError):
        return {}


def axis_names(array: zarr.Array[Any]) -> list[str | None] | None:
    """Axis names an array carries: Zarr v3's, or xarray's attribute in v2."""
    names = getattr(array.metadata, "dimension_names", None)
    if names is None:
        names = _attributes(array).get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple):
        return None
    return [name if isinstance(name, str) else None for name in names]
