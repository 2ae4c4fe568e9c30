"""Decoded chunks, kept within a number of bytes, each decoded once for all who ask.

Compressed rasters are bound by their codec, and a halo makes neighbouring tiles ask for
the same chunks at nearly the same time: the first to ask decodes, the others wait for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np

DEFAULT_CACHE_BYTES = 64 << 20
"""Size of the cache a source makes for itself when it is given none."""


class ChunkCache:
    """Least-recently-used chunks within `capacity_bytes`; thread-safe.

    No lock is held while a chunk is decoded. Bytes held never exceed the capacity, not
    even for a moment: room is made before a chunk goes in. Chunks being decoded, and
    those a caller still looks at, are the caller's to count.

    Parameters
    ----------
    capacity_bytes : int
        0 keeps nothing, and still decodes once for threads that ask at the same time.

    Attributes
    ----------
    loads, hits : int
        Chunks decoded, and requests served without decoding. With `load_bytes` they give
        the read amplification of a run.
    load_bytes : int
        Bytes of all chunks decoded.
    held_bytes : int
        Bytes of the chunks held now.
    """

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise ValueError(f"a cache holds 0 bytes or more, got {capacity_bytes}")
        self.capacity_bytes = capacity_bytes
        self.loads = 0
        self.hits = 0
        self.load_bytes = 0
        self.held_bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._pending: dict[Hashable, Future[np.ndarray]] = {}

    def get(self, key: Hashable, load: Callable[[], np.ndarray]) -> np.ndarray:
        """The chunk named `key`, loaded if it is not there.

        Parameters
        ----------
        key : hashable
            Unique among everything that shares this cache.
        load : callable
            Returns the chunk, as an array that keeps no more memory alive than its own
            ``nbytes``. It is called without a lock and must not ask for the same key.

        Returns
        -------
        ndarray
            Read-only, and the same object for everyone who asks while it is held.

        Raises
        ------
        Exception
            What `load` raised, in every thread that waited for it; it is not remembered,
            the next to ask tries again.
        """
        with self._lock:
            chunk = self._kept.get(key)
            if chunk is not None:
                self._kept.move_to_end(key)
                self.hits += 1
                return chunk
            pending = self._pending.get(key)
            if pending is None:
                mine: Future[np.ndarray] = Future()
                self._pending[key] = mine
            else:
                self.hits += 1
        if pending is not None:
            return pending.result()
        return self._load(key, load, mine)

    def clear(self) -> None:
        """Let go of every chunk held; the counters stay."""
        with self._lock:
            self._kept.clear()
            self.held_bytes = 0

    def _load(
        self, key: Hashable, load: Callable[[], np.ndarray], mine: Future[np.ndarray]
    ) -> np.ndarray:
        try:
            chunk = load()
            chunk.flags.writeable = False
        except BaseException as error:
            # Interrupts too: whoever waits must not wait for ever.
            with self._lock:
                del self._pending[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._pending[key]
            self.loads += 1
            self.load_bytes += chunk.nbytes
            self._keep(key, chunk)
        mine.set_result(chunk)
        return chunk

    def _keep(self, key: Hashable, chunk: np.ndarray) -> None:
        if chunk.nbytes > self.capacity_bytes:
            return
        while self.held_bytes + chunk.nbytes > self.capacity_bytes:
            _, evicted = self._kept.popitem(last=False)
            self.held_bytes -= evicted.nbytes
        self._kept[key] = chunk
        self.held_bytes += chunk.nbytes
