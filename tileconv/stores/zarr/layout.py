"""What a Zarr output will be: chunks, shards, codec and metadata; pure.

One array at the root of a Zarr v3 store, in shards: GDAL, zarr-python, tensorstore and zarrs
read it as it is, and nothing in it is outside the specification
(https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tileconv import __version__
from tileconv.core.grid import Shape, align_up, ceil_div
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError
from tileconv.stores.layout import Layout

CHUNK = 512
CHUNK_MIN = 64
SHARD_MAX = 4096
SHARD_BYTES_MAX = 8 << 20
"""Most decoded bytes of a shard, unless one chunk has more.

A shard is what one task computes and writes, so it bounds from below the memory that any
plan needs; and it must not follow the memory cap or the number of workers, or the same job
would write other files on another machine. 8 MiB: 2048 x 2048 of uint8 or uint16, 1024 x 1024
of float32 or float64, and four to sixteen chunks in each, enough that a petapixel makes
hundreds of millions of files fewer than chunks alone would."""

_DTYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Codec:
    """A compression of Zarr chunks.

    Parameters
    ----------
    name : str or None
        Of the codec in the metadata; None for raw pixels.
    default, highest : int or None
        Levels, from 1; None for a codec without.
    """

    name: str | None
    default: int | None = None
    highest: int | None = None

    def bound(self, raw_bytes: int) -> int:
        """Most bytes that `raw_bytes` are encoded in, from the worst case of each format."""
        match self.name:
            case None:
                return raw_bytes
            case "gzip":  # stored blocks of at least 5000 bytes, 5 bytes before each
                return raw_bytes + raw_bytes // 1000 + 64
            case _:  # ZSTD_COMPRESSBOUND
                return raw_bytes + raw_bytes // 256 + 64 + (1 << 10)

    def state_bytes(self, level: int | None, raw_bytes: int) -> int:
        """Memory of the encoder itself; measured by tests/stores/test_zarr_writer.py."""
        match self.name:
            case None:
                return 0
            case "gzip":
                return 1 << 20
            case _ if (level or 0) <= 3:
                return 4 << 20
            case _:
                return (4 << 20) + 20 * raw_bytes


CODECS: Mapping[str, Codec] = {
    "zstd": Codec("zstd", default=1, highest=22),
    "deflate": Codec("gzip", default=6, highest=9),
    "none": Codec(None),
}
"""Compressions by the names they have for TIFF too; Zarr's deflate is its gzip codec."""


def zarr_layout(
    raster: Raster,
    *,
    compression: str | None = None,
    level: int | None = None,
    chunk: int | None = None,
) -> Layout:
    """How a raster is stored as Zarr.

    Parameters
    ----------
    raster : Raster
        Shape, dtype and axes of the output. Planes get chunks of their own; samples stay
        together.
    compression : str or None
        ``"zstd"`` (the default), ``"deflate"`` (stored as gzip) or ``"none"``.
    level : int or None
        From 1; None for the codec's default (zstd 1, deflate 6).
    chunk : int or None
        Side of a chunk; None for 512, less where a pixel has very many bytes.

    Raises
    ------
    ConfigError
        Unknown compression, level out of range, or a dtype that Zarr v3 has no name for.
    """
    name = "zstd" if compression is None else compression
    codec, level = _checked_codec(name, level)
    if raster.dtype.name not in _DTYPES:
        raise ConfigError(
            f"Zarr cannot hold {raster.dtype}; use one of {', '.join(sorted(_DTYPES))}"
        )
    stored_chunk, unit = _chunk_and_shard(raster.spatial, max(1, raster.pixel_bytes), chunk)
    stored = replace(raster, chunk=stored_chunk, chunk_planes=1, compression=name, table_bytes=0)
    rows, columns = raster.spatial
    chunks = raster.planes * ceil_div(rows, stored_chunk[0]) * ceil_div(columns, stored_chunk[1])
    shards = raster.planes * ceil_div(rows, unit[0]) * ceil_div(columns, unit[1])
    encoded = codec.bound(stored.chunk_bytes)
    index = shard_index_bytes(stored_chunk, unit)
    draft = Layout(
        format="zarr",
        raster=stored,
        unit=unit,
        compression=name,
        level=level,
        # A chunk made contiguous, its encoder, what comes out, and the index, twice.
        write_bytes=stored.chunk_bytes
        + codec.state_bytes(level, stored.chunk_bytes)
        + 2 * encoded
        + 2 * index,
        table_bytes=ceil_div(shards, 8),
        max_bytes=0,
    )
    # A file takes whole blocks of 4 KiB.
    files = shards * (index + 4096) + len(array_metadata(draft)) + 4096
    return replace(draft, max_bytes=chunks * encoded + files)


