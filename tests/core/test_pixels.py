"""Dtype rules, against scipy.ndimage's casts and exact integer arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tileconv.core.pixels import (
    Cast,
    CastCounts,
    Rule,
)
from tileconv.errors import ConfigError

INTEGERS = [np.dtype(code) for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")]
EDGES = [
    0.0, -0.5, 0.5, 1.5, 2.5, -1.0, -1.5, 255.4, 255.5, 255.9, 256.0, 300.7, -300.7, 3e9 + 7,
    -3e9 - 7, 2.0**31 - 1, 2.0**31 - 0.5, 2.0**31, -(2.0**31), -(2.0**31) - 0.5, 2.0**32 + 5,
    -(2.0**32) - 5, 1e12 + 7, -1e12 - 7, 2.0**53 + 2, 2.0**63 - 1024, 2.0**63, 2.0**63 + 2048,
    -(2.0**63), -(2.0**63) - 2048, 2.0**64 - 2048, 2.0**64, 1e20, -1e20, 1e300, math.inf, -math.inf,
]  # fmt: skip


def saturated(value: float, dtype: np.dtype) -> tuple[int, bool]:
    """What a value becomes, in exact arithmetic, and whether it was clipped."""
    info = np.iinfo(dtype)
    if math.isinf(value):
        return (info.max if value > 0 else info.min), True
    whole = round(Fraction(value))  # Half to even.
    inside = min(max(whole, info.min), info.max)
    return inside, inside != whole


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_saturation_is_exact_at_every_edge(real: type, dtype: np.dtype) -> None:
    with np.errstate(over="ignore"):
        values = np.array([EDGES], dtype=real)
    out = np.empty(values.shape, dtype)
    counts = Cast(dtype).store(values, out)
    want = [saturated(float(v), dtype) for v in values[0]]
    assert [int(v) for v in out[0]] == [value for value, _ in want]
    assert counts == CastCounts(clipped=sum(clipped for _, clipped in want))


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=20),
    dtype=st.sampled_from([np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.uint64)]),
)
def test_saturation_of_any_float(values: list[float], dtype: np.dtype) -> None:
    array = np.array(values).reshape(-1, 1, 1)
    out = np.zeros((len(values), 2, 1), dtype)[:, :1]  # Not contiguous.
    counts = Cast(dtype).store(array, out)
    want = [saturated(v, dtype) for v in values]
    assert [int(v) for v in out[:, 0, 0]] == [value for value, _ in want]
    assert counts.clipped == sum(clipped for _, clipped in want)


@pytest.mark.parametrize("real", [np.float16, np.float32, np.float64, np.longdouble])
def test_nan_is_filled_or_counted(real: type) -> None:
    values = np.array([[np.nan, 1.5, np.nan, -3.0, 300.0]], dtype=real)
    out = np.empty(values.shape, np.uint8)
    assert Cast(out.dtype).store(values, out) == CastCounts(clipped=2, nans=2)
    assert out.tolist() == [[0, 2, 0, 0, 255]]
    assert Cast(out.dtype, nan_fill=7).store(values, out) == CastCounts(clipped=2, nans=2)
    assert out.tolist() == [[7, 2, 7, 0, 255]]


@pytest.mark.parametrize("have", INTEGERS, ids=str)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_saturate(have: np.dtype, dtype: np.dtype) -> None:
    info, want = np.iinfo(have), np.iinfo(dtype)
    numbers = [info.min, info.min + 1, 0, 1, 100, info.max - 1, info.max]
    out = np.empty((1, len(numbers)), dtype)
    counts = Cast(dtype).store(np.array([numbers], have), out)
    clipped = [min(max(n, want.min), want.max) for n in numbers]
    assert [int(v) for v in out[0]] == clipped
    assert counts.clipped == sum(a != b for a, b in zip(numbers, clipped, strict=True))


@pytest.mark.parametrize("dtype", [*INTEGERS, np.dtype(bool)], ids=str)
def test_truncation_is_ndimages(dtype: np.dtype) -> None:
    rng = np.random.default_rng(3)
    random = rng.normal(size=500) * 10.0 ** rng.uniform(0, 21, 500)
    values = np.concatenate([EDGES, [np.nan], random])[None]
    want = ndimage.correlate(values, np.ones((1, 1)), output=dtype)
    out = np.empty(values.shape, dtype)
    Cast(dtype, Rule.TRUNCATE).store(values, out)
    # scipy leaves bytes other than 0 and 1 in bool arrays.
    np.testing.assert_array_equal(out, want.view(np.uint8) != 0 if dtype.kind == "b" else want)


def test_overflow_as_ndimage_wraps_it() -> None:
    x = np.full((4, 4), 200, np.uint8)
    want = ndimage.convolve(x, np.ones((3, 3)))
    out = np.empty_like(x)
    Cast(x.dtype, Rule.TRUNCATE).store(np.full((4, 4), 1800.0), out)
    assert out[0, 0] == want[0, 0] == 8


def test_overflow_into_a_narrower_float_is_counted() -> None:
    values, out = np.array([1e300, -1e300, np.inf, 1.5]), np.empty(4, np.float32)
    assert Cast(out.dtype).store(values, out) == CastCounts(clipped=2)
    assert list(out) == [np.inf, -np.inf, np.inf, 1.5]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([1e30, np.inf, 1.5]), np.dtype(np.float32)),
        (np.array([1 + 2j, np.inf]), np.dtype(np.complex64)),
        (np.array([1.5, -2.5]), np.dtype(np.complex128)),
        (np.array([1, 2, 2**70], object), np.dtype(object)),
        (np.array([True, False]), np.dtype(bool)),
        (np.array([0.0, -0.5, 256.0]), np.dtype(bool)),
    ],
)
def test_floats_are_plainly_cast(values: np.ndarray, dtype: np.dtype) -> None:
    out = np.empty(values.shape, dtype)
    assert Cast(dtype).store(values, out) == CastCounts()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, values.astype(dtype))


def test_refused_casts() -> None:
    with pytest.raises(ConfigError, match="complex64.*float32"):
        Cast(np.dtype(np.float32)).check(np.dtype(np.complex64))
    Cast(np.dtype(np.complex64)).check(np.dtype(np.complex64))
    with pytest.raises(ConfigError, match="bool"):
        Cast(np.dtype(bool)).check(np.dtype(np.float32))
    Cast(np.dtype(bool)).check(np.dtype(bool))
    Cast(np.dtype(bool), Rule.TRUNCATE).check(np.dtype(np.float64))
    for fill in (-1, 256, 1.5, math.inf, math.nan):
        with pytest.raises(ConfigError, match=r"0 \.\. 255"):
            Cast(np.dtype(np.uint8), nan_fill=fill)
    assert Cast(np.dtype(np.float32), nan_fill=1.5).nan_fill == 1.5


@pytest.mark.parametrize(
    ("have", "want"), [("f4", "f4"), ("f8", "f2"), ("c8", "c8"), ("f4", "c16")]
)
def test_nan_has_one_sign_and_payload(have: str, want: str) -> None:
    values = np.ones((3, 5), have)
    raw = values.view(f"u{values.real.itemsize}")
    values[1] = np.nan
    raw[1, ::2] ^= raw.dtype.type(1 << (8 * raw.itemsize - 1))
    raw[1, -1] |= raw.dtype.type(9)
    values[2, 0] = -np.inf
    whole = np.zeros((3, 10), want)
    out = whole[:, ::2]
    assert Cast(out.dtype).store(values, out) == CastCounts()
    expected = np.ones((3, 5), want)
    expected[1, :] = complex(np.nan, np.nan) if have == "c8" else np.nan
    if have == "c8":  # Only the parts that are NaN.
        expected.real[1], expected.imag[1] = np.nan, values[1].imag
        expected.imag[1][np.isnan(expected.imag[1])] = np.nan
    expected[2, 0] = -np.inf
    assert np.ascontiguousarray(out).tobytes() == expected.tobytes()
    assert not whole[:, 1::2].any()
