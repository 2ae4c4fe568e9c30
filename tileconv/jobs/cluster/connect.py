"""Ways to a cluster: one that is started here, one at an address, one that a client knows."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import warnings
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import distributed

from tileconv.errors import ClusterError, ConfigError, MemoryCapError
from tileconv.jobs.cluster.backend import ClusterBackend
from tileconv.jobs.config import Run, local_workers
from tileconv.jobs.limits import usable_cores, usable_memory
from tileconv.jobs.memory import BASE_MIB, DISTRIBUTED_MIB, MIB

_DASHBOARD_PORT = 8787


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
    each, least = usable_memory() // processes, (BASE_MIB + DISTRIBUTED_MIB) * MIB
    if each < least:
        raise MemoryCapError(
            f"{processes} processes have {each // MIB} MiB of memory each on this machine, and "
            f"take {least // MIB} before their first tile; ask for fewer than local:{processes}"
        )
    with contextlib.ExitStack() as stack:
        with _deaf_children(), _unable_to_start(processes):
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=processes,
                    threads_per_worker=local_threads(processes, run),
                    memory_limit=each,
                    host="127.0.0.1",
                    dashboard_address=f"127.0.0.1:{_dashboard_port()}",
                    silence_logs=logging.CRITICAL,
                )
            )
        yield stack.enter_context(distributed.Client(cluster, set_as_default=False))


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
        except ValueError as error:
            raise ConfigError(f"run.cluster {address!r} is no address: {error}") from None
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                f"no scheduler answers at {address}: {error}; check the address, and that it runs"
            ) from None
    with client:
        yield client


def local_threads(processes: int, run: Run) -> int:
    """Threads of each process of a local cluster."""
    return run.workers or max(1, usable_cores() // processes)
