"""How long sums are cut up, and scaling by powers of two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileconv.core.roundings import error_factor, group_size, pass_group, scaled, spare_sums


@given(st.integers(1, 1 << 24), st.integers(2, 124))
def test_no_product_is_rounded_more_often_than_asked_for(count, roundings):
    most = group_size(count, roundings)
    if most is None:
        assert 2 ** (roundings // 2) < count
        return
    levels, covered = 1, most
    while covered < count:
        levels, covered = levels + 1, covered * most
    assert levels * most <= roundings
    assert spare_sums(count, most) == levels - 1


def test_as_few_groups_as_may_be():
    assert [group_size(n, 124) for n in (124, 125, 3844, 3845, 1 << 24)] == [124, 62, 62, 41, 20]
    assert pass_group(900, 124) == 113
    assert pass_group(10, 10) == 2
    assert group_size(9, 5) is None


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_scaling_is_exact_where_its_factor_is_out_of_range(dtype):
    x = np.array([1.5, -3.0, 0.0], dtype) * np.dtype(dtype).type(2.0**-100)
    far = 1100 if dtype == "float64" else 200
    there = scaled(scaled(x, -20), far)
    np.testing.assert_array_equal(scaled(scaled(there, -far), 20), x)


def test_the_factor_of_the_bound():
    for code, transformed, factor in [
        ("f4", False, 2.0**-17), ("c8", True, 2.0**-17), ("f8", False, 2.0**-46),
        ("f8", True, 2.0**-40), ("c16", True, 2.0**-40), ("i8", True, 0.0),
    ]:  # fmt: skip
        assert error_factor(np.dtype(code), transformed=transformed) == factor
