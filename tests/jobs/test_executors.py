"""The bounded loop: everything done once, never too much at a time, errors handed up."""

import threading
from concurrent.futures import ThreadPoolExecutor

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
    assert len(begun) < 20


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
