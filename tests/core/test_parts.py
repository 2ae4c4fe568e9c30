"""Complex sums that skip weights of 0, against scipy.ndimage, part by part."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from tileconv.core.engines import engine_for
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast, Rule
from tileconv.errors import MethodError

REAL = np.outer([1.5, 0, -2], [1, 3, 0, -1.0])
WEIGHTS = {
    "real": REAL,
    "real, complex dtype": REAL + 0j,
    "imaginary": REAL * 1j,
    "both": REAL + 1j * np.outer([0, 1, 2.0], [1, 0, 0, 2]),
    "zeros": np.zeros((3, 4), complex),
}
METHODS = ["direct", "separable", "fft", "reference"]


def pixels_of(dtype: str, shape: tuple[int, int] = (90, 110)) -> np.ndarray:
    """Random pixels of which some parts are infinite, NaN or huge."""
    rng = np.random.default_rng(6)
    x = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype("c16")
    if not dtype.startswith("complex"):
        x = x.real
    parts = x.view("f8")
    chance = rng.random(parts.shape)
    parts[chance < 0.004] = np.nan
    parts[(chance > 0.004) & (chance < 0.006)] = np.inf
    parts[(chance > 0.006) & (chance < 0.008)] = -np.inf
    return x.astype(dtype)


def applied(weights: np.ndarray, x: np.ndarray, method: str, out: str) -> np.ndarray:
    kernel, cast = Kernel(weights, (0, 0), skip_zeros=True), Cast(np.dtype(out), Rule.TRUNCATE)
    engine = engine_for(kernel, x.dtype, np.dtype(np.complex128), cast, method=method)
    rows, columns = (n - k + 1 for n, k in zip(x.shape, weights.shape, strict=True))
    result = np.empty((rows, columns, 1), out)
    engine.apply(x[..., None], result, cast)
    return result[..., 0]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "out"),
    [("complex64", "complex64"), ("complex128", "complex128"), ("float32", "complex128"),
     ("complex128", "complex64")],
)  # fmt: skip
def test_each_part_is_finite_where_scipys_is(dtype: str, out: str, method: str, name: str) -> None:
    x, weights = pixels_of(dtype), WEIGHTS[name]
    if dtype == "float32":
        weights = weights + 0j
    with np.errstate(all="ignore"):
        whole = ndimage.correlate(x, weights.conj(), mode="constant", output=out)
    want = whole[1:-1, 2:-1]
    got = applied(weights, x, method, out)
    assert got.dtype == want.dtype
    for a, b in ((got.real, want.real), (got.imag, want.imag)):
        finite = np.isfinite(b)
        np.testing.assert_array_equal(a[~finite], b[~finite])
        tolerance = 64 * np.finfo(out).eps * np.abs(weights).sum() * 5
        if "64" in (dtype, out) or dtype == "complex64":
            tolerance = 1e-5
        assert np.abs(a[finite] - b[finite]).max(initial=0) <= tolerance
        assert not np.signbit(a[np.isnan(a)]).any()


def test_integers_may_be_convolved_with_complex_weights() -> None:
    x = np.arange(600, dtype=np.int16).reshape(20, 30)
    want = ndimage.correlate(x, WEIGHTS["both"].conj(), mode="constant", output=complex)
    np.testing.assert_allclose(applied(WEIGHTS["both"], x, "auto", "c16"), want[1:-1, 2:-1])


def test_a_method_that_serves_one_part_only_is_refused() -> None:
    rng = np.random.default_rng(1)
    for weights in (rng.normal(size=(4, 4)) + 1j, 1 + 1j * rng.normal(size=(4, 4))):
        with pytest.raises(MethodError, match="^separable: "):
            applied(weights, pixels_of("complex128"), "separable", "complex128")


@pytest.mark.parametrize("method", METHODS)
def test_it_pickles_and_says_what_it_takes(method: str) -> None:
    weights = np.outer(np.hanning(12)[1:-1], np.hanning(14)[1:-1])
    kernel = Kernel(weights + 2j * weights, (0, 0), skip_zeros=True)
    x = pixels_of("complex64", (300, 900))[..., None]
    cast = Cast(np.dtype(np.complex64), Rule.TRUNCATE)
    engine = engine_for(kernel, x.dtype, np.dtype(np.complex128), cast, method=method)
    assert engine.method == method
    out, again = np.empty((2, 291, 889, 1), np.complex64)
    engine.apply(x, out, cast)
    pickle.loads(pickle.dumps(engine)).apply(x, again, cast)
    assert out.tobytes() == again.tobytes()
    tracemalloc.start()
    engine.apply(x, out, cast)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= engine.workspace_bytes(out.shape[:2], 1, x.dtype, out.dtype)
