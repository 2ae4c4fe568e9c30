"""Kernels: named ones against scipy.ndimage, anchors, and what is refused."""

import numpy as np
import pytest
from scipy import ndimage, signal

from tileconv.core.kernels import NAMED_KERNELS, Kernel, centred_kernel, named_weights
from tileconv.errors import ConfigError

FILTERS = {
    "gaussian": ({"sigma": 1.7}, lambda x: ndimage.gaussian_filter(x, 1.7)),
    "gaussian_laplace": ({"sigma": 1.3}, lambda x: ndimage.gaussian_laplace(x, 1.3)),
    "box": ({"size": 4}, lambda x: ndimage.uniform_filter(x, 4)),
    "sobel": ({"axis": "x"}, lambda x: ndimage.sobel(x, axis=1)),
    "prewitt": ({"axis": "y"}, lambda x: ndimage.prewitt(x, axis=0)),
    "laplace": ({}, ndimage.laplace),
    "identity": ({}, lambda x: x),
}


@pytest.mark.parametrize("name", NAMED_KERNELS)
def test_a_named_kernel_is_the_filter_of_that_name(name):
    image = np.random.default_rng(3).random((31, 37))
    parameters, oracle = FILTERS[name]
    weights = named_weights(name, parameters)
    got = signal.convolve2d(image, weights, mode="same", boundary="symm")
    np.testing.assert_allclose(got, oracle(image), atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 4), (1, 6), (5, 2)])
@pytest.mark.parametrize("convolving", [True, False])
def test_the_anchor_is_scipy_signals_same(shape, convolving):
    image = np.zeros((15, 15))
    image[7, 7] = 1
    weights = np.arange(1.0, np.prod(shape) + 1).reshape(shape)
    kernel = centred_kernel(weights, convolving=convolving)
    apply = signal.convolve2d if convolving else signal.correlate2d
    want = apply(image, weights, mode="same")
    assert np.array_equal(_correlated(image, kernel), want)


@pytest.mark.parametrize("origin", [(0, 0), (1, -1), (-2, 1)])
def test_origin_moves_it_as_in_scipy_ndimage(origin):
    image = np.random.default_rng(0).random((15, 15))
    weights = np.arange(1.0, 26.0).reshape(5, 5)
    for convolving, oracle in ((True, ndimage.convolve), (False, ndimage.correlate)):
        kernel = centred_kernel(weights, convolving=convolving, origin=origin)
        want = oracle(image, weights, mode="constant", origin=origin)
        np.testing.assert_allclose(_correlated(image, kernel), want)


def test_on_even_axes_ndimage_counts_one_less():
    image = np.random.default_rng(0).random((15, 15))
    weights = np.arange(1.0, 25.0).reshape(4, 6)
    kernel = centred_kernel(weights, convolving=True)
    want = ndimage.convolve(image, weights, mode="constant", origin=-1)
    np.testing.assert_allclose(_correlated(image, kernel), want)
    kernel = centred_kernel(weights, convolving=False)
    want = ndimage.correlate(image, weights, mode="constant", origin=-1)
    np.testing.assert_allclose(_correlated(image, kernel), want)


def _correlated(image, kernel):
    """The definition, in one line a pixel."""
    (rows, columns), (ay, ax) = kernel.shape, kernel.anchor
    padded = np.pad(image, ((ay, rows - 1 - ay), (ax, columns - 1 - ax)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
    return (windows * kernel.weights).sum((2, 3))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), "2 axes"),
        (np.ones((2, 0)), "empty"),
        (np.array([["a"]]), "must be numbers"),
    ],
)
def test_what_is_no_kernel_is_refused(weights, message):
    with pytest.raises(ConfigError, match=message):
        centred_kernel(weights, convolving=True)


def test_an_origin_outside_the_kernel_is_refused_with_the_range():
    with pytest.raises(ConfigError, match=r"-2 \.\. 2"):
        centred_kernel(np.ones((5, 5)), convolving=False, origin=(3, 0))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gausian", {}, "use one of gaussian"),
        ("gaussian", {"size": 3}, "takes sigma, truncate"),
        ("gaussian", {"sigma": "2"}, "type float"),
        ("gaussian", {"sigma": -1.0}, "kernel.sigma must be a number in"),
        ("gaussian", {"sigma": float("nan")}, "kernel.sigma must be a number in"),
        ("gaussian", {"sigma": 1e-300}, "kernel.sigma must be a number in"),
        ("gaussian", {"truncate": float("inf")}, "kernel.truncate must be a number in"),
        ("gaussian", {"sigma": 1e6}, "more than"),
        ("box", {"size": 0}, "kernel.size"),
        ("box", {"size": True}, "type int"),
        ("sobel", {"axis": "z"}, "'x' or 'y'"),
    ],
)
def test_wrong_names_and_parameters_say_what_is_allowed(name, parameters, message):
    with pytest.raises(ConfigError, match=message):
        named_weights(name, parameters)


def test_a_kernel_is_a_value():
    weights = np.ones((2, 3))
    kernel = Kernel(weights, (0, 0))
    weights[0, 0] = 9
    assert kernel.weights[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        kernel.weights[0, 0] = 2
    assert kernel.gain == 6
    assert kernel.is_integral
    assert not Kernel(weights / 2, (0, 0)).is_integral
