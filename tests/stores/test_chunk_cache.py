"""The cache of decoded chunks: one decode for all who ask, never more bytes than allowed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.stores.chunk_cache import ChunkCache


def chunk(size, value=0):
    return np.full(size, value, np.uint8)


def never():
    pytest.fail("a chunk that is held was loaded again")


def test_a_held_chunk_is_not_loaded_again():
    cache = ChunkCache(100)
    first = cache.get("a", lambda: chunk(10, 3))
    assert cache.get("a", never) is first
    assert (cache.loads, cache.hits, cache.load_bytes, cache.held_bytes) == (1, 1, 10, 10)


def test_chunks_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        ChunkCache(100).get("a", lambda: chunk(4))[0] = 1


def test_the_least_recently_used_leaves_first():
    cache = ChunkCache(30)
    for key in "abc":
        cache.get(key, lambda: chunk(10))
    cache.get("a", never)
    cache.get("d", lambda: chunk(10))
    cache.get("a", never)
    loads = []
    cache.get("b", lambda: loads.append("b") or chunk(10))
    assert loads == ["b"]


@pytest.mark.parametrize("capacity", [0, 9])
def test_a_chunk_larger_than_the_cache_is_returned_and_not_kept(capacity):
    cache = ChunkCache(capacity)
    for _ in range(2):
        assert cache.get("a", lambda: chunk(10, 7)).tolist() == [7] * 10
    assert (cache.loads, cache.hits, cache.held_bytes) == (2, 0, 0)


def test_a_large_chunk_evicts_nothing():
    cache = ChunkCache(10)
    cache.get("small", lambda: chunk(10))
    cache.get("large", lambda: chunk(11))
    cache.get("small", never)


def test_clear_lets_go_and_keeps_counting():
    cache = ChunkCache(100)
    cache.get("a", lambda: chunk(10))
    cache.clear()
    cache.get("a", lambda: chunk(10))
    assert (cache.loads, cache.held_bytes) == (2, 10)


def test_a_negative_capacity_is_refused():
    with pytest.raises(ValueError, match="-1"):
        ChunkCache(-1)


@pytest.mark.parametrize("capacity", [0, 1000])
def test_threads_that_ask_together_wait_for_one_load(capacity):
    cache = ChunkCache(capacity)
    threads = 8
    started, go = threading.Event(), threading.Event()
    loads = []

    def load():
        loads.append(threading.get_ident())
        started.set()
        assert go.wait(10)
        return chunk(10, 5)

    with ThreadPoolExecutor(threads) as pool:
        first = pool.submit(cache.get, "a", load)
        assert started.wait(10)
        rest = [pool.submit(cache.get, "a", never) for _ in range(threads - 1)]
        while cache.hits < threads - 1:
            pass
        go.set()
        arrays = [future.result(10) for future in [first, *rest]]
    assert len(loads) == 1
    assert all(array is arrays[0] for array in arrays)


def test_other_chunks_load_while_one_is_loading():
    # A lock held while decoding would stop the second from ever starting.
    cache = ChunkCache(100)
    barrier = threading.Barrier(2, timeout=10)

    def load():
        barrier.wait()
        return chunk(1)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(cache.get, key, load) for key in "ab"]:
            future.result(10)


def test_an_error_reaches_every_waiter_and_is_not_remembered():
    cache = ChunkCache(100)
    started, go = threading.Event(), threading.Event()

    def fail():
        started.set()
        assert go.wait(10)
        raise OSError("torn")

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(cache.get, "a", fail)
        assert started.wait(10)
        rest = [pool.submit(cache.get, "a", never) for _ in range(3)]
        while cache.hits < 3:
            pass
        go.set()
        for future in [first, *rest]:
            with pytest.raises(OSError, match="torn"):
                future.result(10)
    assert cache.loads == 0
    assert cache.get("a", lambda: chunk(2, 9)).tolist() == [9, 9]


@settings(deadline=None, max_examples=100)
@given(
    capacity=st.integers(0, 60),
    asked=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), max_size=40),
)
def test_held_bytes_are_counted_and_bounded(capacity, asked):
    cache = ChunkCache(capacity)
    sizes = {}
    for key, wanted in asked:
        size = sizes.setdefault(key, wanted)
        array = cache.get(key, lambda size=size, key=key: chunk(size, key))
        assert array.tolist() == [key] * size
        assert cache.held_bytes <= capacity
    assert cache.loads + cache.hits == len(asked)
    cache.clear()
    assert cache.held_bytes == 0


def test_many_threads_over_few_bytes():
    cache = ChunkCache(35)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 9, (8, 400))

    def work(row):
        for key in row.tolist():
            assert (cache.get(key, lambda key=key: chunk(10, key)) == key).all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, keys))
    assert cache.held_bytes <= 35
    assert cache.loads + cache.hits == keys.size
    assert cache.load_bytes == 10 * cache.loads
