"""Modes are one offset: output shapes and windows against scipy.signal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from tileconv.core.boundary import Boundary, read_extended
from tileconv.core.grid import Region
from tileconv.core.kernels import centred_kernel
from tileconv.core.operation import Mode, Operation

sides = st.integers(1, 12)


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.sampled_from(Mode),
    st.sampled_from([Boundary.FILL, Boundary.WRAP, Boundary.SYMM]),
)
def test_reading_the_window_and_correlating_it_is_scipy(shape, kernel_shape, mode, boundary):
    if mode is Mode.VALID and any(k > n for k, n in zip(kernel_shape, shape, strict=True)):
        return
    rng = np.random.default_rng(5)
    image, weights = rng.integers(0, 9, shape), rng.integers(-5, 5, kernel_shape)
    operation = Operation(centred_kernel(weights, convolving=True), mode, boundary, 3)
    want = signal.convolve2d(image, weights, mode.value, boundary.value, 3)
    assert operation.output_shape(shape) == want.shape

    window = operation.window(Region.of_shape(want.shape))
    block = np.empty((*window.shape, 1), dtype=int)

    def read(region, out):
        out[..., 0] = image[region.slices]

    read_extended(read, window, shape, boundary, 3, block)
    got = signal.correlate2d(block[..., 0], operation.kernel.weights, mode="valid")
    assert np.array_equal(got, want)


@pytest.mark.parametrize(
    ("mode", "placement"), [("full", (-1, -3)), ("same", (0, 0)), ("valid", (2, 2))]
)
def test_placement_is_where_the_first_output_lies(mode, placement):
    kernel = centred_kernel(np.ones((4, 6)), convolving=True, origin=(0, 1))
    assert Operation(kernel, Mode(mode)).placement == placement
