"""A bounded window of tasks over any `concurrent.futures.Executor`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

_LOOK_S = 5.0
"""Longest time without asking how many places there are."""

_LAST_S = 10.0
"""Longest time for which, after a failure, what others have begun is waited for."""


class SerialExecutor(Executor):
    """Runs each call where it is submitted: the reference every other executor must equal."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """A future that is already done."""
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future carries every exception
            future.set_exception(error)
        return future


def run_bounded(
    executor: Executor,
    call: Callable[[T], R],
    items: Iterable[T],
    in_flight: int | Callable[[], int],
    *,
    failed: Callable[[R], bool] = lambda _: False,
) -> Iterator[R]:
    """Results of ``call(item)`` as they come, with a bounded number of items submitted.

    Neither the items nor their results are ever held all at once, so their number does
    not matter. When a call fails nothing more is submitted and what has not begun is dropped;
    results of what has begun still come, and then the error goes on up. When the caller stops
    early, what has begun is waited for.

    Parameters
    ----------
    executor : Executor
        Is shut down when a call fails.
    call : callable
    items : iterable
        Taken one by one, as places come free.
    in_flight : int or callable
        How many may be submitted, at least 1; a callable says how many now, and raises to end
        the run. A little more than the executor's workers keeps them busy.
    failed : callable
        Whether a result tells of a failure, as if the call had raised; it is yielded.

    Yields
    ------
    result
        In order of completion.
    """
    pending: set[Future[R]] = set()
    source = iter(items)
    exhausted = False
    try:
        while True:
            places = (in_flight() if callable(in_flight) else in_flight) - len(pending)
            while not exhausted and places > 0:
                try:
                    pending.add(executor.submit(call, next(source)))
                    places -= 1
                except StopIteration:
                    exhausted = True
            if not pending:
                return
            # Not for ever: places are counted anew, which is when lost workers are missed.
            done, pending = wait(pending, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
            while done:
                future = done.pop()
                error = future.exception()
                if error is None:
                    yield (result := future.result())
                    if not failed(result):
                        continue
                yield from _what_has_begun(executor, pending | done)
                if error is not None:
                    raise error
                return
    finally:
        # Only for what cannot be dropped: an executor need not tell what becomes of the rest,
        # and dask's does not where a result comes in just then.
        wait([future for future in pending if not future.cancel()])


def _what_has_begun(executor: Executor, pending: set[Future[R]]) -> Iterator[R]:
    """Results of what has begun, and of nothing else; those that raise are left out."""
    executor.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + _LAST_S
    while pending:
        done, waiting = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
        late = time.monotonic() > deadline
        # Not all executors tell those who wait that a future was cancelled.
        pending = {one for one in waiting if not (one.cancel() if late else one.cancelled())}
        for future in done:
            if not future.cancelled() and future.exception() is None:
                yield future.result()
