"""The bounded loop: everything done once, never too much at a time, errors handed up."""

import contextlib
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from tileconv.jobs.executors import SerialExecutor, run_bounded


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("in_flight", [1, 2, 7])
def test_every_item_once_and_no_more_than_allowed_in_flight(workers, in_flight):
    taken, finished, most = 0, 0, 0
    lock = threading.Lock()

    def items():
        nonlocal taken, most
        for item in range(40):
            with lock:
                taken += 1
                most = max(most, taken - finished)
            yield item

    with ThreadPoolExecutor(workers) if workers else SerialExecutor() as executor:
        results = []
        for result in run_bounded(executor, lambda n: n * n, items(), in_flight):
            with lock:
                finished += 1
            results.append(result)
    assert sorted(results) == [n * n for n in range(40)]
    # A result counts as finished only once the caller has it, so all that were in flight may
    # be done while the next is taken.
    assert most <= in_flight + 1


def test_an_error_goes_up_and_nothing_more_is_submitted():
    begun = []

    def call(item):
        begun.append(item)
        if item == 3:
            raise KeyError(item)
        return item

    with ThreadPoolExecutor(2) as executor, pytest.raises(KeyError):
        list(run_bounded(executor, call, range(1000), 4))
    assert len(begun) < 500


def test_stopping_early_waits_for_what_has_begun():
    running = threading.Semaphore(0)
    done = []

    def call(item):
        running.acquire(timeout=10)
        done.append(item)
        return item

    with ThreadPoolExecutor(2) as executor:
        results = run_bounded(executor, call, range(100), 2)
        running.release(50)
        next(results)
        results.close()
        finished = len(done)
    assert finished == len(done) < 10


def test_nothing_to_do():
    assert list(run_bounded(SerialExecutor(), str, [], 3)) == []


@pytest.mark.parametrize("how", ["raises", "tells"])
def test_what_has_begun_when_a_call_fails_still_comes(how):
    all_begun, failed = threading.Barrier(3), threading.Event()

    def call(item):
        if item > 2:
            return item
        all_begun.wait(10)
        if item != 1:
            failed.wait(10)
        elif how == "raises":
            raise KeyError(item)
        return item

    class Noting(ThreadPoolExecutor):
        """Lets the others end once what is to be dropped is dropped."""

        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=wait, cancel_futures=cancel_futures)
            failed.set()

    got = []
    with Noting(3) as executor, contextlib.suppress(KeyError):
        for result in run_bounded(executor, call, range(100), 6, failed=lambda item: item == 1):
            got.append(result)  # noqa: PERF402 - what came before an error is kept
    assert {0, 2} <= set(got)
    assert (1 in got) == (how == "tells")
    # The thread of the one that failed may have taken some more before they were dropped.
    assert max(got) < 10


def test_an_error_does_not_wait_for_what_was_dropped(monkeypatch):
    """As dask's futures: once cancelled, nobody is told what became of them."""
    monkeypatch.setattr("tileconv.jobs.executors._LAST_S", 0.1)

    class Silent(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            if args == (2,):
                future.set_exception(KeyError(2))
            futures.append(future)
            return future

    futures = []

    def run():
        with pytest.raises(KeyError):
            next(run_bounded(Silent(), str, range(10), 5))

    in_time(run)
    assert [future.cancelled() for future in futures] == [True, True, False, True, True]


def test_places_may_change_and_their_number_may_end_the_run(monkeypatch):
    """Asked after each result, and now and then though none comes."""
    monkeypatch.setattr("tileconv.jobs.executors._LOOK_S", 0.01)
    places = iter([3, 1, 6])
    submitted = []

    class Counting(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            submitted.append(future)
            return future

    def in_flight():
        if len(submitted) == 3 and not submitted[0].done():
            submitted[0].set_result("done")
        return next(places)

    def run():
        results = run_bounded(Counting(), str, range(100), in_flight)
        assert next(results) == "done"
        with pytest.raises(RuntimeError):  # The end of `places`, as an error of the generator.
            next(results)

    in_time(run)
    assert len(submitted) == 7


def in_time(call):
    """Call it in a thread: a loop that waits for ever is a failure, and no test that hangs."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(call()), daemon=True)
    thread.start()
    thread.join(10)
    assert ended
