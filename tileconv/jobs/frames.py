"""Frames in a file that is only ever appended to: what a kill cuts short is never believed.

::

    "tcj2"  crc32  bytes of text, tiles, units   text   tiles     units
    4       4      4           + 8    + 8        json   <u8 x 2   <u8 x 4

A frame that was cut short, or whose checksum does not match, ends the file: what comes after it
was never promised, and is written over.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tileconv.stores.disk import storage_error, storing, sync_file, sync_folder, write_all
from tileconv.stores.sink import UNIT_FIELDS

TILE_FIELDS = 2

_MAGIC = b"tcj2"
_HEAD = struct.Struct("<4sIIQQ")
_CHECKED_FROM = 8
_NO_TILES, _NO_UNITS = np.empty((0, TILE_FIELDS), "<u8"), np.empty((0, UNIT_FIELDS), "<u8")


class Stored(NamedTuple):
    """What a frame holds.

    Parameters
    ----------
    text : dict
        JSON.
    tiles : ndarray of uint64, shape (tiles, 2)
    units : ndarray of uint64, shape (units, 4)
    """

    text: dict[str, Any]
    tiles: np.ndarray
    units: np.ndarray


class FrameFile:
    """A file of frames; whoever appends has locked it.

    Parameters
    ----------
    path : Path
        There may be no such file yet.
    durable : bool
        Whether what is appended must survive a loss of power.

    Attributes
    ----------
    frames : int
        How many there are.
    damaged : bool
        Whether others come after one that is not whole, which no end of a process explains.

    Raises
    ------
    StorageError
        The file cannot be read.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._durable = durable
        self._end = self.frames = 0
        for body in _bodies(path):
            self._end += _HEAD.size + len(body.data)
            self.frames += 1
        self.damaged = _goes_on(path, self._end)

    def __iter__(self) -> Iterator[Stored]:
        """Every frame there is now.

        Raises
        ------
        StorageError
            The file cannot be read.
        """
        return frames_in(self.path, self._end)

    def append(
        self,
        text: Mapping[str, Any],
        tiles: np.ndarray = _NO_TILES,
        units: np.ndarray = _NO_UNITS,
    ) -> None:
        """Write a frame after the last good one.

        Raises
        ------
        StorageError
        """
        frame = _encoded(text, tiles, units)
        with storing(self.path, "write", needed_bytes=len(frame)):
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if os.fstat(handle).st_size > self._end:
                    os.ftruncate(handle, self._end)
                write_all(handle, frame, self._end)
                if self._durable:
                    os.fdatasync(handle)
            finally:
                os.close(handle)
            if self._durable and not self._end:
                sync_folder(self.path.parent)
        self._end += len(frame)
        self.frames += 1

    def rewrite(self, frames: Iterable[Stored]) -> None:
        """Put other frames in the place of these, all at once; they may be made of these.

        Raises
        ------
        StorageError
        """
        new = self.path.with_name(f"{self.path.name}.new")
        with storing(new, "write"):
            new.unlink(missing_ok=True)
        shorter = FrameFile(new)
        for frame in frames:
            shorter.append(*frame)
        with storing(self.path, "write"):
            if self._durable:
                sync_file(new)
            new.replace(self.path)
            if self._durable:
                sync_folder(self.path.parent)
        self._end, self.frames = shorter._end, shorter.frames


_SEARCHED_BYTES = 64 << 20


def _goes_on(path: Path, end: int) -> bool:
    """Whether a frame begins after the one that is not whole and ends a file."""
    try:
        with path.open("rb") as file:
            file.seek(end)
            return _MAGIC in file.read(_SEARCHED_BYTES)[len(_MAGIC) :]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise storage_error(path, error, doing="read") from error


def frames_in(path: Path, end: int | None = None) -> Iterator[Stored]:
    """Every whole frame of a file, up to position `end`; none where there is no file.

    Raises
    ------
    StorageError
        It cannot be read.
    """
    return (body.parsed() for body in _bodies(path, end))


def _encoded(text: Mapping[str, Any], tiles: np.ndarray, units: np.ndarray) -> bytes:
    said = json.dumps(text).encode()
    body = said + tiles.astype("<u8").tobytes() + units.astype("<u8").tobytes()
    lengths = _HEAD.pack(_MAGIC, 0, len(said), len(tiles), len(units))[_CHECKED_FROM:]
    crc = zlib.crc32(body, zlib.crc32(lengths))
    return _MAGIC + struct.pack("<I", crc) + lengths + body


class _Body(NamedTuple):
    """A frame's bytes behind its head, whose checksum is right, and what is in them."""

    data: bytes
    said: int
    tiles: int
    units: int

    def parsed(self) -> Stored:
        at = self.said + 8 * TILE_FIELDS * self.tiles
        tiles = np.frombuffer(self.data, "<u8", TILE_FIELDS * self.tiles, self.said)
        units = np.frombuffer(self.data, "<u8", UNIT_FIELDS * self.units, at)
        return Stored(
            json.loads(self.data[: self.said]),
            tiles.reshape(-1, TILE_FIELDS),
            units.reshape(-1, UNIT_FIELDS),
        )


def _bodies(path: Path, end: int | None = None) -> Iterator[_Body]:
    """Whole frames, up to position `end`; none where there is no file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size if end is None else end
            while file.tell() < size and (body := _next(file, size)) is not None:
                yield body
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise storage_error(path, error, doing="read") from error


def _next(file: BinaryIO, size: int) -> _Body | None:
    """The next frame of a file of `size` bytes, or None at the first that is not whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, crc, said, tiles, units = _HEAD.unpack(head)
    length = said + 8 * (TILE_FIELDS * tiles + UNIT_FIELDS * units)
    if magic != _MAGIC or length > size - file.tell():
        return None
    data = file.read(length)
    if zlib.crc32(data, zlib.crc32(head[_CHECKED_FROM:])) != crc:
        return None
    return _Body(data, said, tiles, units)
