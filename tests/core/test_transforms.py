"""Convolution by our own transforms, against numpy's in double precision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.core.engines.transforms import Transform, factors, frequencies
from tileconv.core.overlap_save import UNIT, transform_length

LENGTHS = [UNIT * n for n in (1, 2, 3, 4, 5, 6, 8, 9, 10, 15, 16, 18, 24, 25, 27, 36)]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(LENGTHS),
    st.sampled_from(LENGTHS),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_pairs_are_convolved_apart(rows, columns, dtype, seed):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(5, 4))
    windows = rng.normal(size=(2, rows, columns)).astype(dtype)
    # The second is far larger: what leaked from it would show in the first.
    windows[1] *= 100
    planes = np.zeros((2, rows, columns + 3), dtype)[..., :-3]
    planes[...] = windows
    Transform(weights, (rows, columns), np.dtype(dtype)).apply(*planes)
    spectrum = np.fft.fft2(weights, (rows, columns)).conj()
    expected = np.fft.ifft2(np.fft.fft2(windows.astype(np.float64)) * spectrum).real
    error = np.abs(planes - expected).max() / np.abs(expected).max()
    assert error < 16 * np.finfo(dtype).eps


def test_frequencies_are_a_permutation():
    for length in LENGTHS:
        order = frequencies(factors(length))
        assert sorted(order) == list(range(length))


def test_lengths_are_those_of_the_steps():
    for n in range(1, 3000):
        length = transform_length(n)
        assert length >= n
        assert np.prod(factors(length), dtype=int) == length
    with pytest.raises(ValueError, match="7 is left"):
        factors(7 * 16)
