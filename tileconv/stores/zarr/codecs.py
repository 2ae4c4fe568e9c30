"""Decodes Zarr chunks in the calling thread: the codecs that nearly every array uses.

zarr-python decodes on one event-loop thread and a pool of its own, and tells no one that
a chunk was absent. Chunks on a local disk, in the codecs below, are therefore decoded here,
from bytes, into an array whose size is known before a byte is decompressed; the codecs are
few, so that a file cannot choose what runs. Everything else goes through zarr-python, see
`tileconv.stores.zarr.chunks`.

Zarr v3: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/index.html; v2:
https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html with numcodecs' formats.
"""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import google_crc32c
import imagecodecs
import numpy as np

Config = Mapping[str, Any]
Unpack = Callable[[bytes, int], bytes]
"""Decompresses bytes into at most that many; raises ValueError or its codec's error."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _streamed(make: Callable[[], _Decompressor], data: bytes, limit: int) -> bytes:
    """Members of a zlib, gzip, bz2 or lzma stream, one after another, up to `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while data:
        stream = make()
        # One byte more than allowed, to tell a stream that ends from one that goes on.
        part = stream.decompress(data, limit - size + 1)
        size += len(part)
        if size > limit:
            raise ValueError(f"it decodes to more than the {limit} bytes of a chunk")
        if not stream.eof:
            raise ValueError("its compressed stream is cut short")
        parts.append(part)
        data = stream.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _zstd(data: bytes, limit: int) -> bytes:
    return bytes(imagecodecs.zstd_decode(data, out=limit))


def _blosc(data: bytes, limit: int) -> bytes:
    # The header's sizes, decoded and encoded: README_CHUNK_FORMAT.rst of c-blosc, which
    # believes them.
    size, packed = (int.from_bytes(data[at : at + 4], "little") for at in (4, 12))
    if packed != len(data):
        raise ValueError(f"it has {len(data)} bytes, its header says {packed}")
    if size > limit:
        raise ValueError(f"it decodes to {size} bytes, more than the {limit} of a chunk")
    return bytes(imagecodecs.blosc_decode(data, numthreads=1, out=size))


def _lz4(data: bytes, limit: int) -> bytes:
    # numcodecs puts the decoded size in front, four bytes.
    size = int.from_bytes(data[:4], "little")
    if size > limit:
        raise ValueError(f"it decodes to {size} bytes, more than the {limit} of a chunk")
    return bytes(imagecodecs.lz4_decode(data[4:], out=size))


def _crc32c(data: bytes, limit: int) -> bytes:
    del limit
    body, stored = data[:-4], int.from_bytes(data[-4:], "little")
    if len(data) < 4 or google_crc32c.value(body) != stored:
        raise ValueError("its crc32c checksum does not match")
    return body


_ZLIB = partial(_streamed, lambda: zlib.decompressobj(zlib.MAX_WBITS))
_GZIP = partial(_streamed, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16))
_BZ2 = partial(_streamed, bz2.BZ2Decompressor)
# The memory an xz stream asks for is its own choice: the 64 MiB of preset 9, twice.
_LZMA = partial(_streamed, lambda: lzma.LZMADecompressor(memlimit=128 << 20))

_V2: Mapping[str, Unpack] = {
    "zlib": _ZLIB,
    "gzip": _GZIP,
    "bz2": _BZ2,
    "lzma": _LZMA,
    "zstd": _zstd,
    "blosc": _blosc,
    "lz4": _lz4,
}
_V3: Mapping[str, Unpack] = {"gzip": _GZIP, "zstd": _zstd, "blosc": _blosc, "crc32c": _crc32c}

# A later stage of a chain may be a little larger than the pixels: headers, checksums, and
# what a codec adds to data that do not compress.
_SLACK_BYTES = 1 << 16


def encoded_limit(nbytes: int) -> int:
    """Most bytes a chunk of `nbytes` decoded bytes may take encoded, before it is suspect."""
    return 2 * nbytes + _SLACK_BYTES


@dataclass(frozen=True, slots=True)
class ChunkDecoder:
    """Bytes of one chunk to pixels.

    Parameters
    ----------
    shape : tuple of int
        Of the chunk, in the array's own order.
    stored : numpy.dtype
        With the byte order of the file.
    order : tuple of int
        Axes of the array in the order they are stored in, slowest first.
    unpack : tuple of callable
        Bytes-to-bytes codecs, in decoding order.
    name : str
        For people: ``"zstd"``.
    """

    shape: tuple[int, ...]
    stored: np.dtype
    order: tuple[int, ...]
    unpack: tuple[Unpack, ...]
    name: str

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded chunk."""
        return math.prod(self.shape) * self.stored.itemsize

    def decode(self, data: bytes) -> np.ndarray:
        """The chunk's pixels, in native byte order.

        Raises
        ------
        Exception
            The bytes are not such a chunk: ValueError, or what the codec raises.
        """
        for stage, unpack in enumerate(self.unpack):
            last = stage == len(self.unpack) - 1
            data = unpack(data, self.nbytes if last else encoded_limit(self.nbytes))
        if len(data) != self.nbytes:
            raise ValueError(f"it holds {len(data)} bytes, a chunk has {self.nbytes}")
        if self.stored.kind == "b":
            # Bytes other than 0 and 1 are no booleans that numpy can work with.
            flat = np.frombuffer(data, np.uint8) != 0
        else:
            flat = np.frombuffer(data, self.stored)
        stored = flat.reshape([self.shape[axis] for axis in self.order])
        chunk: np.ndarray = stored.transpose(np.argsort(self.order))
        return chunk.astype(self.stored.newbyteorder("="), copy=False)


def v2_decoder(shape: tuple[int, ...], stored: np.dtype, metadata: Config) -> ChunkDecoder | None:
    """The decoder of a Zarr v2 array's chunks; None where zarr-python has to do it.

    Parameters
    ----------
    shape : tuple of int
        Of a chunk.
    stored : numpy.dtype
        With the byte order of the file.
    metadata : mapping
        The array's ``.zarray``.
    """
    compressor = metadata.get("compressor")
    if metadata.get("filters"):
        return None
    axes = tuple(range(len(shape)))
    order = axes[::-1] if metadata.get("order") == "F" else axes
    if compressor is None:
        return ChunkDecoder(shape, stored, order, (), "none")
    name = str(compressor["id"])
    if name not in _V2 or (name == "lzma" and _has_options(compressor)):
        return None
    return ChunkDecoder(shape, stored, order, (_V2[name],), name)


def _has_options(compressor: Config) -> bool:
    """Whether an lzma stream needs to be told its format or filters; .xz names its own."""
    return bool(compressor.get("format", lzma.FORMAT_XZ) != lzma.FORMAT_XZ)


def v3_decoder(
    shape: tuple[int, ...], dtype: np.dtype, codecs: Sequence[Config]
) -> ChunkDecoder | None:
    """The decoder of a Zarr v3 codec chain; None where zarr-python has to do it."""
    order = tuple(range(len(shape)))
    stored: np.dtype | None = None
    unpack: list[Unpack] = []
    names: list[str] = []
    for codec in codecs:
        name, options = str(codec["name"]), codec.get("configuration") or {}
        if name == "transpose" and stored is None and not isinstance(options["order"], str):
            order = tuple(order[axis] for axis in options["order"])
        elif name == "bytes" and stored is None:
            little = options.get("endian", "little") == "little"
            stored = dtype.newbyteorder("<" if little else ">")
        elif name in _V3 and stored is not None:
            unpack.insert(0, _V3[name])
            names.append(name)
        else:
            return None
    if stored is None:
        return None
    packers = [name for name in names if name != "crc32c"]
    return ChunkDecoder(shape, stored, order, tuple(unpack), "+".join(packers) or "none")


@dataclass(frozen=True, slots=True)
class ShardFormat:
    """How a shard holds its chunks: an index of (offset, length), before or after them.

    https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/

    Parameters
    ----------
    grid : tuple of int
        Chunks of a shard along each axis.
    index_first : bool
        Whether the index is at the start of the shard.
    checked : bool
        Whether a crc32c follows the index.
    """

    grid: tuple[int, ...]
    index_first: bool
    checked: bool

    ABSENT = (1 << 64) - 1

    @property
    def index_bytes(self) -> int:
        """Bytes the index takes in the file."""
        return 16 * math.prod(self.grid) + 4 * self.checked

    def decode_index(self, data: bytes) -> np.ndarray:
        """Offset and length of each chunk, in C order of the grid.

        Returns
        -------
        ndarray of uint64, shape (chunks, 2)
            `ABSENT` twice for a chunk that is not there.

        Raises
        ------
        ValueError
            The bytes are not an index of this shard.
        """
        if len(data) != self.index_bytes:
            raise ValueError(f"its index has {len(data)} bytes, not {self.index_bytes}")
        if self.checked:
            data = _crc32c(data, 0)
        return np.frombuffer(data, "<u8").astype(np.uint64, copy=False).reshape(-1, 2)


def shard_format(
    shape: tuple[int, ...], chunk: tuple[int, ...], options: Config
) -> ShardFormat | None:
    """The format of a ``sharding_indexed`` codec's shards; None where zarr-python has to do it."""
    names = [
        (codec["name"], (codec.get("configuration") or {}).get("endian", "little"))
        for codec in options["index_codecs"]
    ]
    if names not in ([("bytes", "little")], [("bytes", "little"), ("crc32c", "little")]):
        return None
    grid = tuple(whole // part for whole, part in zip(shape, chunk, strict=True))
    return ShardFormat(grid, options.get("index_location", "end") == "start", len(names) == 2)
