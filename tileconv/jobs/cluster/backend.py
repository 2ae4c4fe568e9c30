"""A dask cluster as what works on tiles; see `tileconv.jobs.backends.Backend`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import distributed
from distributed.protocol.pickle import dumps
from distributed.scheduler import KilledWorker

from tileconv import __version__
from tileconv.core.grid import ceil_div
from tileconv.errors import ClusterError, MemoryCapError
from tileconv.jobs.backends import Resources
from tileconv.jobs.batches import BatchTask
from tileconv.jobs.cluster.executor import ClusterExecutor
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
from tileconv.jobs.spelling import parse_size
from tileconv.jobs.staging import TOKEN_NAME
from tileconv.jobs.work import Work
from tileconv.stores.disk import storage_error

BATCH_S = 2.0
"""Seconds a task should take: long beside the 2 ms it costs, short enough to be repeated."""

IN_FLIGHT_MIN = 64
"""Tasks in flight even where there are few workers: adaptive clusters grow by what waits."""

IN_FLIGHT_PER_LANE = 3

WAIT_S = 300.0
"""Longest wait for a cluster's first worker, which a queue of jobs may have to start."""

_LOOK_S = 2.0
"""Seconds for which the number of workers is taken to be the same."""

# A client that is closed has an error of its own since distributed 2025.4.1.
_LOST = (
    OSError,
    TimeoutError,
    CancelledError,
    getattr(distributed.client, "ClosedClientError", CancelledError),
)


class ClusterBackend:
    """Workers of a dask cluster; see `tileconv.jobs.backends.Backend`.

    Parameters
    ----------
    client : distributed.Client
    """

    in_process = False
    batch_s = BATCH_S

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._threads = 1
        self._lanes = 1
        self._looked = float("-inf")
        self._seen = time.monotonic()

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
        self._threads = plan.workers
        self._seen = time.monotonic()
        token = os.urandom(16).hex()
        try:
            (folder / TOKEN_NAME).write_text(token)
        except OSError as error:
            raise storage_error(folder, error, doing="write into", needed_bytes=32) from error
        expected = Surroundings(__version__, plan.work.source, folder.absolute(), token)
        held = HeldTask(dumps(task), plan.workers, expected)
        with _scheduler_lost(self._client):
            executor = ClusterExecutor(self._client, task, held)
        try:
            self._everywhere(try_open, held)
            yield executor
        except KilledWorker as error:
            _, first, last = error.task
            raise ClusterError(
                f"{error.allowed_failures + 1} workers died that had tiles {first} to {last}, "
                f"the last was {error.last_worker.address}; see its log, give workers "
                "more memory or lower --memory, and run the same command again"
            ) from None
        except CancelledError:
            raise ClusterError(
                f"the scheduler at {_address(self._client)} is gone, or has dropped the run; "
                "see its log, and run the same command again"
            ) from None
        finally:
            with contextlib.suppress(*_LOST):
                executor.shutdown()

    def lanes(self) -> int:
        """See `Backend.lanes`."""
        now = time.monotonic()
        if now - self._looked > _LOOK_S:
            with _scheduler_lost(self._client):
                # Of those that run, not of those that dask has halted for their memory.
                workers = self._client.sync(self._client.scheduler.ncores_running)
            self._lanes = sum(min(self._threads, threads) for threads in workers.values())
            self._looked = now
            if self._lanes:
                self._seen = now
            elif now - self._seen > WAIT_S:
                raise self._no_worker()
        return self._lanes

    def in_flight(self) -> int:
        """See `Backend.in_flight`."""
        return max(IN_FLIGHT_MIN, IN_FLIGHT_PER_LANE * self.lanes())

    def _first(self, function: Callable[..., Any], *args: Any) -> Any:
        """Wait for a worker to do this; a task that waits makes an adaptive cluster start one."""
        with _scheduler_lost(self._client):
            asked = self._client.submit(function, *args, pure=False)
            try:
                return asked.result(timeout=WAIT_S)
            except TimeoutError:
                raise self._no_worker() from None

    def _no_worker(self) -> ClusterError:
        return ClusterError(
            f"the cluster at {_address(self._client)} has had no worker that runs for "
            f"{WAIT_S:.0f} s; start workers, and run the same command again"
        )

    def _facts(self, work: Work) -> dict[str, WorkerFacts]:
        """What each worker has.

        An adaptive cluster may stop its workers while they are looked at, which is no task;
        then a task looks at the one that it starts.
        """
        self._first(int)
        self._check_versions()
        found: dict[str, WorkerFacts] = self._everywhere(look_around, work)
        return found or dict([self._first(look_around_me, work)])

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
        with _scheduler_lost(self._client):
            found: dict[str, Any] = self._client.run(function, *args, on_error="return")
            there = self._client.nthreads()
        return {address: result for address, result in found.items() if address in there}


@contextlib.contextmanager
def _scheduler_lost(client: distributed.Client) -> Iterator[None]:
    """Errors of talking to the scheduler, in our words."""
    try:
        yield
    except _LOST as error:
        raise ClusterError(
            f"the scheduler at {_address(client)} does not answer: {error}; "
            "see its log, and run the same command again"
        ) from None


def _address(client: distributed.Client) -> str:
    scheduler = client.scheduler
    return scheduler.address if scheduler is not None else "its address"
