"""Tiles by the handful: what one task does, so that small tiles do not drown in messages."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tileconv.core.grid import TileGrid
from tileconv.errors import TileconvError
from tileconv.jobs.limits import peak_resident_bytes
from tileconv.jobs.tile_task import TileResult, TileTask

Batch = tuple[int, ...]
"""Indices of the tiles that one task does, one after another."""

BATCH_MAX = 4096
"""Most tiles of a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """What became of a batch.

    Parameters
    ----------
    process : str
        Host and number of the process that did it.
    peak_memory_bytes : int
        Most memory that process has ever had.
    tiles : tuple of TileResult
        Those that were done.
    error : Exception or None
        Why the others were not.
    """

    process: str
    peak_memory_bytes: int
    tiles: tuple[TileResult, ...]
    error: Exception | None = None

    @property
    def indices(self) -> np.ndarray:
        """Of the tiles that were done."""
        return np.array([tile.index for tile in self.tiles], np.int64)


class BatchTask:
    """Does the tiles of a batch; picklable.

    Parameters
    ----------
    grid : TileGrid
    task : TileTask
    """

    def __init__(self, grid: TileGrid, task: TileTask) -> None:
        self.grid = grid
        self.task = task

    def __call__(self, batch: Batch) -> BatchResult:
        """Do each tile, up to the first that fails; what was done before it counts."""
        tiles: list[TileResult] = []
        failed: Exception | None = None
        try:
            for index in batch:
                tiles.append(self.task(self.grid[index]))
        except TileconvError as error:
            failed = error.at(str(self.grid[index])).with_traceback(error.__traceback__)
        except Exception as error:  # noqa: BLE001 - told with what was done
            failed = error
        return BatchResult(process_name(), peak_resident_bytes(), tuple(tiles), failed)


class Batches:
    """Batches that should take `target_s` each, by what tiles have taken so far.

    Towards the end batches grow smaller, so that all lanes end at about the same time.

    Parameters
    ----------
    indices : iterable of int
        Of the tiles to be done, taken as they are needed.
    count : int
        How many those are.
    target_s : float
        Seconds for a batch; 0 for one tile each.
    tile_s : float
        Seconds a tile is expected to take, until the first is done.
    lanes : callable
        Says how many batches can be worked on at once.
    """

    def __init__(
        self,
        indices: Iterable[int],
        count: int,
        *,
        target_s: float,
        tile_s: float,
        lanes: Callable[[], int],
    ) -> None:
        self._indices = iter(indices)
        self._left = count
        self._target_s = target_s
        self._expected_s = tile_s
        self._lanes = lanes
        self._done = 0
        self._spent_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        while batch := tuple(islice(self._indices, self._size())):
            self._left -= len(batch)
            yield batch

    def learn(self, result: BatchResult) -> None:
        """Take account of what a batch has taken."""
        self._done += len(result.tiles)
        self._spent_s += sum(tile.elapsed_s for tile in result.tiles)

    def _size(self) -> int:
        if not self._target_s:
            return 1
        tile_s = self._spent_s / self._done if self._done else self._expected_s
        wanted = int(self._target_s / max(tile_s, 1e-6))
        fair = self._left // (2 * max(1, self._lanes()))
        return max(1, min(wanted, fair, BATCH_MAX))


def process_name() -> str:
    """Host and number of this process: its name among those of a cluster."""
    return f"{socket.gethostname()}:{os.getpid()}"
