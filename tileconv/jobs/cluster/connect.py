"""Ways to a cluster: one that is started here, one at an address, one that a client knows."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import distributed

from tileconv.errors import ClusterError, ConfigError, MemoryCapError
from tileconv.jobs.cluster.backend import ClusterBackend
from tileconv.jobs.cluster.watch import LOST
from tileconv.jobs.config import Run, local_workers
from tileconv.jobs.limits import usable_cores, usable_memory
from tileconv.jobs.memory import BASE_MIB, DISTRIBUTED_MIB, MIB
from tileconv.jobs.progress import Listener

T = TypeVar("T")

CONNECT_S = 40.0
"""Longest wait for a scheduler's first answer; dask itself waits 30 s for most of it."""

END_S = 8.0
"""Longest wait for a local cluster that closes; it kills a worker that has halted after 4 s."""

_GOODBYE_S = 2.0
"""Longest wait for a client that closes, whose scheduler may have halted."""

_DASHBOARD_PORT = 8787


@contextlib.contextmanager
def connected(where: Any, run: Run, listener: Listener) -> Iterator[ClusterBackend]:
    """The cluster that a job asks for.

    Parameters
    ----------
    where : str or distributed.Client
        ``"local:N"`` starts N processes on this machine, which end with the run; an address
        is one of a scheduler; a client is used as it is and left open.
    run : Run
        Its ``workers`` are the threads of each process that is started.
    listener : Listener
        Is told what is waited for.

    Raises
    ------
    ClusterError
        Nobody answers, or nobody works there.
    """
    if isinstance(where, distributed.Client):
        if where.asynchronous:
            raise ConfigError("client is asynchronous; give one made without asynchronous=True")
        yield ClusterBackend(where, listener)
    elif (processes := local_workers(where)) is not None:
        with _local(processes, run) as client:
            yield ClusterBackend(client, listener, processes)
    else:
        # A scheduler that is started just now, or not at all, takes dask half a minute.
        listener.waiting(f"the scheduler at {where}")
        with _remote(where) as client:
            yield ClusterBackend(client, listener)


@contextlib.contextmanager
def _local(processes: int, run: Run) -> Iterator[distributed.Client]:
    each, least = usable_memory() // processes, (BASE_MIB + DISTRIBUTED_MIB) * MIB
    if each < least:
        raise MemoryCapError(
            f"{processes} processes have {each // MIB} MiB of memory each on this machine, and "
            f"take {least // MIB} before their first tile; ask for fewer than local:{processes}"
        )

    def start() -> distributed.LocalCluster:
        _deafen()
        return distributed.LocalCluster(
            n_workers=processes,
            threads_per_worker=local_threads(processes, run),
            memory_limit=each,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{_dashboard_port()}",
            silence_logs=logging.CRITICAL,
        )

    with _quiet(), contextlib.ExitStack() as stack:
        starting = _aside(start)
        stack.callback(_end, starting)
        with _unable_to_start(processes):
            cluster = starting.result()
        client = distributed.Client(cluster, set_as_default=False)
        stack.callback(_close, client)
        yield client


def _aside(call: Callable[[], T]) -> Future[T]:
    """What a call gives that goes on in a thread of its own, though a signal ends the run."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - futures carry every exception
            future.set_exception(error)

    threading.Thread(target=work, name="tileconv-cluster", daemon=True).start()
    return future


def _end(starting: Future[distributed.LocalCluster]) -> None:
    """Close a local cluster, also one that a signal has found half started.

    A signal that comes while it closes is heard when it is closed: else its processes would be
    left, and what they share with this one.
    """

    def close() -> None:
        starting.result().close()

    ending = _aside(close)
    try:
        _settled(ending)
    except BaseException:
        _settled(ending)
        raise


def _settled(ending: Future[None]) -> None:
    with contextlib.suppress(TimeoutError):
        ending.exception(timeout=END_S)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let dask say nothing on stderr, until the last of its threads has ended."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _unable_to_start(processes: int) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, TimeoutError) as error:
        raise ClusterError(
            f"the {processes} processes of local:{processes} cannot start: {error}; see whether "
            "the machine has the memory for them, and run the same command again"
        ) from None


def _dashboard_port() -> int:
    """The usual port, or 0 for any where it is taken; dask would find one itself, noisily."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _DASHBOARD_PORT))
        except OSError:
            return 0
    return _DASHBOARD_PORT


def _deafen() -> None:
    """Leave Ctrl-C to the main thread, whose terminal the workers share, from their first moment.

    A thread's blocked signals are those of the threads and processes it starts, and so of
    the thread that starts a local cluster's workers, at first and whenever one has died.
    """
    # It unblocks the signal in the thread that starts it. Where this process is killed it tidies
    # up after it, and would print that it does.
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ.pop("PYTHONWARNINGS")
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


@contextlib.contextmanager
def _remote(address: str) -> Iterator[distributed.Client]:
    def connect() -> distributed.Client:
        with warnings.catch_warnings():
            # We look at versions ourselves.
            warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)
            return distributed.Client(address, set_as_default=False)

    with _quiet():
        try:
            # Aside, since dask waits for ever for one that takes the call and says nothing.
            client = _aside(connect).result(timeout=CONNECT_S)
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            # Of a protocol that needs keys, or a library, that are not here.
            raise ConfigError(
                f"run.cluster {address!r} is no address that can be used: {error}"
            ) from None
        except (OSError, TimeoutError) as error:
            told = str(error) or f"not in {CONNECT_S:.0f} s"
            raise ClusterError(
                f"no scheduler answers at {address}: {told}; check the address, and that it runs"
            ) from None
        try:
            yield client
        finally:
            _close(client)


def _close(client: distributed.Client) -> None:
    with contextlib.suppress(*LOST, RuntimeError, AssertionError):
        client.close(timeout=_GOODBYE_S)


def local_threads(processes: int, run: Run) -> int:
    """Threads of each process of a local cluster."""
    return run.workers or max(1, usable_cores() // processes)
