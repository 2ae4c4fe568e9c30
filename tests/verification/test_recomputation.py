"""Sums are scipy.signal's, NaN and infinity too; bounds are each window's own."""

import numpy as np
import pytest
from scipy import signal

from tileconv.verification.extending import Block
from tileconv.verification.recomputation import Judged, Recomputation
from tileconv.verification.weights import Weights

RNG = np.random.default_rng(0)
SMALL = RNG.normal(size=(4, 3))
SMALL[1, 2] = 0
LARGE = RNG.normal(size=(14, 23))
LARGE[3, 5] = LARGE[9, 0] = 0


def block_of(pixels):
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return Block(pixels, *(np.zeros(n, bool) for n in pixels.shape[:2]))


def recomputed(pixels, weights, accumulator, method="direct", output="float32", fill=None):
    judged = Judged(np.dtype(accumulator), method, fill, pixels.dtype, np.dtype(output))
    return Recomputation(Weights(weights, (0, 0)), judged, 64).expect(block_of(pixels))


def oracle(pixels, weights):
    wide = np.result_type(pixels.dtype, weights.dtype, np.float64)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    with np.errstate(all="ignore"):
        parts = [
            signal.correlate(pixels[..., s].astype(wide), np.conj(weights), "valid", "direct")
            for s in range(pixels.shape[2])
        ]
    return np.stack(parts, axis=-1)


@pytest.mark.parametrize("weights", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "complex64"])
def test_it_is_scipys(weights, dtype):
    pixels = RNG.normal(scale=50, size=(40, 51, 2))
    pixels = np.abs(pixels).astype(dtype) if dtype == "uint8" else pixels.astype(dtype)
    accumulator = "complex64" if dtype == "complex64" else "float32"
    got, want = recomputed(pixels, weights, accumulator).sums, oracle(pixels, weights)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)
    both = weights + 1j * weights[::-1]
    got = recomputed(pixels, both, "complex128").sums
    np.testing.assert_allclose(got, oracle(pixels, both), atol=1e-8)


@pytest.mark.parametrize("weights", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("accumulator", ["float32", "float64"])
def test_nan_and_infinity_are_scipy_signals(weights, accumulator):
    pixels = RNG.normal(size=(60, 64, 2))
    pixels[3, 4, 0] = np.nan
    pixels[40:44, 30, 0] = np.nan
    pixels[50, 20:23, 1] = np.inf, -np.inf, np.inf
    pixels[55, 60, 1] = -np.inf
    pixels[10, 60, 1] = np.inf
    found, want = recomputed(pixels, weights, accumulator), oracle(pixels, weights)
    assert 0.3 < np.isfinite(want).mean() < 0.999
    np.testing.assert_allclose(found.sums, want, rtol=0, atol=1e-9)
    assert not found.beyond.any()
    got = recomputed(pixels.astype("complex64"), weights, "complex64").sums
    want = oracle(pixels.astype("complex64"), weights)
    assert np.array_equal(np.isfinite(got), np.isfinite(want))


@pytest.mark.parametrize(
    ("accumulator", "method", "factor", "least"),
    [
        ("float32", "direct", 64 * 2.0**-23, 2.0**-149),
        ("float32", "fft", 64 * 2.0**-23, 2.0**-149),
        ("float64", "separable", 64 * 2.0**-52, 2.0**-1074),
        ("float64", "fft", 2.0**-40, 2.0**-1074),
        ("complex128", "fft", 2.0**-40, 2.0**-1074),
        ("complex64", "direct", 64 * 2.0**-23, 2.0**-149),
    ],
)
def test_bounds_are_each_windows_own(accumulator, method, factor, least):
    pixels = 10.0 ** RNG.uniform(-6, 6, (30, 31))
    pixels[:12, :13] = 0
    if accumulator.startswith("complex"):
        pixels = pixels * np.exp(1j * pixels)
    found = recomputed(pixels, SMALL, accumulator, method)
    windows = np.lib.stride_tricks.sliding_window_view(np.abs(pixels), SMALL.shape)
    largest = windows.max(axis=(2, 3))[..., None]
    want = np.where(largest > 0, factor * np.abs(SMALL).sum() * largest + 12 * least, 0)
    np.testing.assert_allclose(found.allowed.astype(float), want, rtol=1e-12)
    assert np.array_equal(found.allowed == 0, largest == 0)
    assert np.all(found.sums[largest == 0] == 0)


def test_the_window_is_the_whole_rectangle():
    weights = np.zeros((5, 5))
    weights[2, 2] = 1
    pixels = np.ones((20, 20))
    pixels[10, 10] = 1e6
    found = recomputed(pixels, weights, "float32").allowed[..., 0]
    assert np.count_nonzero(found > found.min()) == 25


def test_beyond_the_range_is_a_matter_of_the_window():
    pixels = np.ones((20, 20), np.float32)
    pixels[10, 10] = 3e38
    weights = np.full((3, 3), 0.25)
    assert np.count_nonzero(recomputed(pixels, weights, "float32").beyond) == 9
    assert not recomputed(pixels, weights / 3, "float32").beyond.any()
    assert not recomputed(pixels, weights, "float64").beyond.any()
    assert recomputed(pixels, np.full((3, 3), 1e39), "float32").beyond.all()


def test_whole_sums_into_integers_are_exact_while_the_accumulator_holds_them():
    pixels = RNG.integers(0, 2**30, (20, 21))
    weights = RNG.integers(-5, 6, (12, 12)).astype(float)
    found = recomputed(pixels, weights, "float64", output="int64")
    assert not found.allowed.any()
    assert found.unit.all()
    large = recomputed(pixels * 2**30, weights, "float64", output="int64")
    assert large.allowed.all()
    assert not recomputed(pixels * 2**24, weights, "int64", output="int64").allowed.any()
    assert recomputed(pixels, weights, "float64").allowed.all()
    assert recomputed(pixels, weights + 0.5, "float64", output="int64").allowed.all()
    assert not recomputed(pixels, weights, "int64", output="float64").allowed.any()
    halves = recomputed(pixels, weights, "float64", output="int64", fill=0.5)
    assert halves.allowed.all()


@pytest.mark.parametrize(
    ("fill", "accumulator", "counts"),
    [
        (0.1, "float32", float(np.float32(0.1))),
        (0.1, "float64", 0.1),
        (16777217.0, "float64", 16777217.0),
        (-9999.0, "float32", -9999.0),
        (1e20, "int64", 1e20),
    ],
)
def test_the_fill_is_of_the_accumulators_dtype(fill, accumulator, counts):
    pixels = np.zeros((4, 4, 1), np.uint8)
    outside = np.array([True, False, False, False])
    block = Block(pixels, outside, np.zeros(4, bool))
    judged = Judged(np.dtype(accumulator), "direct", fill, pixels.dtype, np.dtype("int64"))
    found = Recomputation(Weights(np.ones((2, 1)), (0, 0)), judged, 64).expect(block).sums
    assert found[0, 0, 0] == counts
    assert found[1, 0, 0] == 0
