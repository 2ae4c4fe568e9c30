"""Chunks a format allows to be missing: filled as it says, counted, never passed over."""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tileconv.core.bitmap import Bitmap
from tileconv.errors import InputError


class Missing(StrEnum):
    """What to do about an absent chunk: fill and say so, fill, or refuse."""

    WARN = "warn"
    FILL = "fill"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Absences:
    """Chunks that were found to be absent: all their numbers, and names of the first few."""

    numbers: np.ndarray
    names: tuple[str, ...]


class AbsentChunks:
    """Counts the absent chunks of a source, and keeps the names of the first ten.

    Thread-safe. A chunk that is read twice counts once, by a bit for each chunk.

    Parameters
    ----------
    chunks : int
        Number of chunks the raster has.
    missing : Missing
        With `Missing.ERROR`, the first absent chunk raises.
    """

    NAMED = 10

    def __init__(self, chunks: int, missing: Missing = Missing.WARN) -> None:
        self.missing = missing
        self.chunks = chunks
        self.count = 0
        self.first: list[str] = []
        self._seen = Bitmap(0)
        self._news = array("q")
        self._told = 0
        self._lock = threading.Lock()

    def add(self, number: int, name: str) -> None:
        """Count chunk `number`, that people know as `name`.

        Raises
        ------
        InputError
            If absent chunks are refused.
        """
        if self.missing is Missing.ERROR:
            raise InputError(
                f"{name} is absent; restore it, or read it as the fill value with --missing fill"
            )
        with self._lock:
            if self._is_new(number):
                self._news.append(number)
                if len(self.first) < self.NAMED:
                    self.first.append(name)

    def news(self) -> Absences:
        """What was counted since this was last asked, for another's `merge`."""
        with self._lock:
            numbers, self._news = np.array(self._news, np.int64), array("q")
            names, self._told = tuple(self.first[self._told :]), len(self.first)
            return Absences(numbers, names)

    def merge(self, found: Absences) -> None:
        """Count what another process, or another source of the same raster, has found."""
        with self._lock:
            new = sum(self._is_new(number) for number in found.numbers.tolist())
            if new and len(self.first) < self.NAMED:
                names = [name for name in found.names if name not in self.first]
                self.first += names[: self.NAMED - len(self.first)]

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
