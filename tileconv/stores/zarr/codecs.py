"""Decodes Zarr chunks in the calling thread: the codecs that nearly every array uses.

zarr-python decodes on one event-loop thread and a pool of its own, tells no one that a chunk
was absent, and decompresses whatever a chunk turns out to be. Chunks are therefore decoded here,
from bytes, into an array whose size is known before a byte is decompressed; the codecs are
few, so that a file cannot choose what runs.

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

# numcodecs' filters that give at most 16 bytes for one, run no code of the file's, and make no
# objects. Compressors are not among them: theirs would decode without a limit.
_FILTERS = {
    "adler32", "astype", "bitround", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32",
    "jenkins_lookup3", "packbits", "quantize", "shuffle",
}  # fmt: skip
_FILTER_DTYPES = ("dtype", "astype", "encode_dtype", "decode_dtype")

# A later stage of a chain may be a little larger than the pixels: headers, checksums, and
# what a codec adds to data that do not compress; and a filter may have made 16 bytes of one.
_SLACK_BYTES = 1 << 16
_FILTER_EXPANSION = 16


def filter_of(config: Config) -> Unpack:
    """One of numcodecs' filters, decoding bytes to bytes.

    Raises
    ------
    ValueError
        It is none of `_FILTERS`, or makes anything but numbers.
    """
    import numcodecs

    name = str(config["id"])
    if name not in _FILTERS:
        raise ValueError(f"{name!r}, which is no filter here")
    for option in _FILTER_DTYPES:
        if option in config and np.dtype(config[option]).kind not in "biufc":
            raise ValueError(f"{name!r} with {option} {config[option]!r}, which is no number")
    decode = numcodecs.get_codec(dict(config)).decode

    def unpack(data: bytes, limit: int) -> bytes:
        decoded = np.asarray(decode(data))
        if decoded.nbytes > limit:
            raise ValueError(f"it decodes to {decoded.nbytes} bytes, more than {limit}")
        return decoded.tobytes()

    return unpack


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
    packers : tuple of callable
        Compressors and checksums, in decoding order.
    filters : tuple of callable
        What is undone after them, in decoding order.
    name : str
        For people: ``"zstd"``.
    """

    shape: tuple[int, ...]
    stored: np.dtype
    order: tuple[int, ...]
    packers: tuple[Unpack, ...]
    filters: tuple[Unpack, ...]
    name: str

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded chunk."""
        return math.prod(self.shape) * self.stored.itemsize

    @property
    def encoded_limit(self) -> int:
        """Most bytes that a chunk may take encoded, before it is suspect."""
        return (_FILTER_EXPANSION if self.filters else 2) * self.nbytes + _SLACK_BYTES

    def decode(self, data: bytes) -> np.ndarray:
        """The chunk's pixels, in native byte order.

        Raises
        ------
        Exception
            The bytes are not such a chunk: ValueError, or what the codec raises.
        """
        stages = (*self.packers, *self.filters)
        for number, unpack in enumerate(stages, 1):
            data = unpack(data, self.nbytes if number == len(stages) else self.encoded_limit)
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


def v2_decoder(shape: tuple[int, ...], stored: np.dtype, metadata: Config) -> ChunkDecoder:
    """The decoder of a Zarr v2 array's chunks.

    Parameters
    ----------
    shape : tuple of int
        Of a chunk.
    stored : numpy.dtype
        With the byte order of the file.
    metadata : mapping
        The array's ``.zarray``.

    Raises
    ------
    ValueError
        The codecs are none that are decoded here, or have options that are not allowed.
    """
    compressor = metadata.get("compressor")
    axes = tuple(range(len(shape)))
    order = axes[::-1] if metadata.get("order") == "F" else axes
    filters = tuple(filter_of(config) for config in metadata.get("filters") or ())
    packers = () if compressor is None else (_packer(compressor),)
    names = [str(config["id"]) for config in (compressor,) if config is not None]
    names += [str(config["id"]) for config in metadata.get("filters") or ()]
    return ChunkDecoder(shape, stored, order, packers, filters[::-1], "+".join(names) or "none")


def _packer(config: Config) -> Unpack:
    """The compressor of a Zarr v2 array, or one of numcodecs' in v3."""
    name = str(config["id"])
    if name == "lzma" and config.get("format", lzma.FORMAT_XZ) != lzma.FORMAT_XZ:
        # An .xz stream names its own filters, and its memory has a limit; others have none.
        raise ValueError("lzma without the .xz container")
    if name not in _V2:
        raise ValueError(f"{name!r}, which is no compressor here")
    return _V2[name]


def v3_decoder(shape: tuple[int, ...], dtype: np.dtype, codecs: Sequence[Config]) -> ChunkDecoder:
    """The decoder of a Zarr v3 codec chain.

    Raises
    ------
    ValueError
        The codecs are none that are decoded here, or not in that order.
    """
    order = tuple(range(len(shape)))
    stored: np.dtype | None = None
    filters: list[Unpack] = []
    unpack: list[Unpack] = []
    names: list[str] = []
    for codec in codecs:
        name, options = str(codec["name"]), codec.get("configuration") or {}
        short = name.removeprefix("numcodecs.")
        if name == "transpose" and stored is None and not filters:
            order = tuple(order[axis] for axis in options["order"])
            continue
        if name == "bytes" and stored is None:
            if options.get("endian", "little") not in ("little", "big"):
                raise ValueError(f"bytes of endian {options['endian']!r}")
            little = options.get("endian", "little") == "little"
            stored = dtype.newbyteorder("<" if little else ">")
            if filters and not little:
                raise ValueError("filters before big-endian bytes")
            continue
        if stored is None:
            if short == name or order != tuple(range(len(shape))):
                raise ValueError(f"{name!r} before the bytes")
            filters.insert(0, filter_of({**options, "id": short}))
        elif name in _V3:
            unpack.insert(0, _V3[name])
        elif short != name:
            config = {**options, "id": short}
            unpack.insert(0, _packer(config) if short in _V2 else filter_of(config))
        else:
            raise ValueError(f"{name!r} after the bytes")
        if short != "crc32c":
            names.append(short)
    if stored is None:
        raise ValueError("no bytes")
    return ChunkDecoder(
        shape, stored, order, tuple(unpack), tuple(filters), "+".join(names) or "none"
    )


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


def shard_format(shape: tuple[int, ...], chunk: tuple[int, ...], options: Config) -> ShardFormat:
    """The format of a ``sharding_indexed`` codec's shards.

    Raises
    ------
    ValueError
        Their index is encoded in a way that is not decoded here.
    """
    names = [
        (codec["name"], (codec.get("configuration") or {}).get("endian"))
        for codec in options["index_codecs"]
    ]
    if names not in ([("bytes", "little")], [("bytes", "little"), ("crc32c", None)]):
        raise ValueError(f"a shard's index in {names}")
    grid = tuple(whole // part for whole, part in zip(shape, chunk, strict=True))
    return ShardFormat(grid, options.get("index_location", "end") == "start", len(names) == 2)
