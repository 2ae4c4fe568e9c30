"""Fetches single chunks of a Zarr array, from local files or from any store, and decodes them."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tileconv.core.grid import ceil_div
from tileconv.errors import BadChunkError, InputError, one_line
from tileconv.stores.zarr.codecs import (
    ChunkDecoder,
    ShardFormat,
    shard_format,
    v2_decoder,
    v3_decoder,
)
from tileconv.stores.zarr.files import ChunkFile, ChunkFiles, LocalFiles, StoreFiles

if TYPE_CHECKING:
    import zarr

Coords = tuple[int, ...]


def chunk_loader(array: zarr.Array[Any], label: str) -> ChunkLoader:
    """The loader for an array.

    Parameters
    ----------
    array : zarr.Array
        Opened and checked.
    label : str
        What error messages call it.

    Raises
    ------
    InputError
        Its codecs are known, but not in that combination, or not with such options.
    """
    from zarr.storage import LocalStore

    metadata: dict[str, Any] = array.metadata.to_dict()
    try:
        decoder, shard = _decoders(array, metadata)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{label} is encoded in a way that tileconv does not decode: {one_line(error)}; "
            "rewrite it with zstd, blosc or gzip"
        ) from error
    files: ChunkFiles = (
        LocalFiles(Path(array.store.root) / array.path)
        if isinstance(array.store, LocalStore)
        else StoreFiles(array.store, array.path)
    )
    return ChunkLoader(files, label, array.metadata.encode_chunk_key, decoder, shard)


def _decoders(
    array: zarr.Array[Any], metadata: dict[str, Any]
) -> tuple[ChunkDecoder, ShardFormat | None]:
    """What decodes a chunk, and where a shard holds it. Raises what bad metadata raise."""
    chunk = tuple(array.chunks)
    if metadata["zarr_format"] == 2:
        return v2_decoder(chunk, np.dtype(metadata["dtype"]), _v2_config(metadata)), None
    codecs = metadata["codecs"]
    if codecs[0]["name"] != "sharding_indexed":
        return v3_decoder(chunk, np.dtype(array.dtype), codecs), None
    if len(codecs) > 1:
        raise ValueError("a shard that is encoded as a whole")
    options = codecs[0]["configuration"]
    shard = shard_format(tuple(array.shards or array.chunks), chunk, options)
    return v3_decoder(chunk, np.dtype(array.dtype), options["codecs"]), shard


def _v2_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with the codecs as the JSON they came from, whatever zarr made of them."""

    def plain(codec: Any) -> Any:
        return codec if codec is None or isinstance(codec, dict) else codec.get_config()

    filters = [plain(codec) for codec in metadata.get("filters") or ()]
    return {**metadata, "compressor": plain(metadata.get("compressor")), "filters": filters}


