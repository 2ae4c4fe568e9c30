"""What runs on a cluster's workers: it looks around, opens a run's task once, does batches."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distributed

from tileconv import __version__
from tileconv.core.processor import this_processor
from tileconv.core.raster import Raster
from tileconv.errors import ClusterError, TileconvError
from tileconv.jobs.backends import warm_up
from tileconv.jobs.batches import Batch, BatchResult, BatchTask, process_name
from tileconv.jobs.limits import resident_bytes, usable_memory
from tileconv.jobs.memory import settle
from tileconv.jobs.staging import TOKEN_NAME
from tileconv.jobs.tile_task import TileTask
from tileconv.jobs.work import Work


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker has.

    Parameters
    ----------
    threads : int
    memory_limit_bytes : int
        Of dask, or of the machine.
    usable_bytes : int
        Above which dask interferes.
    resident_bytes : int
        In memory once everything that a job needs is loaded and compiled.
    """

    threads: int
    memory_limit_bytes: int
    usable_bytes: int
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every worker of a run must find, wherever it runs.

    Parameters
    ----------
    version : str
        The client's tileconv.
    raster : Raster
        The input, as the client sees it.
    input_state : str
        When its file was last changed, and its size; "" where it is not one file: network file
        systems tell of changes in folders up to a minute late.
    vector_bytes : int or None
        Of the client's processor, on which the last bits of transforms depend; None where
        nothing is transformed.
    folder : Path
        Where the output is staged.
    token : str
        What a file named `TOKEN_NAME` in that folder holds.
    """

    version: str
    raster: Raster
    input_state: str
    vector_bytes: int | None
    folder: Path
    token: str

    @classmethod
    def here(cls, task: TileTask, folder: Path, token: str) -> Surroundings:
        """What this process finds."""
        path, transforms = task.source.path, task.work.engine.method == "fft"
        return cls(
            __version__,
            task.source.raster,
            task.source.state if path is not None and path.is_file() else "",
            this_processor().vector_bytes if transforms else None,
            folder.absolute(),
            token,
        )


async def look_around(work: Work, dask_worker: Any) -> WorkerFacts:
    """What this worker has, once it is ready for tiles; the worker answers others meanwhile."""
    await asyncio.to_thread(_make_ready, work)
    return _facts(dask_worker)


def look_around_me(work: Work) -> tuple[str, WorkerFacts]:
    """As `look_around`, for a task: also the address of the worker that does it."""
    worker = distributed.get_worker()
    _make_ready(work)
    return worker.address, _facts(worker)


def _facts(worker: Any) -> WorkerFacts:
    manager = worker.memory_manager
    limit = manager.memory_limit or usable_memory()
    # It spills the run's task to disk, with all it has open, or halts the worker.
    parts = (manager.memory_spill_fraction, manager.memory_pause_fraction)
    usable = int(limit * min((part for part in parts if part), default=1))
    return WorkerFacts(worker.state.nthreads, limit, usable, resident_bytes())


async def try_open(held: HeldTask) -> None:
    """Open a run's task as the first batch would.

    Raises
    ------
    ClusterError
        The input or the staging folder is not to be seen from here.
    """
    await asyncio.to_thread(held.open)


def run_batch(batch: Batch, held: HeldTask) -> BatchResult:
    """Do a batch with the task that this worker holds."""
    return held(batch)


class HeldTask:
    """A run's task, that a worker opens before its first batch and keeps until the run's end.

    A value of the run's graph: the client makes it once, each worker receives it once, and
    its threads share the source, its cache of chunks and the part file.

    Parameters
    ----------
    payload : bytes
        A pickled `BatchTask`.
    threads : int
        Most batches at once, whatever the worker's own number: memory is planned for these.
    expected : Surroundings
    """

    def __init__(self, payload: bytes, threads: int, expected: Surroundings) -> None:
        self._payload = payload
        self._threads = threads
        self._expected = expected
        self._places = threading.BoundedSemaphore(threads)
        self._lock = threading.Lock()
        self._task: BatchTask | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_this_process, (self._payload, self._threads, self._expected)

    def __call__(self, batch: Batch) -> BatchResult:
        """Do a batch."""
        task = self.open()
        with self._places:
            return task(batch)

    def open(self) -> BatchTask:
        """The task, opened and checked the first time.

        Raises
        ------
        ClusterError
            This worker does not see what the client sees.
        """
        with self._lock:
            if self._task is None:
                self._task = self._opened()
            return self._task

    def _opened(self) -> BatchTask:
        if self._expected.version != __version__:  # Of a worker that came late.
            raise ClusterError(
                f"worker {process_name()} has tileconv {__version__}, the client "
                f"{self._expected.version}; install the same on both"
            )
        _check_folder(self._expected)
        try:
            task: BatchTask = pickle.loads(self._payload)  # noqa: S301 - our client's bytes
        except TileconvError as error:
            raise ClusterError(
                f"worker {process_name()} cannot read the input: {error}; "
                "put it where every worker sees it under the same name"
            ) from None
        weakref.finalize(self, task.task.close)
        found = Surroundings.here(task.task, self._expected.folder, self._expected.token)
        _compare(found, self._expected)
        _limit_threads(self._threads)
        _make_ready(task.task.work)
        return task


_unpickled: weakref.WeakValueDictionary[str, HeldTask] = weakref.WeakValueDictionary()
_unpickling = threading.Lock()


def _of_this_process(payload: bytes, threads: int, expected: Surroundings) -> HeldTask:
    """The task of that run, one object however often it comes here."""
    with _unpickling:
        held = _unpickled.get(expected.token)
        if held is None:
            held = _unpickled[expected.token] = HeldTask(payload, threads, expected)
        return held


def _compare(found: Surroundings, expected: Surroundings) -> None:
    """Refuse to read another input than the client, or to get other last bits from it."""
    for what, here, there in (
        ("raster", found.raster, expected.raster),
        ("state of a file", found.input_state, expected.input_state),
    ):
        if here != there:
            raise ClusterError(
                f"worker {process_name()} sees another {what} as the input, {here}, than the "
                f"client, {there}; put the input where every worker sees it under the same name"
            )
    if found.vector_bytes != expected.vector_bytes:
        raise ClusterError(
            f"worker {process_name()} computes with vectors of {found.vector_bytes} bytes, the "
            f"client with {expected.vector_bytes}, and last bits of transforms would differ; "
            "use machines of one kind, or --method direct or separable"
        )


def _check_folder(expected: Surroundings) -> None:
    """Refuse to work where the staged output is not to be seen, or not to be written."""
    try:
        found = (expected.folder / TOKEN_NAME).read_text()
    except OSError as error:
        found = str(error.strerror)
    if found != expected.token:
        raise ClusterError(
            f"worker {process_name()} does not see the folder {expected.folder} in which the "
            "output is made; choose an output on a file system that all machines share"
        )
    probe = expected.folder / f"{TOKEN_NAME}-{os.urandom(4).hex()}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ClusterError(
            f"worker {process_name()} cannot write into {expected.folder}: {error.strerror}; "
            "give it the permission, or choose another output"
        ) from None


def _make_ready(work: Work) -> None:
    warm_up(work)
    settle()


def _limit_threads(threads: int) -> None:
    """Keep libraries from starting threads of their own beside those of the worker.

    Our engines call neither BLAS nor parallel loops, and our codecs run in the thread that
    calls them; zarr-python, which reads what we do not, has a pool.
    """
    import zarr

    zarr.config.set({"threading.max_workers": threads, "async.concurrency": threads})
