"""zarr-python's reading of a Zarr array, a chunk at a time, each looked at before it is decoded.

A chunk's place in its file and the size it says it decodes to are found first: zarr-python takes
an absent chunk for the fill value, and decodes whatever it is given.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import one_line
from tileconv.verification.reading import Kept, Unreadable

_SLACK_BYTES = 1 << 20
_NOWHERE = (1 << 64) - 1
_SIZED = {"none", "zstd", "blosc", "gzip", "zlib"}
"""Compressors whose decoded size can be known before, or counted."""


class _Stored(NamedTuple):
    """Where a chunk's bytes are."""

    file: Path
    offset: int
    size: int


class ZarrReader:
    """Reads windows by zarr-python; see `tileconv.verification.reading.Reader`.

    Parameters
    ----------
    path : Path
        Of an array or image that tileconv's reader has opened, so that its metadata are sound.
    raster : Raster
        What that reader says it is.
    level : int
    refuse_absent : bool
        Whether absent chunks are `Unreadable`.

    Raises
    ------
    Unreadable
        zarr-python sees another array, or its chunks cannot be looked at before.
    """

    name = "zarr-python"

    def __init__(
        self, path: Path, raster: Raster, level: int, *, refuse_absent: bool = False
    ) -> None:
        self._raster, self._refuse_absent, self.kept = raster, refuse_absent, Kept()
        try:
            self._array = _opened(path, level)
            self._chunk = tuple(int(n) for n in self._array.chunks)
            self._folder = Path(self._array.store.root) / self._array.path
            shards = getattr(self._array, "shards", None)
            metadata = self._array.metadata.to_dict()
            dtype = np.dtype(self._array.dtype).newbyteorder("=")
        except Exception as error:
            raise Unreadable(f"zarr-python: {one_line(error)}") from error
        if (tuple(self._array.shape), dtype) != (raster.shape, raster.dtype):
            raise Unreadable(f"zarr-python finds {tuple(self._array.shape)} {dtype}")
        self._compressor = _compressor(metadata)
        self._shard: tuple[int, ...] | None = None
        if shards is not None:
            self._shard = tuple(n // c for n, c in zip(shards, self._chunk, strict=True))
        self._nbytes = math.prod(self._chunk) * raster.dtype.itemsize
        index = 0 if self._shard is None else 16 * math.prod(self._shard)
        self.segment_bytes = self._nbytes + 2 * index

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """See `tileconv.verification.reading.Reader.read`."""
        raster, chunk = self._raster, self._chunk
        starts = (*raster.plane_index(plane), *region.start, *(0 for _ in raster.sample_shape))
        ones = (1,) * len(raster.plane_shape)
        lengths = (*ones, *region.shape, *raster.sample_shape)
        target = out.reshape(lengths)
        box = list(zip(starts, lengths, chunk, strict=True))
        for coords in product(*(range(a // c, -(-(a + n) // c)) for a, n, c in box)):
            pixels = self.kept.get(coords, partial(self._load, coords))
            inside, into = [], []
            for at, (start, length, size) in zip(coords, box, strict=True):
                lo, hi = max(start, at * size), min(start + length, (at + 1) * size)
                inside.append(slice(lo - at * size, hi - at * size))
                into.append(slice(lo - start, hi - start))
            target[tuple(into)] = pixels[tuple(inside)]

    def _load(self, coords: tuple[int, ...]) -> np.ndarray:
        """A chunk, as far as it lies in the array."""
        try:
            stored = self._find(coords)
        except OSError as error:
            raise Unreadable(f"chunk {coords}: {error.strerror}") from error
        if stored is None and self._refuse_absent:
            raise Unreadable("an absent chunk")
        box = tuple(
            slice(at * size, min((at + 1) * size, length))
            for at, size, length in zip(coords, self._chunk, self._raster.shape, strict=True)
        )
        if stored is not None:
            try:
                self._refuse_bombs(stored)
            except (OSError, zlib.error) as error:
                raise Unreadable(f"chunk {coords}: {one_line(error)}") from error
        try:
            return np.asarray(self._array[box])
        except Exception as error:
            raise Unreadable(f"zarr-python: {one_line(error)}") from error

    def _find(self, coords: tuple[int, ...]) -> _Stored | None:
        """Where a chunk is stored; None if it is not."""
        grid = (1,) * len(coords) if self._shard is None else self._shard
        outer = tuple(at // n for at, n in zip(coords, grid, strict=True))
        file = self._folder / str(self._array.metadata.encode_chunk_key(outer))
        try:
            size = file.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self._shard is None:
            return _Stored(file, 0, size)
        number = int(np.ravel_multi_index([a % n for a, n in zip(coords, grid, strict=True)], grid))
        # Two numbers of 64 bits for each chunk, and the checksum of all, at the shard's end.
        begin = size - 16 * math.prod(grid) - 4
        if begin < 0:
            raise Unreadable("a shard without its index")
        offset, count = struct.unpack("<QQ", _bytes_of(file, begin + 16 * number, 16))
        if offset == count == _NOWHERE:
            return None
        if offset + count > size:
            raise Unreadable("a chunk outside its shard")
        return _Stored(file, offset, count)

    def _refuse_bombs(self, stored: _Stored) -> None:
        """Refuse what decodes to more than a chunk, or says so."""
        if stored.size > 2 * self._nbytes + _SLACK_BYTES:
            raise Unreadable("a chunk with too many bytes")
        size: int | None
        if self._compressor in ("gzip", "zlib"):
            size = _inflated(_bytes_of(stored.file, stored.offset, stored.size), self._nbytes)
        else:
            head = _bytes_of(stored.file, stored.offset, min(stored.size, 18))
            size = _declared(self._compressor, head)
        if size is None or size > self._nbytes:
            raise Unreadable("a chunk that does not say it decodes to its size")

    def close(self) -> None:
        """Nothing is open."""


def _opened(path: Path, level: int) -> Any:
    """The array at a path, or a level of the image there."""
    import warnings

    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = zarr.open(str(path), mode="r")
        if isinstance(node, zarr.Array):
            return node
        attributes = dict(node.attrs)
        image: Any = attributes.get("ome", attributes)
        return node[str(image["multiscales"][0]["datasets"][level]["path"])]


def _compressor(metadata: Mapping[str, Any]) -> str:
    """Codec of the chunks. Raises `Unreadable` for codecs that are not looked into."""
    if metadata["zarr_format"] == 2:
        codec: Any = metadata.get("compressor")
        if hasattr(codec, "get_config"):
            codec = codec.get_config()
        name = "none" if codec is None else str(codec["id"])
        if metadata.get("filters") or name not in _SIZED:
            raise Unreadable(f"chunks encoded with {name} are not looked into")
        return name
    codecs = list(metadata["codecs"])
    if codecs[0]["name"] == "sharding_indexed":
        options = codecs[0]["configuration"]
        index = [codec["name"] for codec in options["index_codecs"]]
        location = str(options.get("index_location", "end"))
        if len(codecs) > 1 or index != ["bytes", "crc32c"] or not location.endswith("end"):
            raise Unreadable("shards whose index is elsewhere")
        codecs = list(options["codecs"])
    names = [str(codec["name"]).removeprefix("numcodecs.") for codec in codecs]
    names = [name for name in names if name not in ("transpose", "bytes")]
    if names[-1:] == ["crc32c"]:
        names.pop()
    if len(names) > 1 or not _SIZED.issuperset(names):
        raise Unreadable(f"chunks encoded with {', '.join(names)} are not looked into")
    return names[0] if names else "none"


def _bytes_of(file: Path, offset: int, count: int) -> bytes:
    with file.open("rb") as handle:
        found = os.pread(handle.fileno(), count, offset)
    if len(found) != count:
        raise Unreadable(f"{file.name} ends early")
    return found


def _inflated(data: bytes, most: int) -> int:
    """Bytes that a zlib or gzip stream becomes; one more than `most` for more."""
    size, stream = 0, zlib.decompressobj(wbits=47)
    while data and size <= most:
        size += len(stream.decompress(data, 1 << 20))
        data = stream.unconsumed_tail
        if stream.eof and stream.unused_data:
            data, stream = stream.unused_data, zlib.decompressobj(wbits=47)
        elif not data and not stream.eof:
            size += len(stream.flush())
    return size


def _declared(compressor: str, head: bytes) -> int | None:
    """Bytes that a chunk says it becomes; None if it does not, 0 where it is not compressed."""
    if compressor == "none":
        return 0
    if compressor == "blosc":
        return int.from_bytes(head[4:8], "little") if len(head) >= 8 else None
    # RFC 8878, 3.1.1.1: the frame's header.
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 6:
        return None
    flags = head[4]
    single = bool(flags & 0x20)
    width = (1 if single else 0, 2, 4, 8)[flags >> 6]
    begin = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    if not width or len(head) < begin + width:
        return None
    size = int.from_bytes(head[begin : begin + width], "little")
    return size + 256 if width == 2 else size
