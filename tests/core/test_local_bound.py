"""The error bound of every method over the window of each output: no pixel harms another's."""

import numpy as np
import pytest
from wide_range import kernels, pixels, wrong

from tileconv.core.engines import build_engine
from tileconv.core.kernels import Kernel, named_weights
from tileconv.core.pixels import Cast
from tileconv.errors import MethodError


def applied(method, block, weights, accumulator):
    """Sums of a block of one sample by a method; None where it refuses the kernel."""
    try:
        engine = build_engine(method, Kernel(weights, (0, 0)), np.dtype(accumulator))
    except MethodError:
        return None
    shape = [n - k + 1 for n, k in zip(block.shape, weights.shape, strict=True)]
    out = np.empty((*shape, 1), accumulator)
    with np.errstate(all="ignore"):
        engine.apply(block[..., np.newaxis], out, Cast(out.dtype))
    return out[..., 0]


def assert_right(method, block, weights, accumulator=None):
    accumulator = np.dtype(accumulator or block.dtype)
    found = applied(method, block, weights, accumulator)
    assert found is not None
    assert not wrong(found, block, weights, accumulator, method).any()


def random_weights(size, rng):
    weights = rng.normal(size=(size, size - 1))
    weights[2, 3] = 4.0
    return weights


HOLES = [("float64", v) for v in (1e20, -3.4e38)] + [
    ("float32", v) for v in (-9999999.0, 1e10, 9e14, 1e20, -3.4e38)
]


@pytest.mark.parametrize("method", ["direct", "fft"])
@pytest.mark.parametrize(("dtype", "value"), HOLES)
def test_a_hole_harms_no_output_whose_window_it_is_not_in(method, dtype, value):
    rng = np.random.default_rng(1)
    block = rng.uniform(15, 16, (330, 320)).astype(dtype)
    block[200:210, 170:180] = value
    assert_right(method, block, random_weights(31, rng))


def test_a_wide_gaussian_is_right_beside_a_hole():
    block = np.random.default_rng(2).uniform(15, 16, (140, 150))
    block[80:90, 70:80] = 1e20
    weights = named_weights("gaussian", {"sigma": 8.0})
    for method in ("separable", "fft"):
        assert_right(method, block, weights)


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_stars_harm_no_sky(method):
    rng = np.random.default_rng(3)
    block = np.full((300, 330), 0.01, np.float32)
    block[rng.integers(0, 300, 40), rng.integers(0, 330, 40)] = 6e4
    assert_right(method, block, rng.random((41, 40)))


