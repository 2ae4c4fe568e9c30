"""How large pixels are, against numpy and scipy over the whole of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tileconv.core.buffers import ALIGNMENT, aligned
from tileconv.core.engines.magnitudes import Meter, levels, window_maxima


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 70),
    columns=st.tuples(st.integers(1, 64), st.integers(0, 64)),
    kernel=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32),
)
def test_windows_hold_what_the_meter_says(rows, columns, kernel, dtype, seed):
    rng = np.random.default_rng(seed)
    kernel = tuple(min(k, n) for k, n in zip(kernel, (rows, columns[0]), strict=True))
    columns = (columns[0], columns[1] if columns[1] >= kernel[1] else 0)
    memory = np.zeros((2, 80, 64 + 16), dtype)
    parts = [
        (rng.normal(size=(rows, n)) * (rng.random((rows, n)) < rng.random())).astype(dtype)
        for n in columns
    ]
    for plane, part in zip(memory, parts, strict=True):
        plane[:rows, : part.shape[1]] = part
    found = Meter(memory[..., :64], kernel).measure(rows, columns, together=False)
    sizes = [np.abs(part) for part in parts if part.size]
    assert found.total == pytest.approx(sum(float((s.astype("g") ** 2).sum()) for s in sizes))
    assert found.peak == max(float(s.max()) for s in sizes)
    assert found.least <= min(float(window_maxima(s, kernel).min()) for s in sizes)
    # Nor is it less than need be: there are no smaller values in a block of a window's half.
    if all((s > 0.1).all() for s in sizes):
        assert found.least > 0.1


def test_parts_of_complex_pixels_are_measured_together():
    memory = np.zeros((2, 16, 32 + 16), np.float32)
    memory[0, :16, :32], memory[1, 3, 5] = 2, 7
    found = Meter(memory[..., :32], (3, 3)).measure(16, (32, 32), together=True)
    assert found == (16 * 32 * 4 + 49, 7, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_the_sum(value):
    memory = np.zeros((2, 16, 32 + 16), np.float32)
    memory[1, 9, 9] = value
    found = Meter(memory[..., :32], (3, 3)).measure(16, (32, 32), together=False)
    assert not np.isfinite(found.total)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_levels_are_powers_of_two(dtype):
    info = np.finfo(dtype)
    bias = 127 if dtype == "float32" else 1023
    values = [0.0, -0.0, float(info.smallest_subnormal), float(info.smallest_normal) / 3]
    values += [float(info.smallest_normal), 0.5, -1.0, 1.99, 2.0, -3.9, 1e30, float(info.max)]
    found = levels(np.array([values], dtype))[0].tolist()
    assert found[:5] == [0, 0, 1, 1, 1]
    for value, level in zip(values[5:], found[5:], strict=True):
        assert 2.0 ** (level - bias) <= abs(value)
        assert abs(value) / 2 < 2.0 ** (level - bias)


@settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 2**32))
def test_window_maxima_are_scipys(shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 255, (shape[0] + rng.integers(9), shape[1] + rng.integers(9)), np.uint8)
    whole = ndimage.maximum_filter(x, shape, mode="constant")
    top, left = shape[0] // 2, shape[1] // 2
    found = window_maxima(x, shape)
    np.testing.assert_array_equal(
        found, whole[top : top + found.shape[0], left : left + found.shape[1]]
    )


def test_aligned_memory_begins_with_a_line():
    for dtype in (np.dtype("f4"), np.dtype("c16")):
        for rows in range(1, 9):
            array = aligned((rows, 3), dtype)
            assert array.shape == (rows, 3)
            assert array.__array_interface__["data"][0] % ALIGNMENT == 0


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 70),
    columns=st.tuples(st.integers(1, 64), st.integers(0, 64)),
    kernel=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**32),
)
def test_no_window_is_denser_than_the_meter_says(rows, columns, kernel, seed):
    rng = np.random.default_rng(seed)
    kernel = tuple(min(k, n) for k, n in zip(kernel, (rows, max(columns)), strict=True))
    memory = np.zeros((2, 80, 64 + 16), np.float32)
    for plane, n in zip(memory, columns, strict=True):
        plane[:rows, :n] = rng.exponential(size=(rows, n)) ** 3
    found = Meter(memory[..., :64], kernel).densest(rows, columns)
    squares = (memory.astype(np.float64) ** 2).sum(axis=0)[:rows, : max(columns)]
    windows = np.lib.stride_tricks.sliding_window_view(squares, kernel)
    assert found >= windows.sum(axis=(2, 3)).max() * (1 - 1e-6)
    assert found <= squares.sum() * (1 + 1e-6)
