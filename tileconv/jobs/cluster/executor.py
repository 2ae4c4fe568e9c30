"""A run's batches as tasks of a dask cluster, sent in lots; tiles that kill workers found out."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError
from typing import Any

import distributed
from distributed.scheduler import KilledWorker

from tileconv.errors import ClusterError
from tileconv.jobs.batches import Batch, BatchResult, BatchTask
from tileconv.jobs.cluster.watch import LOST
from tileconv.jobs.cluster.worker import HeldTask, run_batch
from tileconv.jobs.tile_task import TileResult

LOT = 16
LOT_S = 0.05
"""Tasks that are sent at once: this many, or what has come together in this many seconds.

A scheduler remembers every sending for as long as it lives, half a KiB each (distributed
2026.8), and tasks that are sent together cost it and the client less.
"""

REPLICATE_S = 30.0
"""Longest wait for workers to take the task before the first batches; they may wait longer."""

RETRIES = 2
"""How often dask tries a task again that has raised: one whose worker cannot open the input.
Tiles that fail say so in the result of their batch."""

TRIALS = 2
"""How often a tile has to be given up by dask, alone in the cluster, before it is called guilty:
workers also die for reasons of their own."""

_Asked = tuple[Batch, Future[BatchResult]]


class ClusterExecutor(Executor):
    """Sends a run's task to the cluster once, and then the numbers of tiles.

    dask gives up a task that was at several workers when they died, although it may only have
    waited there. Such a batch is suspected: nothing more is sent then, what workers have
    begun ends, and the tiles of the suspects are tried one by one, alone in the cluster. One
    over which workers die then too is guilty; if there is none, the run goes on.

    Everything but `submit` and `shutdown` happens in the thread of the client's loop.

    Parameters
    ----------
    client : distributed.Client
    task : BatchTask
        What is called.
    held : HeldTask
        The same, to be sent; a worker that comes late receives it with its first batch.
    """

    def __init__(self, client: distributed.Client, task: BatchTask, held: HeldTask) -> None:
        self.results = 0
        """How many batches have come back."""
        self.slowest_s = 0.0
        """Most seconds that the tiles of a batch have taken."""
        self._client = client
        self._task = task
        self._name = f"tileconv-{os.urandom(4).hex()}"
        # A task, not scattered data: what every worker has lost, the scheduler makes again.
        self._held = client.submit(_itself, held, key=f"{self._name}-task")
        self._sent = 0
        self._waiting: deque[_Asked] = deque()
        self._flying: dict[distributed.Future, _Asked] = {}
        self._recalled: set[distributed.Future] = set()
        self._suspects: list[_Asked] = []
        self._on_trial = False
        self._alone: list[distributed.Future] = []
        self._closing = False

    async def spread(self) -> None:
        """Give all workers the task: dask gives the first batches to those that have it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPLICATE_S):
                await self._held
                await self._client.replicate([self._held])

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future of a batch; `fn` is the task that was sent, which is not sent again."""
        if fn is not self._task or kwargs:
            raise ValueError(f"this executor calls what it was made for, not {fn}")
        (batch,) = args
        future: Future[BatchResult] = Future()
        future.add_done_callback(_notify_cancelled)
        self._client.loop.add_callback(self._take, batch, future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's signature
        """Begin nothing more, or drop everything and let the workers close what they hold.

        Parameters
        ----------
        wait : bool
            False leaves alone what workers have begun; it can be waited for still.
        cancel_futures : bool
            What has not begun is cancelled anyway.
        """
        del cancel_futures
        if wait:
            with contextlib.suppress(RuntimeError, *LOST):
                self._client.sync(self._drop)
        else:
            self._client.loop.add_callback(self._withdraw)

    def _take(self, batch: Batch, future: Future[BatchResult]) -> None:
        if self._closing:
            future.cancel()
            return
        self._waiting.append((batch, future))
        if len(self._waiting) == LOT:
            self._send()
        elif len(self._waiting) == 1:
            self._client.loop.call_later(LOT_S, self._send)

    def _send(self) -> None:
        """Send what waits, unless it has to wait for a trial."""
        if self._suspects or self._on_trial or self._closing:
            return
        lot = [asked for asked in self._waiting if not asked[1].cancelled()]
        self._waiting.clear()
        for inner, asked in zip(self._tasks([batch for batch, _ in lot]), lot, strict=True):
            self._flying[inner] = asked
            self._client.loop.add_callback(self._land, inner)

    def _tasks(self, batches: list[Batch]) -> list[distributed.Future]:
        """Send these batches.

        The same first word in all names makes them one group for the scheduler, which hands out
        tasks of a group as workers come free; the number is of this sending alone.
        """
        if not batches:
            return []
        names = [(self._name, self._sent + i) for i in range(len(batches))]
        self._sent += len(batches)
        sent: list[distributed.Future] = self._client.map(
            run_batch, batches, held=self._held, key=names, pure=False, retries=RETRIES
        )
        return sent

    async def _land(self, inner: distributed.Future) -> None:
        """See to what becomes of a batch."""
        batch, future = self._flying[inner]
        try:
            result = await inner
        except KilledWorker as error:
            if error.task == self._held.key:
                _settle(future, error=_died("the job was sent to", error))
            else:
                await self._suspect(batch, future)
        except (CancelledError, asyncio.CancelledError) as error:
            if inner not in self._recalled:
                _settle(future, error=CancelledError(str(error)))
            elif self._closing:
                future.cancel()
            else:
                self._waiting.appendleft((batch, future))
        except Exception as error:  # noqa: BLE001 - futures carry every exception
            _settle(future, error=error)
        else:
            self._note(result)
            _settle(future, result=result)
        finally:
            # Now, not when the garbage collector finds it: a scheduler keeps what is referred to.
            inner.release()
            self._recalled.discard(inner)
            del self._flying[inner]
        if self._suspects and not self._flying and not self._on_trial:
            await self._try_suspects()

    def _note(self, result: BatchResult) -> None:
        self.results += 1
        self.slowest_s = max(self.slowest_s, sum(tile.elapsed_s for tile in result.tiles))

    async def _suspect(self, batch: Batch, future: Future[BatchResult]) -> None:
        self._suspects.append((batch, future))
        if len(self._suspects) == 1:
            await self._recall()

    async def _recall(self) -> None:
        """Take back from the scheduler what it has given to no worker."""
        with contextlib.suppress(*LOST):
            given = await self._client.scheduler.processing()
            begun = {key for keys in given.values() for key in keys}
            idle = [
                inner
                for inner in self._flying
                if inner.status == "pending" and inner.key not in begun
            ]
            self._recalled.update(idle)
            await self._client.cancel(idle)

    async def _try_suspects(self) -> None:
        """Find the tile that kills workers, if there is one; then send again what waits."""
        self._on_trial = True
        try:
            while self._suspects and not self._closing:
                batch, future = self._suspects[-1]
                try:
                    result = await self._one_by_one(batch)
                    # One that kills ends the run: let it find no others meanwhile.
                    if result.error is not None:
                        self._closing = True
                    _settle(future, result=result)
                except (CancelledError, asyncio.CancelledError) as error:
                    _settle(future, error=CancelledError(str(error)))
                except Exception as error:  # noqa: BLE001 - futures carry every exception
                    _settle(future, error=error)
                self._suspects.pop()
        finally:
            self._on_trial = False
        self._send()

    async def _one_by_one(self, batch: Batch) -> BatchResult:
        """A batch's result, from tasks of one tile each; its error names one that kills."""
        process, peak = "", 0
        tiles: list[TileResult] = []
        failed: Exception | None = None
        for index in batch:
            try:
                result = await self._try(index)
            except KilledWorker as error:
                failed = _died(f"worked on {self._task.grid[index]}", error, TRIALS)
            else:
                self._note(result)
                process, peak = result.process, max(peak, result.peak_memory_bytes)
                tiles.extend(result.tiles)
                failed = result.error
            if failed is not None:
                break
        return BatchResult(process, peak, tuple(tiles), failed)

    async def _try(self, index: int, trials: int = TRIALS) -> BatchResult:
        """The result of a tile alone in the cluster; raises what its last trial has raised."""
        (inner,) = self._alone = self._tasks([(index,)])
        try:
            result: BatchResult = await inner
        except KilledWorker:
            if trials == 1:
                raise
            return await self._try(index, trials - 1)
        else:
            return result
        finally:
            inner.release()

    async def _withdraw(self) -> None:
        """Begin nothing more; cancel what was not begun."""
        self._closing = True
        for _, future in (*self._waiting, *self._suspects):
            future.cancel()
        self._waiting.clear()
        await self._recall()

    async def _drop(self) -> None:
        """Begin nothing more, and let workers forget what they have begun."""
        self._closing = True
        await self._client.cancel([*self._flying, *self._alone])
        self._held.release()


def _itself(held: HeldTask) -> HeldTask:
    return held


def _died(what: str, error: KilledWorker, times: int = 1) -> ClusterError:
    return ClusterError(
        f"{times * (error.allowed_failures + 1)} workers died that {what}, and nothing else; "
        f"the last was {error.last_worker.address}; see its log, give workers more memory or "
        "lower --memory, and run the same command again"
    )


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
