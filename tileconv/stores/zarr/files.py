"""Bytes of a Zarr array's chunks: files of a local folder, or keys of any of zarr's stores."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from zarr.abc.store import Store


FILES_MAX = 200_000
"""Most files of an array that are looked at for changes: about a second."""

METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """A file that is open for reading.

    Parameters
    ----------
    size : int
        In bytes.
    read : callable
        Exactly the bytes from an offset on, of a length; ValueError if they are not there.
    """

    size: int
    read: Callable[[int, int], bytes]


class ChunkFiles(Protocol):
    """Where an array's chunks, or shards, are; for any number of threads."""

    def open(self, name: str) -> AbstractContextManager[ChunkFile | None]:
        """The file called `name`; None if it is not there.

        Raises
        ------
        OSError, ValueError
            It is there and cannot be read, or is no file.
        """

    def names(self) -> Iterator[str]:
        """Names of all files but those of metadata."""

    def stamp(self, depth: int) -> str:
        """What changes when a file is written, replaced or removed.

        Parameters
        ----------
        depth : int
            Folders between the array's own and its files.

        Raises
        ------
        OSError
            A folder cannot be looked at.
        """


class LocalFiles:
    """Files of a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def open(self, name: str) -> Iterator[ChunkFile | None]:
        """See `ChunkFiles.open`."""
        try:
            # A pipe in a chunk's place would keep a plain open waiting for ever.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            handle = os.open(self._folder / name, flags)
        except FileNotFoundError:
            if os.path.lexists(self._folder / name):
                raise ValueError("it is a link to a file that does not exist") from None
            yield None
            return
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no regular file")
            yield ChunkFile(status.st_size, lambda start, length: _pread(handle, start, length))
        finally:
            os.close(handle)

    def names(self) -> Iterator[str]:
        """See `ChunkFiles.names`."""
        for place, folders, files in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if _is_chunk(name):
                    yield str((Path(place) / name).relative_to(self._folder))

    def stamp(self, depth: int) -> str:
        """See `ChunkFiles.stamp`: when folders and files were last changed, and their sizes.

        Of more than `FILES_MAX` files the rest are not looked at: one of these that is written in
        place, and not anew as Zarr's libraries write it, is not noticed.
        """
        digest = hashlib.sha256()
        folders = [self._folder]
        for level in range(depth + 1):
            for folder in folders:
                digest.update(f"{folder.relative_to(self._folder)} {_changed(folder)} ".encode())
            if level < depth:
                folders = [
                    Path(entry.path)
                    for folder in folders
                    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
                    if entry.is_dir() and not entry.name.startswith(".")
                ]
        files = (
            entry
            for folder in folders
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if not entry.is_dir()
        )
        for entry in islice(files, FILES_MAX):
            found = entry.stat()
            digest.update(f"{entry.name} {found.st_size} {found.st_mtime_ns} ".encode())
        for name in METADATA:
            if (self._folder / name).exists():
                digest.update(f"{name} {_changed(self._folder / name)} ".encode())
        return digest.hexdigest()[:16]


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


class StoreFiles:
    """Keys of a store, read through zarr-python's event loop."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._prefix = f"{path}/" if path else ""

    @contextmanager
    def open(self, name: str) -> Iterator[ChunkFile | None]:
        """See `ChunkFiles.open`."""
        from zarr.abc.store import RangeByteRequest
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        key = self._prefix + name

        def read(start: int, length: int) -> bytes:
            span = RangeByteRequest(start, start + length)
            found = sync(self._store.get(key, default_buffer_prototype(), span))
            data = b"" if found is None else found.to_bytes()
            if len(data) != length:
                raise ValueError(f"the store gives {len(data)} of {length} bytes")
            return data

        try:
            size = sync(self._store.getsize(key))
        except FileNotFoundError:
            yield None
            return
        yield ChunkFile(size, read)

    def names(self) -> Iterator[str]:
        """See `ChunkFiles.names`."""
        from zarr.core.sync import sync

        async def listed() -> list[str]:
            return [key async for key in self._store.list_prefix(self._prefix)]

        for key in sync(listed()):
            name = key.removeprefix(self._prefix)
            if _is_chunk(name.rsplit("/", 1)[-1]):
                yield name

    def stamp(self, depth: int) -> str:
        """See `ChunkFiles.stamp`; a store cannot tell."""
        del depth
        return os.urandom(8).hex()


def _is_chunk(name: str) -> bool:
    """Whether a file's name is not that of metadata or of something hidden."""
    return not name.startswith(".") and name != "zarr.json"


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
