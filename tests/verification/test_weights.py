"""Weights and their place, against sums written out, scipy.signal and scipy.ndimage."""

import numpy as np
import pytest
from scipy import ndimage, signal

from tileconv.jobs.config import Job
from tileconv.verification.weights import weights_of

RNG = np.random.default_rng(0)
GIVEN = RNG.normal(size=(4, 3))
PIXELS = RNG.normal(size=(11, 12))


def job(kernel, **convolution):
    return Job.of(
        {
            "input": {"path": "in.tif"},
            "kernel": kernel,
            "convolution": convolution,
            "output": {"path": "out.tif"},
        }
    )


def applied(weights, shape):
    """Sums over pixels that are 0 outside, written out."""
    (rows, columns), reach = weights.shape, 20
    padded = np.pad(PIXELS, reach)
    out = np.zeros(shape)
    for y, x in np.ndindex(*shape):
        top, left = (at + first + reach for at, first in zip((y, x), weights.first, strict=True))
        out[y, x] = (padded[top : top + rows, left : left + columns] * weights.values).sum()
    return out


@pytest.mark.parametrize("mode", ["same", "full", "valid"])
@pytest.mark.parametrize("operation", ["convolve", "correlate"])
def test_modes_are_scipy_signals(mode, operation):
    weights = weights_of(job({"weights": GIVEN.tolist()}, mode=mode, operation=operation))
    kernel = GIVEN if operation == "convolve" else GIVEN[::-1, ::-1]
    expected = signal.convolve2d(PIXELS, kernel, mode)
    if mode == "same" and operation == "correlate":
        # The centre of a correlation is the same weight as a convolution's.
        expected = signal.convolve2d(PIXELS, kernel, "full")[2:13, 1:13]
    np.testing.assert_allclose(applied(weights, expected.shape), expected, atol=1e-12)


@pytest.mark.parametrize("origin", [(0, 0), (1, -1), (2, 1), (-1, 0)])
@pytest.mark.parametrize("operation", ["convolve", "correlate"])
def test_origins_are_scipy_ndimages(origin, operation):
    weights = weights_of(job({"weights": GIVEN.tolist()}, origin=origin, operation=operation))
    apply = getattr(ndimage, operation)
    # On even axes scipy.ndimage's origin for the same centre is one less.
    theirs = [by - (1 - n % 2) for by, n in zip(origin, GIVEN.shape, strict=True)]
    expected = apply(PIXELS, GIVEN, mode="constant", origin=theirs)
    np.testing.assert_allclose(applied(weights, PIXELS.shape), expected, atol=1e-12)


NAMED = {
    "gaussian": ({"sigma": 1.7}, lambda x: ndimage.gaussian_filter(x, 1.7, mode="constant")),
    "gaussian_laplace": (
        {"sigma": 1.2, "truncate": 3.0},
        lambda x: ndimage.gaussian_laplace(x, 1.2, truncate=3.0, mode="constant"),
    ),
    "box": ({"size": 5}, lambda x: ndimage.uniform_filter(x, 5, mode="constant")),
    "sobel": ({"axis": "y"}, lambda x: ndimage.sobel(x, 0, mode="constant")),
    "prewitt": ({}, lambda x: ndimage.prewitt(x, 1, mode="constant")),
    "laplace": ({}, lambda x: ndimage.laplace(x, mode="constant")),
    "identity": ({}, lambda x: x),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_kernels_are_scipy_ndimages_filters(name):
    parameters, apply = NAMED[name]
    weights = weights_of(job({"name": name, **parameters}))
    np.testing.assert_allclose(applied(weights, PIXELS.shape), apply(PIXELS), atol=1e-12)


@pytest.mark.parametrize(
    "kernel",
    [
        {"name": "gaussian", "sigma": 0.05, "truncate": 60.0},
        {"name": "box", "size": 4},
        {"name": "gaussian_laplace", "sigma": 3.0},
    ],
)
def test_their_rectangle_is_the_jobs(kernel):
    made = job(kernel)
    weights, operation = weights_of(made), made.make_operation()
    assert weights.shape == operation.kernel.shape
    assert weights.first == operation.offset


def test_whole_weights_and_their_sum():
    assert weights_of(job({"weights": [[1, -2], [3, 4]]})).are_whole
    assert not weights_of(job({"weights": [[1, -2], [3, 4.5]]})).are_whole
    assert weights_of(job({"weights": [[1, -2], [3, 4]]})).total == 10
    huge = weights_of(job({"weights": [[1e308, 1e308]]}))
    assert np.isfinite(huge.total)
