"""Chunks a format allows to be missing: filled as it says, counted, never passed over."""

from __future__ import annotations

import threading
from enum import StrEnum

from tileconv.core.grid import ceil_div
from tileconv.errors import InputError


class Missing(StrEnum):
    """What to do about an absent chunk: fill and say so, fill, or refuse."""

    WARN = "warn"
    FILL = "fill"
    ERROR = "error"


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
        self._seen = bytearray()
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
            if not self._seen:
                # Only now: most rasters are whole, and a header may claim any number.
                self._seen = bytearray(ceil_div(self.chunks, 8))
            byte, bit = number >> 3, 1 << (number & 7)
            if self._seen[byte] & bit:
                return
            self._seen[byte] |= bit
            if len(self.first) < self.NAMED:
                self.first.append(name)
            self.count += 1
