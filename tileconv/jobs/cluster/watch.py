"""Looks at a cluster while a run waits for it, so that no wait is for ever.

A scheduler that does not answer, workers that have stopped to answer it, and a cluster without
workers are all noticed here, with calls that every scheduler knows: it needs no tileconv.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, TypeVar

import distributed
from distributed.scheduler import KilledWorker, heartbeat_interval

from tileconv.errors import ClusterError
from tileconv.jobs.progress import Listener

T = TypeVar("T")

WAIT_S = 120.0
"""Longest time without a worker, which a queue of jobs may have to start."""

TELL_S = 5.0
"""Time without a worker after which it is said that one is waited for."""

SILENT_S = 30.0
"""A worker that has told its scheduler nothing for so long is replaced.

They tell something twice a second (in clusters of hundreds every few seconds), and later only while
something like a compiler lets no other thread run. dask itself waits five minutes.
"""

SILENT_BEATS = 10
"""The same in heartbeats, for clusters so large that these are rare."""

ANSWER_S = 45.0
"""Longest wait for an answer of the scheduler."""

STUCK_S = 300.0
"""Longest wait for something that workers do, and that should take seconds."""

LOOK_S = 2.0
"""Seconds for which what was seen is taken to be so still."""

_LOOK_EACH_S = 0.01
"""The same for each worker: what the scheduler tells is about 1.5 KiB of each."""

_STRIDE_S = 10.0
"""Most seconds that are counted between two looks."""

_KILL_S = 10.0
"""What dask may take to kill a worker's process, before the worker is given up anyway."""

# A client that is closed has an error of its own since distributed 2025.4.1.
LOST = (
    OSError,
    TimeoutError,
    CancelledError,
    asyncio.CancelledError,
    getattr(distributed.client, "ClosedClientError", CancelledError),
)
"""What calls raise whose scheduler is gone."""


@dataclass(slots=True)
class _Pulse:
    """When a worker was last heard: by the scheduler's clock, and by that of the watch."""

    last_seen: float
    at: float


class Watch:
    """Looks at a cluster's workers now and then, and has silent ones replaced.

    Its clock stands still while this process, or the scheduler, is halted: nobody is late then
    who could not be heard.

    Parameters
    ----------
    client : distributed.Client
    listener : Listener
        Is told that workers are waited for.
    processes : int or None
        How many workers the client's own cluster is to have; a local one gives up a worker that
        dies while it starts, or is not there 15 s after another of its deaths.
    """

    def __init__(
        self, client: distributed.Client, listener: Listener, processes: int | None = None
    ) -> None:
        self._client = client
        self._listener = listener
        self._processes = processes
        self._told = False
        self._threads: dict[str, int] = {}
        self._pulses: dict[str, _Pulse] = {}
        self._replaced: set[str] = set()
        self._looked = float("-inf")
        self._worked = self.clock = 0.0

    def look(self, *, anew: bool = False) -> dict[str, int]:
        """Threads of each worker that runs, not of those that dask has halted.

        Parameters
        ----------
        anew : bool
            Whether what was seen `LOOK_S` ago, or less, will not do.

        Raises
        ------
        ClusterError
            The scheduler does not answer, or there has been no such worker for `WAIT_S`.
        """
        passed = time.monotonic() - self._looked
        if anew or passed > max(LOOK_S, _LOOK_EACH_S * len(self._pulses)):
            self.clock += min(passed, _STRIDE_S) if math.isfinite(passed) else 0.0
            with scheduler_lost(self._client):
                told = self._client.sync(self._client.scheduler.identity, callback_timeout=ANSWER_S)
            self._looked = time.monotonic()
            self._hear(told["workers"])
            if self._processes is not None and len(told["workers"]) < self._processes:
                self._client.cluster.scale(self._processes)
            self._miss_workers()
        return self._threads

    def wait(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        """What a coroutine of the client's loop gives, while its workers are looked at.

        Parameters
        ----------
        call : callable
        what : str
            What the workers do, for the error: ``"look at the input"``.

        Raises
        ------
        ClusterError
            They have not done it in `STUCK_S`; or as `look`.
        """
        address = address_of(self._client)

        async def called() -> T:
            return await call()

        with scheduler_lost(self._client):
            self.look()
            begun = self.clock
            future = asyncio.run_coroutine_threadsafe(called(), self._client.loop.asyncio_loop)
            try:
                while True:
                    with contextlib.suppress(TimeoutError):
                        return future.result(timeout=LOOK_S / 2)
                    if future.done():
                        return future.result()
                    self.look()
                    if self.clock - begun > STUCK_S:
                        raise ClusterError(
                            f"the workers at {address} were to {what} and have not in "
                            f"{STUCK_S:.0f} s; see their logs and whether their file system "
                            "answers, and run the same command again"
                        )
            except KilledWorker as error:
                raise ClusterError(
                    f"{error.allowed_failures + 1} workers died that were to {what}, the last was "
                    f"{error.last_worker.address}; see its log, and run the same command again"
                ) from None
            finally:
                future.cancel()

    def _miss_workers(self) -> None:
        """Say that there is no worker, and give up when there has been none for too long."""
        idle = self.clock - self._worked
        if self._threads:
            self._worked, self._told = self.clock, False
        elif idle > WAIT_S:
            raise ClusterError(
                f"the cluster at {address_of(self._client)} has had no worker that runs for "
                f"{WAIT_S:.0f} s; start workers, and run the same command again"
            )
        elif idle > TELL_S and not self._told:
            self._told = True
            self._listener.waiting(
                f"a worker of the cluster at {address_of(self._client)}, for up to {WAIT_S:.0f} s"
            )

    def _hear(self, workers: dict[str, dict[str, Any]]) -> None:
        """Take note of who runs, and send away who has been silent for too long."""
        self._threads = {
            address: worker["nthreads"]
            for address, worker in workers.items()
            if worker["status"] == "running"
        }
        self._pulses = {
            address: pulse for address, pulse in self._pulses.items() if address in workers
        }
        self._replaced &= workers.keys()
        longest = max(SILENT_S, SILENT_BEATS * heartbeat_interval(len(workers)))
        silent = []
        for address, worker in workers.items():
            pulse = self._pulses.get(address)
            if pulse is None or pulse.last_seen != worker["last_seen"]:
                # The scheduler's clock is not ours: only whether it has changed can be told.
                self._pulses[address] = _Pulse(worker["last_seen"], self.clock)
            elif self.clock - pulse.at > longest and address not in self._replaced:
                silent.append(address)
        if silent:
            self._replaced.update(silent)
            self._client.loop.add_callback(self._replace, silent)

    async def _replace(self, silent: list[str]) -> None:
        """Have workers killed and started anew by their nannies; others are struck off."""
        try:
            await self._client.scheduler.restart_workers(
                workers=silent,
                timeout=_KILL_S,
                wait_for_workers=False,
                on_error="return",
                stimulus_id=f"tileconv-silent-{os.urandom(4).hex()}",
            )
        except Exception:  # noqa: BLE001 - whoever looks next finds them there still
            self._replaced.difference_update(silent)


@contextlib.contextmanager
def scheduler_lost(client: distributed.Client) -> Iterator[None]:
    """Errors of talking to the scheduler, in our words."""
    address = address_of(client)
    try:
        yield
    except LOST as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise ClusterError(
            f"the scheduler at {address} does not answer: {told}; "
            "see its log, and run the same command again"
        ) from None


def address_of(client: distributed.Client) -> str:
    """Where a client's scheduler is, for messages."""
    scheduler = client.scheduler
    return scheduler.address if scheduler is not None else "its address"
