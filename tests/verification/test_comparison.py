"""One rule for every dtype: what the least and the greatest sum within the bound become."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileconv.verification.comparison import Bound, Comparison, Difference, Target, compare, rounded


def judged(found, sums, dtype, allowed, nan_fill=None, **bound):
    found = np.array(found, dtype).reshape(1, -1, 1)
    sums = np.array(sums, np.result_type(dtype, np.float64)).reshape(1, -1, 1)
    bound = Bound(allowed, bound.pop("unit", allowed), **bound)
    return compare(found, sums, bound, Target(np.dtype(dtype), nan_fill))


def wrong(*arguments, **options):
    return judged(*arguments, **options).wrong


@pytest.mark.parametrize("sign", [1, -1])
def test_exactly_at_the_bound_is_right_and_beyond_it_is_wrong(sign):
    # All of these are exact in both dtypes.
    assert wrong([sign * 1.25], [sign * 1.0], "float64", 0.25) == 0
    assert judged([sign * 1.25], [sign * 1.0], "float64", 0.25).worst.units == pytest.approx(1)
    over = judged([sign * np.nextafter(1.25, 2)], [sign * 1.0], "float64", 0.25)
    assert over.wrong == 1
    assert over.worst.units > 1
    assert wrong([sign * 1.25], [sign * 1.0], "float32", 0.25) == 0
    assert wrong([sign * np.nextafter(np.float32(1.25), 2)], [sign * 1.0], "float32", 0.25) == 1


def test_rounding_of_the_output_is_no_error():
    assert judged([1 / 3], [1 / 3], "float32", 0.0) == Comparison(1)
    assert wrong([np.float16(1 / 3)], [1 / 3], "float16", 1e-9) == 0
    assert wrong([np.nextafter(np.float16(1 / 3), 1)], [1 / 3], "float16", 1e-9) == 1


def test_long_double_is_rounded_once_to_half_precision():
    tie = np.longdouble(1) + np.longdouble(2) ** -11
    above = tie + np.longdouble(2) ** -60
    sums = np.array([tie, above, -above, tie - np.longdouble(2) ** -60, 1e6, -1e6, 1 / 3])
    want = [1, 1 + 2**-10, -1 - 2**-10, 1, np.inf, -np.inf, np.float16(1 / 3)]
    assert rounded(sums, Target(np.dtype("float16"))).tolist() == want


def test_integers_round_to_even_and_ties_may_go_either_way_within_the_bound():
    assert wrong([2, 2, 4], [1.5, 2.5, 3.5], "uint8", 0.0) == 0
    assert wrong([3], [2.5], "uint8", 0.0) == 1
    assert wrong([3, 2], [2.5 - 1e-6, 2.5 + 1e-6], "uint8", 2e-6) == 0
    assert wrong([3, 2], [2.5 - 1e-6, 2.5 + 1e-6], "uint8", 0.5e-6) == 2
    tie = judged([3], [2.5 - 1e-6], "uint8", 2e-6).worst
    assert (tie.found, tie.expected, tie.error) == (3, 2, 1)
    assert tie.units == pytest.approx(0.5)


def test_saturation():
    sums = [300, 1e30, -3, -np.inf, np.inf, 255.4, -0.4]
    assert judged([255, 255, 0, 0, 255, 255, 0], sums, "uint8", 0.01) == Comparison(7)
    assert wrong([44, 0, 253, 255, 0, 254, 255], sums, "uint8", 0.01) == 7
    ends = np.iinfo("int64")
    assert wrong([ends.max, ends.min], [1e30, -1e30], "int64", 1.0) == 0
    assert wrong([ends.max - 1, ends.min + 1], [1e30, -1e30], "int64", 1.0) == 2
    top = np.iinfo("uint64").max
    assert wrong([top, top - 1], [2.0**64, 2.0**64], "uint64", 1.0) == 1


def test_large_integers_that_are_the_same_float_differ():
    found = judged([2**60 + 1], [2.0**60], "int64", 0.0, unit=1.0)
    assert (found.wrong, found.error) == (1, 1)


def test_nan_belongs_where_it_belongs():
    assert wrong([np.nan, 1], [np.nan, 1], "float32", 0.1) == 0
    assert wrong([np.nan, 1], [1, np.nan], "float32", 0.1) == 2
    assert judged([np.nan], [1], "float32", 0.1).error == np.inf
    assert wrong([7], [np.nan], "uint8", 0.1, nan_fill=7) == 0
    assert wrong([8], [np.nan], "uint8", 0.1, nan_fill=7) == 1
    # Without a fill the job would have been refused: nothing can be right.
    assert [wrong([value], [np.nan], "uint8", 0.1) for value in (0, 255)] == [1, 1]
    assert np.isnan(judged([0], [np.nan], "uint8", 0.1).worst.expected)


def test_infinities_keep_their_sign():
    assert wrong([np.inf, -np.inf], [np.inf, -np.inf], "float32", 0.1) == 0
    assert wrong([np.inf, -np.inf, 3e38], [-np.inf, np.inf, np.inf], "float32", 0.1) == 3
    assert wrong([np.inf], [1e39], "float32", 0.1) == 0


def test_sums_that_may_leave_the_range_may_be_infinite_or_nan():
    mask = np.array([True, False]).reshape(1, 2, 1)
    for value in (np.inf, -np.inf, np.nan):
        assert wrong([value, 5], [0, 5], "float32", 0.1, beyond=mask) == 0
        assert wrong([5, value], [5, 0], "float32", 0.1, beyond=mask) == 1
        # A NaN of the input stays one.
        assert wrong([value, 5], [np.nan, 5], "float32", 0.1, beyond=mask) == (value == value)
    assert wrong([5, 5], [0, 5], "float32", 0.1, beyond=mask) == 1
    most = np.finfo("float64").max
    assert wrong([most, 0], [np.inf, 0], "float64", most / 1e12, beyond=mask) == 0
    assert wrong([7, -most], [np.inf, 5], "float64", np.inf, beyond=True) == 0
    assert wrong([most / 2, 0], [np.inf, 0], "float64", most / 1e12, beyond=mask) == 1
    assert wrong([complex(np.nan, 1)], [1 + 1j], "complex64", 0.1, beyond=True) == 0


def test_integers_have_the_ends_of_their_range_for_infinity_and_the_fill_for_nan():
    for value in (127, -128, 7):
        assert wrong([value], [50], "int8", 0.1, 7, beyond=True) == 0
        assert wrong([value], [50], "int8", 0.1, 7) == 1
    # Without a fill a NaN would have been an error: 0 is no sign of one.
    assert wrong([0], [50], "int8", 0.1, beyond=True) == 1
    assert wrong([127], [np.nan], "int8", 0.1, 7, beyond=True) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_worst_of_all(value):
    found = judged([5, value, 90], [5, 5, 5], "float32", 0.1)
    assert (found.wrong, found.error) == (2, np.inf)
    assert (found.worst.at, found.worst.error, found.worst.units) == ((0, 1, 0), np.inf, np.inf)
    found = judged([5, complex(3, value), 90], [5, 5, 5], "complex64", 0.1)
    assert (found.worst.at, found.worst.units) == ((0, 1, 0), np.inf)


def test_complex_values_are_judged_by_their_parts():
    assert wrong([1 + 2j], [1.25 + 2.25j], "complex64", 0.25) == 0
    assert wrong([1 + 2j], [1 + 2.26j], "complex64", 0.25) == 1
    assert wrong([complex(np.nan, 1)], [complex(np.nan, np.nan)], "complex64", 0.25) == 0
    assert wrong([1 + 1j], [complex(np.nan, np.nan)], "complex64", 0.25) == 1
    assert wrong([complex(1, np.nan)], [1 + 1j], "complex64", 0.25) == 1


def test_the_worst_value_is_the_one_farthest_out_of_its_own_bound():
    bound = np.array([10.0, 0.1]).reshape(1, 2, 1)
    found = judged([5, 0.5], [0, 0], "float64", bound)
    assert found.wrong == 1
    assert found.error == 5
    assert found.worst.at == (0, 1, 0)
    assert found.worst.units == pytest.approx(5)


def test_comparisons_add_up_in_any_order():
    parts = [
        Comparison(4, 1, 3.0, Difference((0, 5, 0, 0), 1, 4, 3.0, 2.0)),
        Comparison(4, 0, 9.0, Difference((0, 0, 0, 0), 1, 10, 9.0, 0.5)),
        Comparison(4, 1, 3.0, Difference((0, 2, 0, 0), 1, 4, 3.0, 2.0)),
        Comparison(1),
    ]
    forwards, backwards = Comparison(), Comparison()
    for part in parts:
        forwards = forwards.plus(part)
    for part in reversed(parts):
        backwards = backwards.plus(part)
    assert forwards == backwards == Comparison(13, 2, 9.0, parts[2].worst)


@given(
    st.sampled_from(["uint8", "int16", "uint64", "float16", "float32", "float64"]),
    st.floats(-400, 400),
    st.floats(-3, 3),
    st.floats(1e-12, 3),
)
def test_units_above_one_and_wrong_are_the_same(dtype, total, shift, allowed):
    found = rounded(np.array([total + shift]), Target(np.dtype(dtype)))
    result = judged(found, [total], dtype, allowed)
    units = 0 if result.worst is None else result.worst.units
    assert (units > 1) == (result.wrong == 1)
    if abs(shift) <= allowed * (1 - 1e-9):
        assert not result.wrong
