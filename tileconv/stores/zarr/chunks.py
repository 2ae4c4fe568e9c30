"""Fetches single chunks of a Zarr array: from local files, or through zarr-python."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tileconv.core.grid import ceil_div
from tileconv.errors import BadChunkError, InputError
from tileconv.stores.zarr.codecs import (
    ChunkDecoder,
    ShardFormat,
    encoded_limit,
    shard_format,
    v2_decoder,
    v3_decoder,
)

if TYPE_CHECKING:
    import zarr

Coords = tuple[int, ...]


class ChunkLoader(Protocol):
    """Fetches and decodes one chunk at a time, from any number of threads."""

    @property
    def compression(self) -> str:
        """How chunks are encoded, for people."""

    @property
    def table_bytes(self) -> int:
        """Most memory the loader keeps from one chunk to the next."""

    def name(self, coords: Coords) -> str:
        """What people call the chunk: its coordinates and the file that holds it."""

    def load(self, coords: Coords) -> np.ndarray | None:
        """The chunk at `coords` of the grid of chunks; None if it is absent.

        Raises
        ------
        BadChunkError
            It is there and cannot be read or decoded.
        """

    def any_stored(self) -> bool:
        """Whether at least one chunk, or shard, is there."""


def chunk_loader(array: zarr.Array[Any], label: str) -> ChunkLoader:
    """The loader for an array: of local files where the codecs are known, else zarr's own.

    Parameters
    ----------
    array : zarr.Array
        Opened and checked.
    label : str
        What error messages call it.
    """
    from zarr.storage import LocalStore

    library = LibraryChunks(array, label)
    if not isinstance(array.store, LocalStore):
        return library
    metadata: dict[str, Any] = array.metadata.to_dict()
    chunk, dtype = tuple(array.chunks), np.dtype(array.dtype)
    shard: ShardFormat | None = None
    if metadata["zarr_format"] == 2:
        decoder = v2_decoder(chunk, np.dtype(metadata["dtype"]), _v2_config(metadata))
    else:
        codecs = metadata["codecs"]
        if codecs[0]["name"] == "sharding_indexed":
            options = codecs[0]["configuration"]
            shard = shard_format(_outer(array), chunk, options)
            if shard is None or len(codecs) > 1:
                return library
            codecs = options["codecs"]
        decoder = v3_decoder(chunk, dtype, codecs)
    if decoder is None:
        return library
    folder = Path(array.store.root) / array.path
    return LocalChunks(folder, label, array.metadata.encode_chunk_key, decoder, shard)


def _v2_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with the compressor as the JSON it came from, whatever zarr made of it."""
    compressor = metadata.get("compressor")
    if compressor is not None and not isinstance(compressor, dict):
        compressor = compressor.get_config()
    return {**metadata, "compressor": compressor}


