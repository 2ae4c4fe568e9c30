"""Sums against exact fractions: every way of forming them, any range of pixels and weights."""

from fractions import Fraction

import numpy as np
import pytest

from tileconv.verification.sums import Sums, modulo, resolved, whole_sums
from tileconv.verification.transforms import Transforms, window_most

RNG = np.random.default_rng(0)
SINGLE, DOUBLE, FFT = 64 * 2.0**-23, 64 * 2.0**-52, 2.0**-40
SMALL, LARGE = RNG.normal(size=(4, 3)), RNG.normal(size=(15, 14))
LINE = np.outer(np.hanning(17)[1:-1], np.hanning(16)[1:-1])


def fraction(value):
    high = float(value)
    return Fraction(high) + Fraction(float(value - np.longdouble(high)))


def exact(x, weights):
    kr, kc = weights.shape
    rows, columns = x.shape[0] - kr + 1, x.shape[1] - kc + 1
    wide = np.vectorize(fraction, otypes=[object])
    x, weights = wide(x), wide(weights)
    return sum(
        x[r : r + rows, c : c + columns] * weights[r, c] for r in range(kr) for c in range(kc)
    )


PIXELS = {
    "even": RNG.normal(size=(34, 33)),
    "decades": 10.0 ** RNG.uniform(-40, 38, (34, 33)) * RNG.choice([-1, 1], (34, 33)),
    "holes": np.where(RNG.random((34, 33)) < 0.01, 1e20, 15 + RNG.random((34, 33))),
    "lowest": np.where(np.arange(33) < 9, -3.4028235e38, RNG.random((34, 33))),
    "zeros": np.where(np.arange(33) < 20, 0, RNG.random((34, 33))),
    "denormal": 1e-44 * np.rint(RNG.normal(size=(34, 33)) * 9),
}


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("weights", [SMALL, LARGE, LINE], ids=["small", "large", "line"])
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(np.float64, SINGLE), (np.longdouble, FFT), (np.longdouble, DOUBLE)],
    ids=["single", "double fft", "double"],
)
def test_sums_are_off_by_far_less_than_a_bound_everywhere(pixels, weights, dtype, bound):
    x, weights = PIXELS[pixels].astype(dtype), weights.astype(dtype)
    sums = Sums(weights, bound / 64, 32)
    size = np.abs(weights).sum() * window_most(np.abs(x), weights.shape)
    found = sums(x, size * bound / 64)
    values = found.sums
    doubtful = np.broadcast_to(found.error > size * bound / 64, values.shape)
    values[doubtful] = sums.at(x, np.argwhere(doubtful))
    for at, want in np.ndenumerate(exact(x, weights)):
        off = abs(fraction(values[at]) - want)
        assert off <= fraction(size[at]) * Fraction(bound / 256) + Fraction(5e-324)
        assert (
            not size[at]
            or doubtful[at]
            or off
            <= fraction(np.broadcast_to(found.error, values.shape)[at] + size[at] * bound / 256)
        )


def test_transforms_are_used_where_they_serve_and_only_there():
    big = RNG.normal(size=(31, 31))
    assert isinstance(Sums(big, SINGLE / 64, 256)._transforms, Transforms)
    assert isinstance(Sums(big.astype("g"), FFT / 64, 256)._transforms, Transforms)
    assert Sums(big.astype("g"), DOUBLE / 64, 256)._transforms is None
    assert Sums(SMALL, SINGLE / 64, 256)._transforms is None


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e100])
def test_compensated_sums_have_twice_the_digits(scale):
    x = (1 + RNG.random((12, 13)) * np.longdouble(1e-3)) / 3
    weights = np.longdouble(scale) * SMALL / 7
    found = Sums(weights, 2.0**-70, 32, compensated=True)(x, x).sums
    for at, want in np.ndenumerate(_exact_wide(x, weights)):
        size = np.abs(weights).sum() * np.abs(x).max()
        off = abs(_wide_fraction(found[at]) - want)
        assert off <= _wide_fraction(size) * Fraction(1, 2**64)


def _wide_fraction(value):
    mantissa, exponent = np.frexp(np.longdouble(value))
    whole = int(np.ldexp(mantissa, 64))
    return Fraction(whole) * Fraction(2) ** (int(exponent) - 64)


def _exact_wide(x, weights):
    wide = np.vectorize(_wide_fraction, otypes=[object])
    kr, kc = weights.shape
    rows, columns = x.shape[0] - kr + 1, x.shape[1] - kc + 1
    x, weights = wide(x), wide(weights)
    return sum(
        x[r : r + rows, c : c + columns] * weights[r, c] for r in range(kr) for c in range(kc)
    )


@pytest.mark.parametrize("kernel", [(1, 1), (1, 5), (4, 3), (8, 8), (9, 1)])
def test_window_most_is_the_largest_of_each_window(kernel):
    x = RNG.random((20, 23))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel)
    assert np.array_equal(window_most(x, kernel), windows.max(axis=(2, 3)))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "int64", "uint64"])
def test_whole_sums_are_exact_in_64_bits_and_outside_beyond(dtype):
    info = None if dtype == "bool" else np.iinfo(dtype)
    x = (
        RNG.random((20, 21)) < 0.5
        if info is None
        else RNG.integers(info.min, info.max, (20, 21), dtype, endpoint=True)
    )
    for weights in (
        RNG.integers(-3, 4, (4, 3)).astype(float),
        RNG.integers(-(2**30), 2**30, (2, 2)),
        np.array([[2.0**70, -1.0]]),
        np.array([[1.0]]),
    ):
        near = Sums(weights.astype("g"), DOUBLE / 64, 32)(x.astype("g"), x).sums
        found = resolved(whole_sums(modulo(x), modulo(weights)), near)
        whole = np.vectorize(int, otypes=[object])
        kr, kc = weights.shape
        rows, columns = x.shape[0] - kr + 1, x.shape[1] - kc + 1
        wide, integers = whole(x), whole(weights)
        want = sum(
            wide[r : r + rows, c : c + columns] * integers[r, c]
            for r in range(kr)
            for c in range(kc)
        )
        for at, value in np.ndenumerate(want):
            if -(2**63) <= value < 2**64:
                assert int(found[at]) == value
            else:
                assert found[at] >= 2.0**64 if value > 0 else found[at] < -(2.0**63)
