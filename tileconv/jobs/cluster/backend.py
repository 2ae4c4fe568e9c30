"""A dask cluster as what works on tiles; see `tileconv.jobs.backends.Backend`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import distributed
from distributed.comm import CommClosedError
from distributed.protocol.pickle import dumps

from tileconv import __version__
from tileconv.core.grid import ceil_div
from tileconv.errors import ClusterError, MemoryCapError
from tileconv.jobs.backends import Resources
from tileconv.jobs.batches import BatchTask
from tileconv.jobs.cluster.executor import ClusterExecutor
from tileconv.jobs.cluster.watch import STUCK_S, Watch, address_of, scheduler_lost
from tileconv.jobs.cluster.worker import (
    HeldTask,
    Surroundings,
    WorkerFacts,
    look_around,
    look_around_me,
    try_open,
)
from tileconv.jobs.config import Run
from tileconv.jobs.memory import DISTRIBUTED_MIB, MIB, baseline_bytes
from tileconv.jobs.plan import Plan
from tileconv.jobs.progress import Listener
from tileconv.jobs.spelling import parse_size
from tileconv.jobs.staging import TOKEN_NAME
from tileconv.jobs.work import Work
from tileconv.stores.disk import storage_error

BATCH_S = 2.0
"""Seconds a task should take: long beside the 2 ms it costs, short enough to be repeated."""

IN_FLIGHT_MIN = 64
"""Tasks in flight even where there are few workers: adaptive clusters grow by what waits."""

IN_FLIGHT_PER_LANE = 3

STUCK_TIMES = 30
"""So many times longer than any batch so far may pass without one: a file system hangs."""


class ClusterBackend:
    """Workers of a dask cluster; see `tileconv.jobs.backends.Backend`.

    Parameters
    ----------
    client : distributed.Client
    listener : Listener
        Is told what is waited for.
    processes : int or None
        How many workers the client's own cluster is to have again when some are lost for good.
    """

    in_process = False
    batch_s = BATCH_S

    def __init__(
        self, client: distributed.Client, listener: Listener, processes: int | None = None
    ) -> None:
        self._client = client
        self._watch = Watch(client, listener, processes)
        self._threads = 1
        self._expected_s = 0.0
        self._executor: ClusterExecutor | None = None
        self._results = 0
        self._progressed = 0.0

    @property
    def link(self) -> str | None:
        """See `Backend.link`."""
        link: str | None = self._client.dashboard_link
        return link

    def resources(self, work: Work, run: Run) -> Resources:
        """See `Backend.resources`."""
        facts = self._facts(work)
        most = max(one.threads for one in facts.values())
        poorest = min(facts, key=lambda address: facts[address].usable_bytes)
        limit, usable = facts[poorest].memory_limit_bytes, facts[poorest].usable_bytes
        cap = limit // 4 if run.memory is None else parse_size(run.memory)
        if cap > usable:
            raise MemoryCapError(
                f"a memory cap of {ceil_div(cap, MIB)} MiB for each process is more than worker "
                f"{poorest} may use, {usable // MIB} MiB of its limit of {limit // MIB}, before "
                "dask interferes; lower --memory, or give the workers more"
            )
        return Resources(
            processes=len(facts),
            threads=min(run.workers or most, most),
            cap_bytes=cap,
            baseline_bytes=max(
                baseline_bytes(work) + DISTRIBUTED_MIB * MIB,
                *(one.resident_bytes for one in facts.values()),
            ),
        )

    @contextlib.contextmanager
    def executor(self, plan: Plan, task: BatchTask, folder: Path) -> Iterator[Executor]:
        """See `Backend.executor`."""
        self._threads, self._expected_s = plan.workers, plan.tile_s
        token = os.urandom(16).hex()
        try:
            (folder / TOKEN_NAME).write_text(token)
        except OSError as error:
            raise storage_error(folder, error, doing="write into", needed_bytes=32) from error
        held = HeldTask(dumps(task), plan.workers, Surroundings.here(task.task, folder, token))
        with scheduler_lost(self._client):
            executor = ClusterExecutor(self._client, task, held)
        try:
            self._watch.wait(executor.spread, "take the job")
            self._everywhere(try_open, held)
            self._executor, self._progressed = executor, self._watch.clock
            yield executor
        except CancelledError:
            raise ClusterError(
                f"the scheduler at {address_of(self._client)} is gone, or has dropped the run; "
                "see its log, and run the same command again"
            ) from None
        finally:
            self._executor = None
            executor.shutdown()

    def lanes(self) -> int:
        """See `Backend.lanes`."""
        lanes = sum(min(self._threads, threads) for threads in self._watch.look().values())
        executor, now = self._executor, self._watch.clock
        if executor is None:
            return lanes
        if not lanes or executor.results != self._results:
            self._results, self._progressed = executor.results, now
        longest = max(STUCK_S, STUCK_TIMES * max(self._expected_s, executor.slowest_s))
        if now - self._progressed > longest:
            raise ClusterError(
                f"the workers at {address_of(self._client)} answer and have ended no task for "
                f"{longest:.0f} s; see their logs and whether their file system answers, and "
                "run the same command again"
            )
        return lanes

    def in_flight(self) -> int:
        """See `Backend.in_flight`."""
        return max(IN_FLIGHT_MIN, IN_FLIGHT_PER_LANE * self.lanes())

    def _first(self, function: Callable[..., Any], *args: Any, what: str) -> Any:
        """Wait for a worker to do this; a task that waits makes an adaptive cluster start one."""
        with scheduler_lost(self._client):
            asked = self._client.submit(function, *args, pure=False)

        async def answer() -> Any:
            return await asked

        return self._watch.wait(answer, what)

    def _facts(self, work: Work) -> dict[str, WorkerFacts]:
        """What each worker has.

        An adaptive cluster may stop its workers while they are looked at, which is no task;
        then a task looks at the one that it starts.
        """
        self._first(int, what="begin")
        self._check_versions()
        found: dict[str, WorkerFacts] = self._everywhere(look_around, work)
        return found or dict([self._first(look_around_me, work, what="get ready")])

    def _check_versions(self) -> None:
        """Refuse workers that would compute other pixels than this process means."""
        found = self._ask(resolve_name, "tileconv:__version__")
        for address, version in found.items():
            if isinstance(version, Exception):
                raise ClusterError(
                    f"worker {address} has no tileconv ({version}); install tileconv "
                    f"{__version__} there"
                )
            if version != __version__:
                raise ClusterError(
                    f"worker {address} has tileconv {version}, this is {__version__}; "
                    "install the same on both"
                )

    def _everywhere(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Results of a call on every worker there is."""
        found = self._ask(function, *args)
        for address, result in found.items():
            if isinstance(result, ClusterError):
                raise result
            if isinstance(result, Exception):
                raise ClusterError(
                    f"worker {address} fails: {type(result).__name__}: {result}; see its log"
                )
        return found

    def _ask(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        """Results of a call, or its errors, on every worker that is still there afterwards."""

        async def answers() -> dict[str, Any]:
            asked: Awaitable[dict[str, Any]] = self._client.run(function, *args, on_error="return")
            return await asked

        found = self._watch.wait(answers, "get ready")
        there = self._watch.look(anew=True)
        return {
            address: result
            for address, result in found.items()
            if address in there and not isinstance(result, CommClosedError)
        }