def _outer(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Shape of what one key of the store holds: a shard, or a chunk."""
    return tuple(array.shards or array.chunks)


class LocalChunks:
    """Chunks in files of a local folder, read by `os.pread` and decoded in the caller's thread.

    The indices of the shards read last are kept, at most `INDEX_BYTES` of them.

    Parameters
    ----------
    folder : Path
        Of the array.
    label : str
        What error messages call the array.
    key : callable
        Chunk coordinates (of the shard, if there are shards) to the file's name in `folder`.
    decoder : ChunkDecoder
    shard : ShardFormat or None
    """

    INDEX_BYTES = 1 << 20

    def __init__(
        self,
        folder: Path,
        label: str,
        key: Callable[[Coords], str],
        decoder: ChunkDecoder,
        shard: ShardFormat | None,
    ) -> None:
        self._folder = folder
        self._label = label
        self._key = key
        self._decoder = decoder
        self._shard = shard
        self._indices: OrderedDict[Coords, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = 0 if shard is None else max(2, self.INDEX_BYTES // shard.index_bytes)

    @property
    def compression(self) -> str:
        """How chunks are encoded, for people."""
        return self._decoder.name

    @property
    def table_bytes(self) -> int:
        """Most memory the kept shard indices take."""
        return 0 if self._shard is None else self._kept * self._shard.index_bytes

    def name(self, coords: Coords) -> str:
        """What people call the chunk: its coordinates and the file that holds it."""
        return f"{self._label}: chunk {_text(coords)} ({self._key(self._file_of(coords))})"

    def load(self, coords: Coords) -> np.ndarray | None:
        """The chunk at `coords`; None if it is absent. Raises `BadChunkError`."""
        path = self._folder / self._key(self._file_of(coords))
        try:
            # A pipe in a chunk's place would keep a plain open waiting for ever.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadChunkError(f"{self.name(coords)} cannot be read: {error.strerror}") from error
        where = ""
        try:
            found = self._find(handle, coords)
            if found is None:
                return None
            start, length = found
            where = f", bytes {start}..{start + length}"
            return self._decoder.decode(_pread(handle, start, length))
        except MemoryError as error:
            # Not the chunk's fault: with more memory it may be read.
            raise InputError(f"{self.name(coords)} does not fit in memory") from error
        except Exception as error:
            # A codec raises what it likes about bytes it does not like.
            raise BadChunkError(
                f"{self.name(coords)}{where} is corrupt: {error}; restore that file from its source"
            ) from error
        finally:
            os.close(handle)

    def any_stored(self) -> bool:
        """Whether a file other than metadata is in the array's folder."""
        for _, folders, files in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if any(not name.startswith(".") and name != "zarr.json" for name in files):
                return True
        return False

    def _file_of(self, coords: Coords) -> Coords:
        if self._shard is None:
            return coords
        return tuple(at // size for at, size in zip(coords, self._shard.grid, strict=True))

    def _find(self, handle: int, coords: Coords) -> tuple[int, int] | None:
        """Where the chunk is in its file: (offset, length), if it is there."""
        size = os.fstat(handle).st_size
        found = (0, size) if self._shard is None else self._in_shard(handle, size, coords)
        if found is not None and found[1] > encoded_limit(self._decoder.nbytes):
            raise ValueError(
                f"it has {found[1]} bytes, far more than the {self._decoder.nbytes} of a chunk"
            )
        return found

    def _in_shard(self, handle: int, size: int, coords: Coords) -> tuple[int, int] | None:
        assert self._shard is not None
        grid = self._shard.grid
        index = self._index(handle, size, self._file_of(coords))
        flat = 0
        for at, count in zip(coords, grid, strict=True):
            flat = flat * count + at % count
        offset, length = int(index[flat, 0]), int(index[flat, 1])
        if offset == length == ShardFormat.ABSENT:
            return None
        if offset + length > size:
            raise ValueError(
                f"the shard's index puts it at bytes {offset}..{offset + length} of {size}"
            )
        return offset, length

    def _index(self, handle: int, size: int, file: Coords) -> np.ndarray:
        assert self._shard is not None
        with self._lock:
            index = self._indices.get(file)
            if index is not None:
                self._indices.move_to_end(file)
                return index
        length = self._shard.index_bytes
        if size < length:
            raise ValueError(f"the shard has {size} bytes, fewer than its index of {length}")
        start = 0 if self._shard.index_first else size - length
        index = self._shard.decode_index(_pread(handle, start, length))
        with self._lock:
            self._indices[file] = index
            while len(self._indices) > self._kept:
                self._indices.popitem(last=False)
        return index


class LibraryChunks:
    """Chunks of any store and any codec that zarr-python knows, read through it.

    Slower, because zarr-python works on one event-loop thread. It does not say which chunks
    of a shard are absent; absent shards are noticed.
    """

    def __init__(self, array: zarr.Array[Any], label: str) -> None:
        self._array = array
        self._label = label
        outer = _outer(array)
        self._grid = tuple(s // c for s, c in zip(outer, array.chunks, strict=True))

    @property
    def compression(self) -> str:
        """How chunks are encoded: through zarr-python."""
        return "zarr"

    @property
    def table_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    def name(self, coords: Coords) -> str:
        """What people call the chunk: its coordinates and its key in the store."""
        return f"{self._label}: chunk {_text(coords)} ({self._key(coords)})"

    def load(self, coords: Coords) -> np.ndarray | None:
        """The chunk at `coords`, clipped to the array; None if it is absent."""
        from zarr.core.sync import sync

        selection = tuple(
            slice(at * size, min((at + 1) * size, end))
            for at, size, end in zip(coords, self._array.chunks, self._array.shape, strict=True)
        )
        try:
            if not sync(self._array.store.exists(self._key(coords))):
                return None
            chunk = np.asarray(self._array.get_basic_selection(selection))
            return np.array(chunk, dtype=chunk.dtype.newbyteorder("="), copy=None)
        except MemoryError as error:
            raise InputError(f"{self.name(coords)} does not fit in memory") from error
        except Exception as error:
            raise BadChunkError(
                f"{self.name(coords)} cannot be read: {error}; restore it from its source"
            ) from error

    def any_stored(self) -> bool:
        """Whether any chunk is there; asks the store for its list of keys."""
        return self._array.nchunks_initialized > 0

    def _key(self, coords: Coords) -> str:
        file = tuple(at // size for at, size in zip(coords, self._grid, strict=True))
        key = self._array.metadata.encode_chunk_key(file)
        return f"{self._array.path}/{key}" if self._array.path else key


def _text(coords: Coords) -> str:
    return f"({', '.join(map(str, coords))})"


def _pread(handle: int, start: int, length: int) -> bytes:
    """Exactly `length` bytes from `start` on."""
    data = os.pread(handle, length, start)
    if len(data) == length:
        return data
    # Linux gives at most 2 GiB a call.
    parts = [data]
    done = len(data)
    while done < length and parts[-1]:
        parts.append(os.pread(handle, length - done, start + done))
        done += len(parts[-1])
    if done < length:
        raise ValueError(f"the file ends after {done} of {length} bytes")
    return b"".join(parts)


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
