"""A run's batches as tasks of a dask cluster, sent in lots."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from typing import Any

import distributed

from tileconv.jobs.batches import Batch, BatchResult, BatchTask
from tileconv.jobs.cluster.worker import HeldTask, run_batch

LOT = 16
LOT_S = 0.05
"""Tasks that are sent at once: this many, or what has come together in this many seconds.

A scheduler remembers every sending for as long as it lives, half a KiB each (distributed
2026.8), and tasks that are sent together cost it and the client less.
"""

REPLICATE_S = 60.0
"""Longest wait for a worker to take the task before the first batches; they may wait longer."""

RETRIES = 2
"""How often dask tries a task again that has raised: one whose worker cannot open the input.
Tiles that fail say so in the result of their batch."""


class ClusterExecutor(Executor):
    """Sends a run's task to the cluster once, and then the numbers of tiles.

    Parameters
    ----------
    client : distributed.Client
    task : BatchTask
        What is called.
    held : HeldTask
        The same, to be sent; a worker that comes late receives it with its first batch.
    """

    def __init__(self, client: distributed.Client, task: BatchTask, held: HeldTask) -> None:
        self._client = client
        self._task = task
        self._name = f"tileconv-{os.urandom(4).hex()}"
        # A task, not scattered data: what every worker has lost, the scheduler makes again.
        self._held = client.submit(_itself, held, key=f"{self._name}-task")
        # dask gives the first tasks to those that have what they depend on: so all have it.
        with contextlib.suppress(TimeoutError):
            self._held.exception(timeout=REPLICATE_S)
            client.replicate([self._held])
        self._lock = threading.Lock()
        self._waiting: list[tuple[Batch, Future[BatchResult]]] = []
        self._sent: weakref.WeakSet[distributed.Future] = weakref.WeakSet()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future of a batch; `fn` is the task that was sent, which is not sent again."""
        if fn is not self._task or kwargs:
            raise ValueError(f"this executor calls what it was made for, not {fn}")
        (batch,) = args
        future: Future[BatchResult] = Future()
        future.add_done_callback(_notify_cancelled)
        with self._lock:
            self._waiting.append((batch, future))
            waiting = len(self._waiting)
        if waiting == LOT:
            self._send()
        elif waiting == 1:
            loop = self._client.loop
            loop.add_callback(loop.call_later, LOT_S, self._send)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's signature
        """Drop what is still to be done, and let the workers close what they hold."""
        del wait, cancel_futures
        with self._lock:
            self._waiting = []
        unfinished = list(self._sent)
        if unfinished:
            self._client.cancel(unfinished)
        self._held.release()

    def _send(self) -> None:
        """Send what waits; called by whoever has filled a lot, or by the client's loop."""
        with self._lock:
            lot = [(batch, future) for batch, future in self._waiting if not future.cancelled()]
            self._waiting = []
        if not lot:
            return
        batches, futures = zip(*lot, strict=True)
        try:
            # One name for all, so that the scheduler sees one group and hands tasks out as
            # workers come free.
            sent = self._client.map(
                run_batch,
                batches,
                held=self._held,
                key=[(self._name, batch[0], batch[-1]) for batch in batches],
                pure=False,
                retries=RETRIES,
            )
        except Exception as error:  # noqa: BLE001 - futures carry every exception
            for future in futures:
                _settle(future, error=error)
            return
        self._sent.update(sent)
        for inner, future in zip(sent, futures, strict=True):
            self._client.loop.add_callback(_hand_over, inner, future)


def _itself(held: HeldTask) -> HeldTask:
    return held


async def _hand_over(inner: distributed.Future, future: Future[BatchResult]) -> None:
    """Give the outcome of a dask future to one of the standard library."""
    try:
        result = await inner
    except (CancelledError, asyncio.CancelledError) as error:
        _settle(future, error=CancelledError(str(error)))
    except Exception as error:  # noqa: BLE001 - futures carry every exception
        _settle(future, error=error)
    else:
        _settle(future, result=result)
    finally:
        # Now, not when the garbage collector finds it: a scheduler keeps what is referred to.
        inner.release()


def _settle(
    future: Future[BatchResult],
    *,
    result: BatchResult | None = None,
    error: BaseException | None = None,
) -> None:
    """Set what became of a future, unless nobody wants it any more."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            assert result is not None
            future.set_result(result)


def _notify_cancelled(future: Future[BatchResult]) -> None:
    """Wake up who waits for a future that was cancelled; its task is dropped at the shutdown."""
    if future.cancelled():
        future.set_running_or_notify_cancel()
