"""A bounded window of tiles over any `concurrent.futures.Executor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


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


def local_executor(workers: int) -> Executor:
    """Threads of this process; for one worker, the calling thread's own pool of one.

    A single worker still gets a thread, so that the calling one stays free to answer
    signals and to draw progress.
    """
    return ThreadPoolExecutor(workers, thread_name_prefix="tileconv")


def run_bounded(
    executor: Executor, call: Callable[[T], R], items: Iterable[T], in_flight: int
) -> Iterator[R]:
    """Results of ``call(item)`` as they come, with at most `in_flight` items submitted.

    Neither the items nor their results are ever held all at once, so their number does
    not matter. When a call raises, or the caller stops early, nothing more is submitted,
    what has not begun is dropped, what has begun is waited for, and the error goes on up.

    Parameters
    ----------
    executor : Executor
    call : callable
    items : iterable
        Taken one by one, as places come free.
    in_flight : int
        At least 1. A little more than the executor's workers keeps them busy.

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
            while not exhausted and len(pending) < in_flight:
                try:
                    pending.add(executor.submit(call, next(source)))
                except StopIteration:
                    exhausted = True
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            while done:
                yield done.pop().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