def shard_index_bytes(chunk: Shape, unit: Shape) -> int:
    """Bytes of a shard's index: offset and length of each chunk, and a checksum."""
    return 16 * (unit[0] // chunk[0]) * (unit[1] // chunk[1]) + 4


def array_metadata(layout: Layout) -> bytes:
    """The array's ``zarr.json``."""
    raster = layout.raster
    before, after = raster.y_axis, len(raster.sample_shape)
    # A chunk has at least one pixel, also along an axis of none.
    samples = tuple(max(1, length) for length in raster.sample_shape)
    assert raster.chunk is not None
    chunk = (1,) * before + raster.chunk + samples
    shard = (1,) * before + layout.unit + samples
    endian = {} if raster.dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
    metadata: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(raster.shape),
        "data_type": raster.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _zero(raster.dtype),
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(chunk),
                    "codecs": [{"name": "bytes", **endian}, *_compressor(layout)],
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {"tileconv": __version__},
        "dimension_names": list(raster.dims),
        "storage_transformers": [],
    }
    assert len(shard) == len(raster.shape) == before + 2 + after
    return json.dumps(metadata, indent=2).encode()


def _compressor(layout: Layout) -> list[dict[str, Any]]:
    name = CODECS[layout.compression].name
    if name is None:
        return []
    options: dict[str, Any] = {"level": layout.level}
    if name == "zstd":
        options["checksum"] = False
    return [{"name": name, "configuration": options}]


def _zero(dtype: np.dtype) -> Any:
    """Zero, as the metadata of an array of `dtype` write it."""
    match dtype.kind:
        case "b":
            return False
        case "f":
            return 0.0
        case "c":
            return [0.0, 0.0]
        case _:
            return 0


def _checked_codec(name: str, level: int | None) -> tuple[Codec, int | None]:
    codec = CODECS.get(name)
    if codec is None:
        raise ConfigError(
            f"Zarr output has no compression {name!r}; use one of {', '.join(CODECS)}"
        )
    if level is None:
        return codec, codec.default
    if codec.highest is None:
        raise ConfigError(f"compression {name!r} has no levels, got {level}; leave the level out")
    if not 1 <= level <= codec.highest:
        raise ConfigError(f"{name} has levels 1 .. {codec.highest}, got {level}")
    return codec, level


def _chunk_and_shard(shape: Shape, pixel_bytes: int, side: int | None) -> tuple[Shape, Shape]:
    """Rows and columns of a chunk and of a shard, no larger than the raster needs."""
    if side is None:
        side = CHUNK
        while side > CHUNK_MIN and side * side * pixel_bytes > SHARD_BYTES_MAX:
            side //= 2
    elif not 1 <= side <= SHARD_MAX:
        raise ConfigError(f"output.tile {side} is no side of a chunk; use 1 to {SHARD_MAX}")
    shard_side = side
    while shard_side < SHARD_MAX and 4 * shard_side**2 * pixel_bytes <= SHARD_BYTES_MAX:
        shard_side *= 2
    rows, columns = (max(1, length) for length in shape)
    chunk = min(side, rows), min(side, columns)
    unit = tuple(
        min(shard_side // side * part, align_up(length, part))
        for length, part in zip((rows, columns), chunk, strict=True)
    )
    return chunk, (unit[0], unit[1])