@pytest.mark.parametrize("method", ["direct", "separable", "fft", "reference"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "complex64"])
def test_a_window_of_zeros_gives_zero(method, dtype):
    """A mask of 0 and 1 under the mean of a disk, and terms that cancel."""
    y, x = np.mgrid[-20:21, -20:20]
    disk = (y**2 + x**2 <= 400).astype(float)
    terms = named_weights("gaussian_laplace", {"sigma": 3.0})
    block = np.zeros((230, 250), dtype)
    block[100:160, 120:200] = 1
    block[7, 230] = 1
    sums = "complex64" if dtype == "complex64" else np.result_type(dtype, np.float32)
    for weights in (disk / disk.sum(), terms, np.outer(np.hanning(33), np.hanning(24)[:-1])):
        if method == "reference" and weights is not terms:
            continue
        found = applied(method, block, weights, sums)
        if found is not None:
            assert not wrong(found, block, weights, sums, method).any()


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_what_a_kernel_keeps_out_does_not_come_back_by_rounding(dtype):
    """An even area under signs that alternate: its sums are 0, the rounding of it is not."""
    signs = (-1.0) ** np.add.outer(np.arange(48), np.arange(48))
    for value in (1e2, 1e3, 1e4):
        block = np.random.default_rng(7).uniform(0.9, 1, (330, 300)).astype(dtype)
        block[:200] = value
        assert_right("fft", block, signs)
        block[:, 130:] = block[:, 130:][::-1]
        assert_right("fft", block, signs[:, ::-1] + 0.01)


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dozens_of_decades(method, dtype):
    rng = np.random.default_rng(4)
    weights = sum(np.outer(rng.normal(size=17), rng.normal(size=14)) for _ in range(3))
    block = (10.0 ** rng.uniform(-30, 30, (150, 140))).astype(dtype)
    assert_right(method, block, weights)
    assert_right(method, np.sort(block, axis=1), weights)


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("gain", [1e-20, 1e-3, 1.0, 1e6, 1e18])
def test_subnormal_pixels(method, dtype, gain):
    """Each product may lose half the least subnormal number, and no more."""
    rng = np.random.default_rng(5)
    weights = np.outer(np.hanning(13)[1:-1], np.hanning(9)[1:-1]) * gain
    tiny = np.finfo(dtype).smallest_subnormal
    block = (rng.integers(0, 2000, (150, 160)) * float(tiny)).astype(dtype)
    assert_right(method, block, weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_subnormal_pixels_under_few_weights(dtype, shape):
    """So few that there is no room for a rounding more."""
    rng = np.random.default_rng(9)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    for _ in range(20):
        weights = np.outer(rng.uniform(-1, 1, shape[0]), rng.uniform(-1, 1, shape[1]))
        block = (rng.integers(-900, 900, (40, 50)) * tiny).astype(dtype)
        assert_right("separable", block, weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_terms_may_leave_the_range_where_their_sum_does_not(dtype):
    rng = np.random.default_rng(6)
    weights = named_weights("gaussian_laplace", {"sigma": 2.0})
    weights /= np.abs(weights).sum()
    block = (rng.uniform(0.9, 1, (90, 100)) * float(np.finfo(dtype).max)).astype(dtype)
    found = applied("separable", block, weights, dtype)
    assert np.isfinite(found).all()
    assert not wrong(found, block, weights, dtype, "separable").any()


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize(
    ("weights", "pixel"),
    [
        ([[1e308, 1e308, 1e307]] * 3, 1e-30),
        ([[1e308, 1e308], [1.7e308, -1e308]], 1e-30),
        ([[1e-320, 1e-322, 1e-321]] * 3, 1e30),
        ([[1e-300, 2e-300, -1e-301]] * 2, 1e200),
    ],
)
def test_weights_at_the_ends_of_the_range(method, weights, pixel):
    weights = np.array(weights)
    block = np.random.default_rng(8).uniform(0.5, 1, (90, 100)) * pixel
    found = applied(method, block, weights, block.dtype)
    if method != "separable":  # Which may refuse them.
        assert found is not None
    if found is not None:
        assert not wrong(found, block, weights, block.dtype, method).any()


@pytest.mark.parametrize("size", [(270, 265), (1, 5000), (700, 30)])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_long_sums_of_equal_products(size, kind):
    """One after another they would all be rounded the same way."""
    weights = np.full(size, 0.1)
    block = np.full((size[0] + 3, size[1] + 70), 0.7, np.float32)
    kernel = Kernel(weights, (0, 0), skip_zeros=True)
    if kind == "sparse":
        weights[::2] = 0
        weights[:, ::2] = 0
        kernel = Kernel(weights, (0, 0), skip_zeros=True)
    out = np.empty((4, 71, 1), np.float32)
    build_engine("direct", kernel, out.dtype).apply(block[..., None], out, Cast(out.dtype))
    want = np.longdouble(block[0, 0]) * np.longdouble(weights.sum())
    error = np.abs(out.astype(np.longdouble) - want).max()
    assert error <= 64 * np.finfo(np.float32).eps * want


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
def test_random_pixels_of_a_wide_range(method, seed):
    for n in range(6):
        rng = np.random.default_rng([seed, n])
        weights = kernels(rng)
        dtype = rng.choice(["float32", "float64", "complex64", "complex128"])
        most = 300 if rng.random() < 0.3 else 100
        shape = [int(rng.integers(1, most)) + k - 1 for k in weights.shape]
        block = pixels(rng, shape, dtype)
        found = applied(method, block, weights, dtype)
        if found is not None:
            assert not wrong(found, block, weights, dtype, method).any(), n
