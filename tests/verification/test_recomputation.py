"""The reference of `verify` against scipy.signal: every dtype, NaN, infinity, any magnitude."""

import numpy as np
import pytest
from scipy import signal

from tileconv.core.factors import factorise
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast
from tileconv.verification.recomputation import ScipyEngine

RNG = np.random.default_rng(0)
SMALL = RNG.normal(size=(4, 3))
SMALL[1, 2] = 0
LARGE = RNG.normal(size=(14, 23))
LARGE[3, 5] = LARGE[9, 0] = 0


LOW_RANK = np.outer([1.0, -2, 3, 1], [2.0, 1, -1, 0, 1]) + np.outer([1, 1, 0, 2], [0, -3, 1, 1, 1])
"""A sum of two terms that cancel in part."""


def recomputed(block, weights, judged="float32"):
    engine = ScipyEngine(Kernel(np.asarray(weights), (0, 0)), np.dtype(judged), (1, 1))
    rows, columns = (n - k + 1 for n, k in zip(block.shape, weights.shape, strict=False))
    out = np.empty((rows, columns, block.shape[2]), engine.accumulator)
    engine.apply(block, out, Cast(out.dtype))
    return out


def oracle(block, weights):
    wide = np.result_type(block.dtype, weights.dtype, np.float64)
    with np.errstate(all="ignore"):
        parts = [
            signal.correlate(block[..., s].astype(wide), np.conj(weights), "valid", "direct")
            for s in range(block.shape[2])
        ]
    return np.stack(parts, axis=-1)


@pytest.mark.parametrize("weights", [SMALL, LARGE], ids=["direct", "fft"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "complex64"])
def test_it_is_scipys(weights, dtype):
    block = RNG.normal(scale=50, size=(40, 51, 2))
    block = block.astype(dtype) if dtype != "uint8" else np.abs(block).astype(dtype)
    judged = "complex64" if dtype == "complex64" else "float32"
    got, want = recomputed(block, weights, judged), oracle(block, weights)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)
    got = recomputed(block, weights + 1j * weights[::-1], "complex128")
    np.testing.assert_allclose(got, oracle(block, weights + 1j * weights[::-1]), atol=1e-10)


def test_longdouble_is_recomputed_in_longdouble():
    block = (1 + RNG.random((40, 41, 1)) * 1e-3).astype(np.longdouble)
    got, want = recomputed(block, SMALL, np.longdouble), oracle(block, SMALL)
    assert got.dtype == np.longdouble
    assert np.abs(got - want).max() < 1e-17


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e200])
@pytest.mark.parametrize("weights", [SMALL, LARGE], ids=["direct", "fft"])
def test_magnitudes_do_not_matter(weights, scale):
    """scipy.ndimage alone would leave out every weight below 2e-16."""
    block = RNG.normal(size=(40, 41, 1))
    want = oracle(block, weights)
    got = recomputed(block, weights * scale) / scale
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    got = recomputed(block * scale, weights, "float64") / scale
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weights", [SMALL, LARGE], ids=["direct", "fft"])
def test_nan_and_infinity_are_scipy_signals(weights):
    block = RNG.normal(size=(90, 95, 2))
    block[3, 4, 0] = np.nan
    block[40:44, 30, 0] = np.nan
    block[70, 20:23, 1] = np.inf, -np.inf, np.inf
    block[80, 60, 1] = -np.inf
    block[10, 60, 1] = np.inf
    got, want = recomputed(block, weights), oracle(block, weights)
    assert 0.5 < np.isfinite(want).mean() < 0.999
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    got = recomputed(block.astype("complex64"), weights, "complex64")
    with np.errstate(all="ignore"):
        want = oracle(block.astype("complex64"), weights)
    assert np.array_equal(np.isfinite(got), np.isfinite(want))


@pytest.mark.parametrize("weights", [SMALL, LARGE, LOW_RANK], ids=["direct", "fft", "terms"])
@pytest.mark.parametrize("dtype", ["float32", "int16", "complex128"])
def test_swings_are_sums_of_products_of_one_sign(weights, dtype):
    block = RNG.normal(scale=50, size=(30, 41, 2)).astype(dtype)
    kernel, accumulator = Kernel(weights, (0, 0)), np.result_type(dtype, "float32")
    factors, terms = None, [weights]
    if weights is LOW_RANK:
        factors = factorise(kernel, accumulator)
        terms = [np.outer(c, r) for c, r in zip(factors.columns, factors.rows, strict=True)]
        assert len(terms) == 2
    engine = ScipyEngine(kernel, accumulator, (1, 1), factors)
    up, down = engine.swings(block)
    if dtype == "complex128":
        want = sum(oracle(np.abs(block), np.abs(term)) for term in terms)
        np.testing.assert_allclose(up, want, rtol=1e-12)
        np.testing.assert_allclose(down, want, rtol=1e-12)
    else:
        x = block.astype(float)
        sizes = sum(oracle(np.abs(x), np.abs(term)) for term in terms)
        np.testing.assert_allclose(up + down, sizes, rtol=1e-6)
        np.testing.assert_allclose(up - down, oracle(x, weights), atol=1e-4)
    assert max(up.max(), down.max()) <= engine.growth * np.abs(block).max()


@pytest.mark.parametrize(("dtype", "huge"), [("float32", -3.4e38), ("float64", 1.7e308)])
@pytest.mark.parametrize("weights", [SMALL, LARGE], ids=["direct", "fft"])
def test_huge_pixels_drown_nothing_out_of_reach(weights, dtype, huge):
    weights = weights / np.abs(weights).sum()
    block = (RNG.normal(size=(90, 95, 1)) * 1e-4).astype(dtype)
    clean = block.copy()
    block[30:33, 40:50] = huge
    got, want = recomputed(block, weights, dtype), oracle(clean, weights)
    far = oracle((block != clean).astype(float), np.ones_like(weights)) == 0
    assert 0.1 < far.mean() < 0.999
    np.testing.assert_allclose(got[far], want[far], rtol=0, atol=1e-17)
    whole = oracle(block, weights)
    np.testing.assert_allclose(got, whole, rtol=0, atol=1e-13 * abs(huge))
