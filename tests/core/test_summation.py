"""Weighted sums of rows, against sums that numpy forms product by product."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.core.engines.summation import Taps, Window, block_width, correlate
from tileconv.core.roundings import CHAINED_TAPS

DTYPES = [np.dtype(code) for code in "bBhHiIlLfd"]


def numbers(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return rng.normal(size=shape).astype(dtype)


def summed(x, weights, shape, step):
    """One product after another, in the order of the weights; integers wrap."""
    out = np.zeros(shape, x.dtype)
    with np.errstate(all="ignore"):
        for (r, d), weight in np.ndenumerate(weights):
            out += weight * x[r : r + shape[0], step * d : step * d + shape[1]]
    return out


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(DTYPES),
    st.tuples(st.integers(1, 11), st.integers(1, 300)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_every_shape_and_dtype(dtype, shape, kernel, step, seed):
    wide = shape[0] + kernel[0] - 1, shape[1] + step * (kernel[1] - 1)
    # A window into something larger, whose neighbours must stay as they are.
    around = numbers((wide[0] + 2, wide[1] + 5), dtype, seed)
    x, weights = around[1:-1, 2:-3], numbers(kernel, dtype, seed + 1)
    target = np.full((shape[0] + 2, shape[1] + 9), 7, dtype)
    out = target[1:-1, 4:-5]
    correlate(x, weights, out, step=step)
    expected = summed(x, weights, shape, step)
    if dtype == np.float32:  # Products and sums round once, not twice.
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_array_equal(out, expected)
    out[...] = 7
    assert (target == 7).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_value_depends_on_its_window_alone(dtype):
    x, weights = numbers((40, 300), dtype, 0), numbers((6, 5), dtype, 1)
    whole = np.empty((35, 296), dtype)
    correlate(x, weights, whole)
    rng = np.random.default_rng(2)
    for _ in range(40):
        y, i = rng.integers(0, 34), rng.integers(0, 295)
        rows, columns = rng.integers(1, 36 - y), rng.integers(1, 297 - i)
        part = np.empty((rows, columns), dtype)
        correlate(x[y : y + rows + 5, i : i + columns + 4], weights, part)
        np.testing.assert_array_equal(part, whole[y : y + rows, i : i + columns])


@pytest.mark.parametrize(
    "shape",
    [(3, 3), (11, 11), (12, 11), (31, 31), (1, 200), (300, 1), (9, 80), (70, 60), (1, 5000)],
)
@pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8"), np.dtype("i8")], ids=str)
def test_windows_of_many_weights_are_summed_in_pieces(shape, dtype):
    window = Window(numbers(shape, dtype, 3), CHAINED_TAPS)
    width = 2 * block_width(dtype)
    x = numbers((10 + shape[0] - 1, width + shape[1] - 1), dtype, 4)
    out = numbers((10, width), dtype, 5)
    before = out.copy()
    window.into(out, x, 1)
    exact = summed(x.astype("g" if dtype.kind == "f" else dtype), window.weights, out.shape, 1)
    if dtype.kind == "i":
        np.testing.assert_array_equal(out, exact)
        return
    # So many roundings of half an eps, and those of the pixels and the weights.
    gain = summed(np.abs(x).astype("g"), np.abs(window.weights), out.shape, 1)
    bound = (CHAINED_TAPS + 4) * np.finfo(dtype).eps / 2 * gain
    assert (np.abs(out - exact) <= bound).all()
    window.into(before, x, 1, add=True)
    assert np.abs(before - out).max() > 0


@pytest.mark.parametrize("taps", [5, 100, 121, 900, 2000])
def test_taps_are_summed_in_groups(taps):
    rng = np.random.default_rng(taps)
    active = rng.permutation(np.arange(64 * 64) < taps).reshape(64, 64)
    weights = rng.normal(size=(64, 64)).astype(np.complex64)
    x = (rng.normal(size=(70, 90)) + 1j * rng.normal(size=(70, 90))).astype(np.complex64)
    out = np.empty((7, 27), np.complex64)
    Taps(weights, active).into(out, x, 1)
    expected = summed(x.astype(np.complex128), np.where(active, weights, 0), out.shape, 1)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-3)
