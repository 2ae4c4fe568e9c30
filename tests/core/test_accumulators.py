"""What sums are formed in, against Python's own integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tileconv.core.accumulators import (
    Accumulate,
    accumulate_named,
    accumulation_dtype,
    default_output_dtype,
    held_fill,
    holds,
    may_round,
    whole_reach,
)
from tileconv.core.kernels import Kernel
from tileconv.errors import ConfigError

WHOLE = Kernel(np.array([[1, -2, 1]]), (0, 1))
HALF = Kernel(np.array([[0.5, 0.25]]), (0, 0))
COMPLEX = Kernel(np.array([[1j, 2]]), (0, 0))


@pytest.mark.parametrize(
    ("given", "output", "kernel", "want"),
    [
        ("?", None, HALF, "f4"), ("u1", None, HALF, "f4"), ("i2", None, WHOLE, "f4"),
        ("f2", None, HALF, "f4"), ("f4", None, HALF, "f4"), ("i4", None, HALF, "f8"),
        ("u8", None, HALF, "f8"), ("f8", None, HALF, "f8"), ("g", None, HALF, "g"),
        ("u1", None, COMPLEX, "c8"), ("f8", None, COMPLEX, "c16"), ("c8", None, HALF, "c8"),
        ("c16", None, HALF, "c16"), ("G", None, HALF, "G"), (">u2", None, HALF, "f4"),
        ("u1", "u1", HALF, "f4"), ("u1", "u2", WHOLE, "f4"), ("u1", "i4", HALF, "f8"),
        ("u2", "u2", WHOLE, "f4"), ("f4", "u2", HALF, "f4"),
        ("u2", "u2", Kernel(np.full((20, 20), 7), (0, 0)), "f8"),
        ("u2", "f4", Kernel(np.full((20, 20), 7), (0, 0)), "f4"),
    ],
)  # fmt: skip
def test_accumulation(given: str, output: str | None, kernel: Kernel, want: str) -> None:
    dtype = np.dtype(output) if output else None
    assert accumulation_dtype(np.dtype(given), dtype, kernel) == np.dtype(want)
    if output is None:
        assert default_output_dtype(np.dtype(given), kernel) == np.dtype(want)


def test_no_numbers() -> None:
    with pytest.raises(ConfigError, match="object"):
        accumulation_dtype(np.dtype(object), None, HALF)


ONE = Kernel(np.ones((1, 1)), (0, 0))
SIX = Kernel(np.array([[1.0, -2.0, 3.0]]), (0, 0))
BOX = Kernel(np.ones((2, 2)), (0, 0))
HUGE = Kernel(np.array([[2**40, 1]]), (0, 0))


@pytest.mark.parametrize(
    ("given", "output", "kernel", "want", "rounds"),
    [
        # Pixels and S of Python's own: 2**63 is past 2**53, and every sum is an int64.
        ("i8", "i8", ONE, "i8", False), ("u8", "u8", ONE, "u8", False),
        ("i8", "u1", ONE, "i8", False), ("u8", "i8", ONE, "u8", False),
        # -2 x leaves uint64 and int64.
        ("u8", "u8", SIX, "f8", True), ("i8", "i8", SIX, "f8", True),
        ("u8", "u8", BOX, "f8", True),
        # 6 * 2**31 is below 2**53.
        ("i4", "i4", SIX, "f8", False), ("u4", "i8", SIX, "f8", False),
        # 2**40 * 2**31 is not, and fits; with 2**32 as well in uint64, not in int64.
        ("i4", "i8", Kernel(np.array([[2**31, 1]]), (0, 0)), "i8", False),
        ("u4", "u8", Kernel(np.array([[2**31 + 2**30, 1]]), (0, 0)), "u8", False),
        ("u4", "i8", HUGE, "f8", True), ("u2", "i4", HUGE, "i8", False),
        ("?", "i8", Kernel(np.array([[2**60 + 1, -1]]), (0, 0)), "i8", False),
        # Float outputs keep their accumulators, and so do fractional weights and pixels.
        ("i8", "f8", ONE, "f8", False), ("i8", None, ONE, "f8", False),
        ("i8", "i8", HALF, "f8", False), ("f8", "i8", SIX, "f8", False),
    ],
)  # fmt: skip
def test_whole_sums_are_exact(
    given: str, output: str | None, kernel: Kernel, want: str, *, rounds: bool
) -> None:
    dtype = np.dtype(output) if output else None
    found = accumulation_dtype(np.dtype(given), dtype, kernel)
    assert found == np.dtype(want)
    if dtype is not None:
        assert may_round(np.dtype(given), dtype, kernel, found) is rounds


@pytest.mark.parametrize(
    ("fill", "want"),
    [(0, "f4"), (300, "f4"), (2**24 + 1, "f8"), (-(2**60), "i8"), (2**63, "u8"), (2**64, "f8"),
     (0.5, "f4"), (float("nan"), "f4"), (float("inf"), "f4")],
)  # fmt: skip
def test_the_fill_value_is_a_pixel(fill: float, want: str) -> None:
    found = accumulation_dtype(np.dtype(np.uint8), np.dtype(np.uint8), ONE, fill=fill)
    assert found == np.dtype(want)


def test_sums_without_a_fractional_fill_value_are_exact() -> None:
    u2, i8, seven = np.dtype("u2"), np.dtype("i8"), Kernel(np.full((20, 20), 7), (0, 0))
    for fill in (0.5, -1e3 / 3, float("nan"), float("inf"), None):
        assert accumulation_dtype(u2, u2, seven, fill=fill) == np.float64
        # No integers hold the value, and float64 may round the sums.
        found = accumulation_dtype(i8, i8, ONE, fill=fill)
        assert found == (np.int64 if fill is None else np.float64)
        assert may_round(i8, i8, ONE, found, fill) is (fill is not None)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("u1", "f8"),
        ("f2", "f8"),
        ("f4", "f8"),
        ("f8", "f8"),
        ("c8", "c16"),
        ("g", "g"),
        ("i8", "f8"),
    ],
)
def test_double_precision_is_asked_for(given: str, want: str) -> None:
    dtype, double = np.dtype(given), Accumulate.FLOAT64
    assert accumulation_dtype(dtype, None, HALF, accumulate=double) == np.dtype(want)
    # The output is what it was, and whole sums are as exact as they were.
    assert default_output_dtype(np.dtype(np.uint8), HALF) == np.float32
    integers = accumulation_dtype(np.dtype("i8"), np.dtype("i8"), ONE, accumulate=double)
    assert integers == np.int64


def test_names_of_accumulate() -> None:
    assert accumulate_named(None) is accumulate_named("auto") is Accumulate.AUTO
    with pytest.raises(ConfigError, match="'float32'.*'auto', 'float64'"):
        accumulate_named("float32")


NUMBERS = [
    0, 1, -1, 255, 256, -9999, 70000, 2**24 + 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64 - 1,
    2**64, 0.1, 0.5, 16777217.0, 1e20, 65504.0, 65505.0, 1e300, -0.0, np.float32(0.1),
    np.longdouble(2) ** 63 + 1, np.int64(2**62 + 1), np.uint64(2**64 - 1),
]  # fmt: skip
DTYPES = ["?", "u1", "i2", "i8", "u8", "f2", "f4", "f8", "g"]


def exactly(value: object) -> Fraction:
    ratio = value.as_integer_ratio()
    return Fraction(int(ratio[0]), int(ratio[1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", NUMBERS, ids=str)
def test_a_dtype_holds_a_number(value: float, dtype: str) -> None:
    kind = np.dtype(dtype)
    want = exactly(value if isinstance(value, int | float) else value.item()
                   if not isinstance(value, np.longdouble) else value)  # fmt: skip
    with np.errstate(all="ignore"):
        try:
            back = kind.type(value)
            inside = bool(np.isfinite(back)) and exactly(back.item() if dtype != "g" else back)
        except OverflowError:
            inside = False
    if kind.kind in "biu":  # A cast of a float there may be anything.
        least, most = (0, 1) if dtype == "?" else (np.iinfo(kind).min, np.iinfo(kind).max)
        inside = want if want.denominator == 1 and int(least) <= want <= int(most) else False
    assert holds(kind, value) is (inside is not False and inside == want)


def test_what_is_not_finite_and_what_is_complex() -> None:
    for value in (np.nan, np.inf, -np.inf):
        assert holds(np.dtype(np.float16), value)
        assert not holds(np.dtype(np.int64), value)
    assert holds(np.dtype(np.complex64), 0.5 + 1j)
    assert not holds(np.dtype(np.complex64), 0.1 + 1j)
    assert not holds(np.dtype(np.float64), 1j)
    assert holds(np.dtype(np.uint8), np.complex64(3))


@pytest.mark.parametrize(
    ("given", "sums", "fill", "block", "held"),
    [
        # Rounded to the accumulator, once, whatever the raster's dtype holds.
        ("f2", "f4", 0.1, "f4", np.float32(0.1)), ("f2", "f4", -9999, "f4", -9999),
        ("f2", "f4", 70000, "f4", 70000), ("f2", "f4", 1e20, "f4", np.float32(1e20)),
        ("f4", "f8", 16777217, "f8", 16777217), ("f4", "f4", 16777217, "f4", 16777216),
        ("f2", "f4", 0.5, "f2", 0.5), ("u1", "f4", 7, "u1", 7), ("u1", "f4", 0.5, "f4", 0.5),
        ("i8", "i8", 2**62 + 1, "i8", 2**62 + 1), ("u4", "f8", -1, "f8", -1),
        ("u4", "i8", -1, "i8", -1), ("c8", "c16", 0.1, "c16", 0.1), ("i8", "f8", 0.1, "f8", 0.1),
    ],
)  # fmt: skip
def test_the_fill_value_is_rounded_to_the_accumulator(
    given: str, sums: str, fill: float, block: str, held: float
) -> None:
    found, value = held_fill(np.dtype(given), np.dtype(sums), fill)
    assert found == np.dtype(block)
    assert value.dtype == found
    assert value == held


@pytest.mark.parametrize("dtype", ["i8", "u8", "f8", "g", "i2", "?", "f2", "f4"])
def test_sums_of_weights_are_exact(dtype: str) -> None:
    rng = np.random.default_rng(1)
    high = {"i2": 2**15 - 1, "?": 2, "f2": 2**15, "f4": 2**62}.get(dtype, 2**62)
    weights = rng.integers(-high if dtype in ("i8", "i2", "f2") else 0, high, (40, 30), np.int64)
    weights = weights.astype(dtype)
    kernel = Kernel(weights, (0, 0))
    numbers = [int(w) for w in weights.flat]
    above, below = sum(n for n in numbers if n > 0), -sum(n for n in numbers if n < 0)
    assert kernel.whole_sums == (above, below)
    assert whole_reach(kernel, np.dtype(np.int8)) == (above + below) * 128
    assert whole_reach(kernel, np.dtype(np.float32)) is None


def test_weights_beyond_any_integer_dtype() -> None:
    kernel = Kernel(np.array([[1e300, -(2.0**63)]]), (0, 0))
    assert kernel.whole_sums == (int(1e300), 2**63)
    assert not Kernel(np.array([[np.inf]]), (0, 0)).is_integral
    assert accumulation_dtype(np.dtype("u1"), np.dtype("i8"), kernel) == np.float64
