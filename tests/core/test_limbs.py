"""Transforms of wide integers, against scipy's 64-bit integers, which wrap."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import signal

from tileconv.core.engines import build_engine
from tileconv.core.kernels import Kernel
from tileconv.core.methods import choose
from tileconv.core.pixels import Cast

RNG = np.random.default_rng(2)
WEIGHTS = RNG.integers(-2000, 2000, (33, 30)).astype(float)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "uint32", ">i8"])
@pytest.mark.parametrize("accumulator", ["int64", "uint64"])
def test_sums_are_exact_and_wrap(dtype: str, accumulator: str) -> None:
    kind = np.dtype(dtype).newbyteorder("=")
    info = np.iinfo(kind)
    block = RNG.integers(info.min, info.max, (170, 400, 2), kind, endpoint=True).astype(dtype)
    block[:40, :40] = info.min
    block[40:80, :40] = info.max
    engine = build_engine(
        "fft", Kernel(WEIGHTS, (0, 0)), np.dtype(accumulator), limbs=block.itemsize // 2
    )
    assert (engine.method, engine.accumulator) == ("fft", np.dtype(accumulator))
    out = np.empty((138, 371, 2), accumulator)
    engine.apply(block, out, Cast(out.dtype))
    with np.errstate(over="ignore"):
        for sample in range(2):
            pixels = block[..., sample].astype(accumulator)
            weights = WEIGHTS.astype("i8").astype(accumulator)
            want = signal.correlate2d(pixels, weights, "valid")
            np.testing.assert_array_equal(out[..., sample], want)


def test_pieces_are_chosen_where_they_are_exact() -> None:
    """The largest weights that `choose` lets be transformed, over the largest pixels."""
    dtype, sums = np.dtype(np.uint32), np.dtype(np.int64)
    weights = np.zeros((64, 64))
    weights[::2, ::3] = (2**23 - 1) // (32 * 22)
    weights[0, 0] += 2**23 - 1 - weights.sum()
    for over, method in ((0, "fft"), (1, "direct")):
        weights[0, 0] += over
        choice = choose(Kernel(weights, (0, 0)), dtype, sums, output_dtype=np.dtype("i8"))
        assert choice.method == method
    weights[0, 0] -= 1
    engine = build_engine("fft", Kernel(weights, (0, 0)), sums, limbs=2)
    block = RNG.integers(2**32 - 2**12, 2**32, (300, 260, 1), np.uint32)
    out = np.empty((237, 197, 1), np.int64)
    engine.apply(block, out, Cast(out.dtype))
    want = signal.correlate2d(
        block[100:200, 100:200, 0].astype("i8"), weights.astype("i8"), "valid"
    )
    np.testing.assert_array_equal(out[100:137, 100:137, 0], want)


def test_it_saturates_pickles_and_says_what_it_takes() -> None:
    engine = build_engine("fft", Kernel(np.abs(WEIGHTS), (0, 0)), np.dtype("i8"), limbs=2)
    block = RNG.integers(0, 2**31, (232, 1500, 1), np.int32)
    out, again = np.empty((2, 200, 1471, 1), np.int16)
    assert engine.apply(block, out, Cast(out.dtype)).clipped == out.size
    assert (out == 2**15 - 1).all()
    copy = pickle.loads(pickle.dumps(engine))
    tracemalloc.start()
    copy.apply(block, again, Cast(out.dtype))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(again, out)
    work = engine.workspace_bytes(out.shape[:2], 1, block.dtype, out.dtype)
    assert peak <= engine.held_bytes + max(engine.preparing_bytes, work)
