"""Memory that is aligned, and memory that a thread takes once and uses again."""

from __future__ import annotations

import math
import threading

import numpy as np

ALIGNMENT = 64
"""Bytes of a line of the cache, and of the longest vector."""


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that begins with a line of the cache.

    Vectors then lie in one line each where rows are whole lines: numpy's own arrays begin 16
    bytes into one, and transforms took a third longer.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


class ThreadBuffers(threading.local):
    """A thread's own memory for blocks, taken once and used for tile after tile.

    Blocks of changing size, freed and taken anew, leave the allocator with holes that
    count as resident; one piece of memory for each thread does not.
    """

    def __init__(self) -> None:
        self._memory: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array that is this thread's until it takes the same name again."""
        size = math.prod(shape) * dtype.itemsize
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < size:
            self._memory.pop(name, None)
            memory = self._memory[name] = np.empty(size, dtype=np.uint8)
        return memory[:size].view(dtype).reshape(shape)
