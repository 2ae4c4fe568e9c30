"""What the tiles of a run are worked on by: threads of this process, or a cluster's workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tileconv.jobs.batches import BatchTask
from tileconv.jobs.config import Run
from tileconv.jobs.limits import default_memory_cap, resident_bytes, usable_cores
from tileconv.jobs.memory import baseline_bytes, settle
from tileconv.jobs.plan import Plan
from tileconv.jobs.spelling import parse_size
from tileconv.jobs.work import Work


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run may use.

    Parameters
    ----------
    processes : int
        That work on tiles.
    threads : int
        Of each.
    cap_bytes : int
        Most memory of each.
    baseline_bytes : int
        What the interpreter and the libraries take in each.
    """

    processes: int
    threads: int
    cap_bytes: int
    baseline_bytes: int


class Backend(Protocol):
    """Processes that work on tiles, and how to reach them."""

    @property
    def link(self) -> str | None:
        """Where people can watch: the address of a cluster's dashboard."""

    @property
    def in_process(self) -> bool:
        """Whether tiles are worked on in this process."""

    @property
    def batch_s(self) -> float:
        """Seconds that a task should take; 0 for one tile each."""

    def resources(self, work: Work, run: Run) -> Resources:
        """What a job's ``[run]`` allows, and what is there.

        Raises
        ------
        ClusterError
            There are no workers, or not such as could do this.
        MemoryCapError
            A worker has less memory than the cap.
        """

    def executor(
        self, plan: Plan, task: BatchTask, folder: Path
    ) -> contextlib.AbstractContextManager[Executor]:
        """An executor that is ready for tiles; `folder` is where they are staged.

        Raises
        ------
        ClusterError
            A worker cannot see the input or the folder.
        """

    def lanes(self) -> int:
        """Tasks that can be worked on at once, now."""

    def in_flight(self) -> int:
        """Tasks that should be submitted at once, now."""


class ThreadsBackend:
    """Threads of this process; see `Backend`."""

    link = None
    in_process = True
    batch_s = 0.0

    def __init__(self) -> None:
        self._threads = 1

    def resources(self, work: Work, run: Run) -> Resources:
        """See `Backend.resources`."""
        return Resources(
            processes=1,
            threads=run.workers or usable_cores(),
            cap_bytes=default_memory_cap() if run.memory is None else parse_size(run.memory),
            baseline_bytes=max(baseline_bytes(work), resident_bytes()),
        )

    @contextlib.contextmanager
    def executor(self, plan: Plan, task: BatchTask, folder: Path) -> Iterator[Executor]:
        """See `Backend.executor`.

        A single worker still gets a thread, so that the calling one stays free to answer
        signals and to draw progress.
        """
        del task, folder
        self._threads = plan.workers
        warm_up(plan.work)
        settle()
        with ThreadPoolExecutor(plan.workers, thread_name_prefix="tileconv") as pool:
            yield pool

    def lanes(self) -> int:
        """See `Backend.lanes`."""
        return self._threads

    def in_flight(self) -> int:
        """See `Backend.in_flight`."""
        return self._threads + 1


def warm_up(work: Work) -> None:
    """Compile or load the engine's machine code once, before threads would all do it."""
    rows, columns = work.operation.kernel.shape
    samples = work.source.samples
    block = np.zeros((rows, columns, samples), work.block_dtype)
    work.engine.apply(block, np.empty((1, 1, samples), work.cast.dtype), work.cast)
