"""Chunks without pixels, absent or bad: filled where that is allowed, counted, never passed over.

An absent chunk is one that its format allows to be missing. A bad one is there and cannot be
read or decoded, or should be there and is not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tileconv.core.bitmap import Bitmap
from tileconv.errors import BadChunkError


class Missing(StrEnum):
    """What to do about an absent chunk: fill and say so, fill, or refuse."""

    WARN = "warn"
    FILL = "fill"
    ERROR = "error"


class Bad(StrEnum):
    """What to do about a bad chunk: refuse, or fill as if it were absent, and say so."""

    ERROR = "error"
    FILL = "fill"


@dataclass(frozen=True, slots=True)
class Absences:
    """Chunks that were found without pixels: all their numbers, and names of the first few."""

    numbers: np.ndarray
    names: tuple[str, ...]


class ChunkTally:
    """Counts chunks of a source, and keeps the names of the first `NAMED`.

    Thread-safe. A chunk that is met twice counts once, by a bit for each chunk; but every thread
    is told of all that it has met, whoever met them first.

    Parameters
    ----------
    chunks : int
        Number of chunks the raster has.
    """

    NAMED = 10

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.count = 0
        self.first: list[str] = []
        self._seen = Bitmap(0)
        self._names: dict[int, str] = {}
        self._met = threading.local()
        self._lock = threading.Lock()

    def meet(self, numbers: Iterable[int]) -> None:
        """Note those of some chunks that were counted as met by the calling thread.

        They may have been counted before, when they were read into a cache.
        """
        if self.count:
            self._mine().update(number for number in numbers if self._seen[number])

    def news(self) -> Absences:
        """What the calling thread has met since it last asked, for another's `merge`."""
        mine = self._mine()
        numbers = sorted(mine)
        mine.clear()
        names = [self._names[number] for number in numbers if number in self._names]
        return Absences(np.array(numbers, np.int64), tuple(names))

    def merge(self, found: Absences) -> None:
        """Count what another process, or another source of the same raster, has found."""
        with self._lock:
            new = sum(self._is_new(number) for number in found.numbers.tolist())
            if new and len(self.first) < self.NAMED:
                names = [name for name in found.names if name not in self.first]
                self.first += names[: self.NAMED - len(self.first)]

    def _count(self, number: int, name: str) -> None:
        """Count chunk `number`, that people know as `name`."""
        with self._lock:
            if self._is_new(number) and len(self.first) < self.NAMED:
                self.first.append(name)
                self._names[number] = name
        self._mine().add(number)

    def _mine(self) -> set[int]:
        """What the calling thread has met."""
        mine: set[int] = self._met.__dict__.setdefault("numbers", set())
        return mine

    def _is_new(self, number: int) -> bool:
        """Count a chunk that was not counted before."""
        if not self._seen.size:
            # Only now: most rasters are whole, and a header may claim any number.
            self._seen = Bitmap(self.chunks)
        if self._seen[number]:
            return False
        self._seen.set(number)
        self.count += 1
        return True


class AbsentChunks(ChunkTally):
    """Counts the absent chunks of a source, and keeps the names of the first ten.

    Parameters
    ----------
    chunks : int
        Number of chunks the raster has.
    missing : Missing
        With `Missing.ERROR`, the first absent chunk raises.
    """

    def __init__(self, chunks: int, missing: Missing = Missing.WARN) -> None:
        super().__init__(chunks)
        self.missing = missing

    def add(self, number: int, name: str) -> None:
        """Count chunk `number`, that people know as `name`.

        Raises
        ------
        BadChunkError
            If absent chunks are refused.
        """
        if self.missing is Missing.ERROR:
            raise BadChunkError(
                f"{name} is absent; restore it, or read it as the fill value with --missing fill"
            )
        self._count(number, name)


class BadChunks(ChunkTally):
    """Counts the bad chunks of a source, and keeps the names of the first thousand.

    Parameters
    ----------
    chunks : int
        Number of chunks the raster has.
    bad : Bad
        With `Bad.ERROR`, the first bad chunk raises.
    """

    NAMED = 1000

    def __init__(self, chunks: int, bad: Bad = Bad.ERROR) -> None:
        super().__init__(chunks)
        self.bad = bad

    def add(self, number: int, name: str, error: BadChunkError) -> None:
        """Count chunk `number`, that people know as `name`, for what `error` says of it.

        Raises
        ------
        BadChunkError
            `error`, if bad chunks are refused.
        """
        if self.bad is Bad.ERROR:
            raise error
        self._count(number, name)