class ChunkLoader:
    """Fetches and decodes one chunk at a time, in the caller's thread; any number of threads.

    The indices of the shards read last are kept, at most `INDEX_BYTES` of them.

    Parameters
    ----------
    files : ChunkFiles
        Of the array.
    label : str
        What error messages call the array.
    key : callable
        Chunk coordinates (of the shard, if there are shards) to the file's name in `files`.
    decoder : ChunkDecoder
    shard : ShardFormat or None
    """

    INDEX_BYTES = 1 << 20

    def __init__(
        self,
        files: ChunkFiles,
        label: str,
        key: Callable[[Coords], str],
        decoder: ChunkDecoder,
        shard: ShardFormat | None,
    ) -> None:
        self._files = files
        self._label = label
        self._key = key
        self._decoder = decoder
        self._shard = shard
        self._indices: OrderedDict[Coords, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._origin = (0,) * len(decoder.shape)
        self._kept = 0 if shard is None else max(2, self.INDEX_BYTES // shard.index_bytes)

    @property
    def compression(self) -> str:
        """How chunks are encoded, for people."""
        return self._decoder.name

    @property
    def table_bytes(self) -> int:
        """Most memory the loader keeps from one chunk to the next."""
        return 0 if self._shard is None else self._kept * self._shard.index_bytes

    def name(self, coords: Coords) -> str:
        """What people call the chunk: its coordinates and the file that holds it."""
        at = ", ".join(map(str, coords))
        return f"{self._label}: chunk ({at}) ({self._key(self._file_of(coords))})"

    def load(self, coords: Coords) -> np.ndarray | None:
        """The chunk at `coords` of the grid of chunks; None if it is absent.

        Raises
        ------
        BadChunkError
            It is there and cannot be read or decoded.
        """
        where = ""
        try:
            with self._files.open(self._key(self._file_of(coords))) as file:
                found = None if file is None else self._find(file, coords)
                if file is None or found is None:
                    return None
                start, length = found
                where = f", bytes {start}..{start + length}"
                return self._decoder.decode(file.read(start, length))
        except MemoryError as error:
            # Not the chunk's fault: with more memory it may be read.
            raise InputError(f"{self.name(coords)} does not fit in memory") from error
        except OSError as error:
            reason = error.strerror or error
            raise BadChunkError(
                f"{self.name(coords)}{where} cannot be read: {reason}; "
                "check its permissions, or restore it from its source"
            ) from error
        except Exception as error:
            # A codec raises what it likes about bytes it does not like.
            raise BadChunkError(
                f"{self.name(coords)}{where} is corrupt: {one_line(error)}; "
                "restore that file from its source"
            ) from error

    def stamp(self) -> str:
        """What changes when a chunk does; see `ChunkFiles.stamp`. Raises OSError."""
        return self._files.stamp(self._key(self._origin).count("/"))

    def any_stored(self) -> bool:
        """Whether any chunk is there, be it a bad one."""
        return any(self._holds_chunks(name) for name in self._files.names())

    def _holds_chunks(self, name: str) -> bool:
        """Whether a file that is there is more than a shard without chunks."""
        if self._shard is None:
            return True
        try:
            with self._files.open(name) as file:
                return file is None or bool((self._read_index(file) != ShardFormat.ABSENT).any())
        except (OSError, ValueError):
            return True

    def _file_of(self, coords: Coords) -> Coords:
        if self._shard is None:
            return coords
        return tuple(at // size for at, size in zip(coords, self._shard.grid, strict=True))

    def _find(self, file: ChunkFile, coords: Coords) -> tuple[int, int] | None:
        """Where the chunk is in its file: (offset, length), if it is there."""
        found = (0, file.size) if self._shard is None else self._in_shard(file, coords)
        if found is not None and found[1] > self._decoder.encoded_limit:
            raise ValueError(
                f"it has {found[1]} bytes, far more than the {self._decoder.nbytes} of a chunk"
            )
        return found

    def _in_shard(self, file: ChunkFile, coords: Coords) -> tuple[int, int] | None:
        assert self._shard is not None
        index = self._index(file, self._file_of(coords))
        flat = 0
        for at, count in zip(coords, self._shard.grid, strict=True):
            flat = flat * count + at % count
        offset, length = int(index[flat, 0]), int(index[flat, 1])
        if offset == length == ShardFormat.ABSENT:
            return None
        if offset + length > file.size:
            raise ValueError(
                f"the shard's index puts it at bytes {offset}..{offset + length} of {file.size}"
            )
        return offset, length

    def _index(self, file: ChunkFile, coords: Coords) -> np.ndarray:
        """The index of the shard at `coords`, read once."""
        with self._lock:
            index = self._indices.get(coords)
            if index is not None:
                self._indices.move_to_end(coords)
                return index
        index = self._read_index(file)
        with self._lock:
            self._indices[coords] = index
            while len(self._indices) > self._kept:
                self._indices.popitem(last=False)
        return index

    def _read_index(self, file: ChunkFile) -> np.ndarray:
        assert self._shard is not None
        length = self._shard.index_bytes
        if file.size < length:
            raise ValueError(f"the shard has {file.size} bytes, fewer than its index of {length}")
        start = 0 if self._shard.index_first else file.size - length
        return self._shard.decode_index(file.read(start, length))


def grid_shape(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks along each axis."""
    return tuple(ceil_div(length, size) for length, size in zip(shape, chunk, strict=True))


def grid_number(coords: Coords, grid: tuple[int, ...]) -> int:
    """Position of a chunk in C order of the grid."""
    number = 0
    for at, count in zip(coords, grid, strict=True):
        number = number * count + at
    assert 0 <= number < max(1, math.prod(grid))
    return number
