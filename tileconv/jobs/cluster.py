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
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
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
from tileconv.jobs.batches import BatchResult, BatchTask
from tileconv.jobs.cluster_worker import (
    TOKEN_NAME,
    HeldTask,
    Surroundings,
    WorkerFacts,
    look_around,
    run_batch,
    try_open,
)
from tileconv.jobs.config import Run, local_workers
from tileconv.jobs.limits import usable_cores
from tileconv.jobs.memory import DISTRIBUTED_MIB, MIB, baseline_bytes
from tileconv.jobs.plan import Plan
from tileconv.jobs.spelling import parse_size
from tileconv.jobs.work import Work

BATCH_S = 2.0
"""Seconds a task should take: long beside the 2 ms it costs, short enough to be repeated."""

IN_FLIGHT_MIN = 64
"""Tasks in flight even where there are few workers: adaptive clusters grow by what waits."""

IN_FLIGHT_PER_LANE = 3
RETRIES = 2

WAIT_S = 300.0
"""Longest wait for a cluster's first worker, which a queue of jobs may have to start."""

_LOOK_S = 2.0
"""Seconds for which the number of workers is taken to be the same."""


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
    with warnings.catch_warnings():
        # Its port may be taken; it finds another.
        warnings.filterwarnings("ignore", message="Port 8787 is already in use")
        with (
            distributed.LocalCluster(
                n_workers=processes,
                threads_per_worker=local_threads(processes, run),
                host="127.0.0.1",
                dashboard_address="127.0.0.1:8787",
                silence_logs=logging.CRITICAL,
                preload=["tileconv.jobs.cluster_worker"],
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


@contextlib.contextmanager
def _remote(address: str) -> Iterator[distributed.Client]:
    with warnings.catch_warnings():
        # We look at versions ourselves.
        warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
        try:
            client = distributed.Client(address)
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

    batch_s = BATCH_S

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._threads = 1
        self._lanes = 1
        self._looked = float("-inf")

    @property
    def link(self) -> str | None:
        """See `Backend.link`."""
        link: str | None = self._client.dashboard_link
        return link

    def resources(self, work: Work, run: Run) -> Resources:
        """See `Backend.resources`."""
        self._await_worker()
        self._check_versions()
        facts: dict[str, WorkerFacts] = self._everywhere(look_around, work)
        most = max(one.threads for one in facts.values())
        poorest = min(facts, key=lambda address: facts[address].memory_limit_bytes)
        limit = facts[poorest].memory_limit_bytes
        cap = limit // 4 if run.memory is None else parse_size(run.memory)
        if cap > limit:
            raise MemoryCapError(
                f"a memory cap of {ceil_div(cap, MIB)} MiB for each worker is more than the "
                f"{limit // MIB} MiB that worker {poorest} has; lower --memory, or give the "
                "workers more"
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
        token = os.urandom(16).hex()
        (folder / TOKEN_NAME).write_text(token)
        expected = Surroundings(plan.work.source, folder.absolute(), token)
        held = HeldTask(dumps(task), plan.workers, expected)
        self._everywhere(try_open, held)
        executor = ClusterExecutor(self._client, held)
        try:
            yield executor
        except KilledWorker as error:
            _, first, last, _ = error.task
            raise ClusterError(
                f"{error.allowed_failures + 1} workers died while they worked on tiles {first} to "
                f"{last}, the last was {error.last_worker.address}; see its log, give workers "
                "more memory or lower --memory, and run the same command again"
            ) from None
        except CancelledError:
            raise ClusterError(
                f"the scheduler at {_address(self._client)} is gone, or has dropped the run; "
                "see its log, and run the same command again"
            ) from None
        finally:
            with contextlib.suppress(OSError, TimeoutError, CancelledError):
                executor.shutdown()

    def lanes(self) -> int:
        """See `Backend.lanes`."""
        now = time.monotonic()
        if now - self._looked > _LOOK_S:
            with _scheduler_lost(self._client):
                workers = self._client.nthreads()
            self._lanes = sum(min(self._threads, threads) for threads in workers.values())
            self._looked = now
        return self._lanes

    def in_flight(self) -> int:
        """See `Backend.in_flight`."""
        return max(IN_FLIGHT_MIN, IN_FLIGHT_PER_LANE * self.lanes())

    def _await_worker(self) -> None:
        """Wait for a worker; a task that waits makes an adaptive cluster start one."""
        with _scheduler_lost(self._client):
            asked = self._client.submit(int, pure=False)
            try:
                asked.result(timeout=WAIT_S)
            except TimeoutError:
                raise ClusterError(
                    f"the cluster at {_address(self._client)} has had no worker for "
                    f"{WAIT_S:.0f} s; start workers, and run the same command again"
                ) from None

    def _check_versions(self) -> None:
        """Refuse workers that would compute other pixels than this process means."""
        found = self._client.run(resolve_name, "tileconv:__version__", on_error="return")
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
        with _scheduler_lost(self._client):
            found: dict[str, Any] = self._client.run(function, *args, on_error="return")
        for address, result in found.items():
            if isinstance(result, ClusterError):
                raise result
            if isinstance(result, Exception):
                raise ClusterError(
                    f"worker {address} fails: {type(result).__name__}: {result}; see its log"
                )
        return found


class ClusterExecutor(Executor):
    """Sends a run's task to the cluster once, and then the numbers of tiles.

    Parameters
    ----------
    client : distributed.Client
    held : HeldTask
        What every call is made of; a worker that comes late receives it with its first batch.
    """

    def __init__(self, client: distributed.Client, held: HeldTask) -> None:
        self._name = f"tileconv-{os.urandom(4).hex()}"
        # A batch that fails for its pixels says so in its result; what is tried again is one
        # whose worker cannot open the input.
        self._executor = client.get_executor(pure=False, retries=RETRIES)
        # A task, not scattered data: what every worker has lost, the scheduler makes again.
        self._held = client.submit(_itself, held, key=f"{self._name}-task")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future of a batch; `fn` is the task that was sent, which is not sent again."""
        del fn, kwargs
        (batch,) = args
        # One name for all, so that the scheduler sees one group and hands tasks out as
        # workers come free. Ended by something new: a batch may be tried again.
        key = (self._name, batch[0], batch[-1], os.urandom(4).hex())
        future: Future[BatchResult] = self._executor.submit(run_batch, self._held, batch, key=key)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's signature
        """Drop what is still to be done, and let the workers close what they hold."""
        del wait, cancel_futures
        self._executor.shutdown(wait=False)
        self._held.release()


def _itself(held: HeldTask) -> HeldTask:
    return held


@contextlib.contextmanager
def _scheduler_lost(client: distributed.Client) -> Iterator[None]:
    """Errors of talking to the scheduler, in our words."""
    try:
        yield
    except (OSError, TimeoutError, CancelledError) as error:
        raise ClusterError(
            f"the scheduler at {_address(client)} does not answer: {error}; "
            "see its log, and run the same command again"
        ) from None


def _address(client: distributed.Client) -> str:
    scheduler = client.scheduler
    return scheduler.address if scheduler is not None else "its address"
