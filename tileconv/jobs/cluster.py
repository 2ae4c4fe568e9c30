"""A dask cluster as what works on tiles: dask schedules them, nothing of ours does.

::

    client                                      worker
    make_plan, stage
    ship the task, once   ->  (scheduler)  ->   HeldTask, opened at its first batch
    submit a batch's numbers      ->            read, convolve, write
    record                        <-            receipts and statistics
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor
from multiprocessing import resource_tracker
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import distributed
from distributed.protocol.pickle import dumps
from distributed.scheduler import KilledWorker

from tileconv import __version__
from tileconv.core.grid import ceil_div
from tileconv.errors import ClusterError, ConfigError, MemoryCapError
from tileconv.jobs.backends import Resources
from tileconv.jobs.batches import BatchTask
from tileconv.jobs.cluster_executor import ClusterExecutor
from tileconv.jobs.cluster_worker import (
    TOKEN_NAME,
    HeldTask,
    Surroundings,
    WorkerFacts,
    look_around,
    look_around_me,
    try_open,
)
from tileconv.jobs.config import Run, local_workers
from tileconv.jobs.limits import usable_cores, usable_memory
from tileconv.jobs.memory import DISTRIBUTED_MIB, MIB, baseline_bytes
from tileconv.jobs.plan import Plan
from tileconv.jobs.spelling import parse_size
from tileconv.jobs.work import Work

BATCH_S = 2.0
"""Seconds a task should take: long beside the 2 ms it costs, short enough to be repeated."""

IN_FLIGHT_MIN = 64
"""Tasks in flight even where there are few workers: adaptive clusters grow by what waits."""

IN_FLIGHT_PER_LANE = 3

WAIT_S = 300.0
"""Longest wait for a cluster's first worker, which a queue of jobs may have to start."""

_LOOK_S = 2.0
"""Seconds for which the number of workers is taken to be the same."""

_DASHBOARD_PORT = 8787

# A client that is closed has an error of its own since distributed 2025.4.1.
_LOST = (
    OSError,
    TimeoutError,
    CancelledError,
    getattr(distributed.client, "ClosedClientError", CancelledError),
)


@contextlib.contextmanager
def connected(where: Any, run: Run) -> Iterator[ClusterBackend]:
    """The cluster that a job asks for.

    Parameters
    ----------
    where : str or distributed.Client
        ``"local:N"`` starts N processes on this machine, which end with the run; an address
        is one of a scheduler; a client is used as it is and left open.
    run : Run
        Its ``workers`` are the threads of each process that is started.

    Raises
    ------
    ClusterError
        Nobody answers, or nobody works there.
    """
    if isinstance(where, distributed.Client):
        if where.asynchronous:
            raise ConfigError("client is asynchronous; give one made without asynchronous=True")
        yield ClusterBackend(where)
    elif (processes := local_workers(where)) is not None:
        with _local(processes, run) as client:
            yield ClusterBackend(client)
    else:
        with _remote(where) as client:
            yield ClusterBackend(client)


@contextlib.contextmanager
def _local(processes: int, run: Run) -> Iterator[distributed.Client]:
    with contextlib.ExitStack() as stack:
        with _deaf_children():
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=processes,
                    threads_per_worker=local_threads(processes, run),
                    memory_limit=usable_memory() // processes,
                    host="127.0.0.1",
                    dashboard_address=f"127.0.0.1:{_dashboard_port()}",
                    silence_logs=logging.CRITICAL,
                )
            )
        yield stack.enter_context(distributed.Client(cluster, set_as_default=False))


def _dashboard_port() -> int:
    """The usual port, or 0 for any where it is taken; dask would find one itself, noisily."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _DASHBOARD_PORT))
        except OSError:
            return 0
    return _DASHBOARD_PORT


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Leave Ctrl-C to this process, whose terminal the workers share, from their first moment.

    A thread's blocked signals are those of the threads and processes it starts, and so of
    the thread that starts a local cluster's workers, at first and whenever one has died. What
    comes meanwhile is heard at the end.
    """
    # It unblocks the signal in the thread that starts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _remote(address: str) -> Iterator[distributed.Client]:
    with warnings.catch_warnings():
        # We look at versions ourselves.
        warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
        try:
            client = distributed.Client(address, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"no scheduler answers at {address}: {error}; check the address, and that it runs"
            ) from None
    with client:
        yield client


def local_threads(processes: int, run: Run) -> int:
    """Threads of each process of a local cluster."""
    return run.workers or max(1, usable_cores() // processes)


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
        poorest = min(facts, key=lambda address: facts[address].memory_limit_bytes)
        limit = facts[poorest].memory_limit_bytes
        cap = limit // 4 if run.memory is None else parse_size(run.memory)
        if cap > limit:
            raise MemoryCapError(
                f"a memory cap of {ceil_div(cap, MIB)} MiB for each worker is more than the "
                f"{limit // MIB} MiB at which dask halts worker {poorest}; lower --memory, or "
                "give the workers more"
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
        (folder / TOKEN_NAME).write_text(token)
        expected = Surroundings(__version__, plan.work.source, folder.absolute(), token)
        held = HeldTask(dumps(task), plan.workers, expected)
        self._everywhere(try_open, held)
        executor = ClusterExecutor(self._client, held)
        try:
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
