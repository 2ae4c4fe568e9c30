"""One oracle for every engine: sums in exact or extended arithmetic over the whole array."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from tileconv.core.engines import Engine, build_engine, engine_for
from tileconv.core.engines.nonfinite import rectangles
from tileconv.core.kernels import Kernel, named_weights
from tileconv.core.pixels import Cast, Rule
from tileconv.core.roundings import error_factor
from tileconv.errors import ConfigError, MethodError

FLOATS = ["float32", "float64", "complex64", "complex128"]
INTEGERS = ["uint8", "int16", "int64", "uint64"]
RNG = np.random.default_rng(7)
ASYMMETRIC = np.array([[1, -2, 3, 0], [4, 5, -6, 0], [0, 8, 9, -1]])
KERNELS = {
    "asymmetric": ASYMMETRIC,
    "even": np.array([[1, 2], [3, -4]]),
    "one row": np.array([[3, -1, 2, 5, 7]]),
    "one column": np.array([[2], [-1], [0], [4]]),
    "1x1": np.array([[-3]]),
    "rank one": np.outer([1, -2, 3], [2, 0, -1, 5]),
    "larger than 31": RNG.integers(-5, 6, (35, 40)),
    "large rank one": np.outer(RNG.integers(1, 4, 33), RNG.integers(-3, 4, 38)),
    "zeros": np.zeros((3, 2), int),
}
RANK_ONE = {"one row", "one column", "1x1", "rank one", "large rank one", "zeros"}


def kernel_of(weights: np.ndarray, dtype: str, **extra: bool) -> Kernel:
    """A kernel with its anchor off the centre; complex where the dtype is."""
    weights = weights.astype(dtype)
    if weights.dtype.kind == "c":
        weights = weights * weights.dtype.type(1 - 0.5j)
    return Kernel(weights, (weights.shape[0] - 1, 0), **extra)


def pixels_of(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random pixels; floats between -1 and 1, integers over their whole range."""
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return RNG.integers(info.min, info.max, shape, kind, endpoint=True)
    x = RNG.uniform(-1, 1, shape)
    return (x + 1j * RNG.uniform(-1, 1, shape) if kind.kind == "c" else x).astype(kind)


def oracle(block: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Valid correlation, tap by tap over shifted views, in extended or modular arithmetic."""
    wide = {"f": np.longdouble, "c": np.clongdouble}.get(block.dtype.kind, block.dtype)
    (kr, kc), (rows, columns, samples) = kernel.shape, block.shape
    total = np.zeros((rows - kr + 1, columns - kc + 1, samples), wide)
    with np.errstate(all="ignore"):
        for y, x in np.argwhere(kernel.active):
            part = block[y : y + rows - kr + 1, x : x + columns - kc + 1].astype(wide)
            total += part * kernel.weights[y, x].astype(wide)
    return total


def applied(engine: Engine, block: np.ndarray, cast: Cast | None = None) -> np.ndarray:
    """The engine's result for a block."""
    cast = cast or Cast(engine.accumulator)
    (kr, kc), (rows, columns, samples) = engine.kernel.shape, block.shape
    out = np.empty((rows - kr + 1, columns - kc + 1, samples), cast.dtype)
    before = block.copy()
    engine.apply(block, out, cast)
    np.testing.assert_array_equal(block, before)
    return out


def error_bound(gain: float, largest: float, dtype: np.dtype) -> float:
    """Largest error where a pixel of a window is the largest of all."""
    return error_factor(dtype, transformed=False) * gain * largest


def assert_within_bound(got: np.ndarray, block: np.ndarray, kernel: Kernel) -> None:
    """Equal for integers; else within the bound where finite, and equal where not."""
    want = oracle(block, kernel)
    if got.dtype.kind in "iu":
        np.testing.assert_array_equal(got, want)
        return
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    largest = float(np.abs(block[np.isfinite(block)]).max(initial=0))
    bound = error_bound(kernel.gain, largest, got.dtype)
    assert float(np.abs(got[finite] - want[finite]).max(initial=0)) <= bound
    if got.dtype.kind == "f":
        np.testing.assert_array_equal(got[~finite], want[~finite].astype(got.dtype))


def serves(method: str, name: str, dtype: str) -> bool:
    """Whether a method can apply a kernel of `KERNELS`; what it refuses is tested elsewhere."""
    if method == "separable":
        # Negative weights wrap to bytes that are products of no whole factors.
        return name in RANK_ONE and not (dtype == "uint8" and "rank" in name)
    return method != "fft" or dtype in FLOATS


METHODS = ["reference", "direct", "separable", "fft"]


SERVED = [
    (method, name, dtype)
    for method, name, dtype in product(METHODS, KERNELS, FLOATS + INTEGERS)
    if serves(method, name, dtype)
]


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("method", "name", "dtype"), SERVED)
def test_every_engine_is_the_oracle(method: str, name: str, dtype: str, samples: int) -> None:
    kernel = kernel_of(KERNELS[name], dtype)
    engine = build_engine(method, kernel, np.dtype(dtype))
    block = pixels_of((70, 90, samples), dtype)
    assert engine.method == method
    assert engine.accumulator == np.dtype(dtype)
    assert_within_bound(applied(engine, block), block, kernel)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("skip_zeros", [False, True])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        (method, name)
        for method, name in product(METHODS, ["asymmetric", "rank one", "large rank one", "zeros"])
        if serves(method, name, "float32")
    ],
)
def test_non_finite_reaches_as_far_as_the_kernel(
    method: str, name: str, dtype: str, *, skip_zeros: bool
) -> None:
    if method == "reference":  # scipy leaves weights out in double precision alone.
        dtype = {"float32": "float64", "complex64": "complex128"}[dtype]
    kernel = kernel_of(KERNELS[name], dtype, skip_zeros=skip_zeros)
    engine = build_engine(method, kernel, np.dtype(dtype))
    block = pixels_of((130, 110, 2), dtype)
    block[3, 4, 0] = np.nan
    block[60:80, 30:35, 0] = np.nan
    block[100, 90:93, 1] = np.inf, -np.inf, np.inf
    block[40, 50, 1] = -np.inf
    block[-1, -1, 1] = np.inf
    got, want = applied(engine, block), oracle(block, kernel)
    if dtype.startswith("complex"):
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    else:
        assert_within_bound(got, block, kernel)


@pytest.mark.parametrize("skip_zeros", [False, True])
def test_dense_non_finite_pixels(*, skip_zeros: bool) -> None:
    weights = np.outer([1.0, 0.0, -2.0], [1.0, 3.0, 0.0, -1.0])
    kernel = Kernel(weights, (0, 0), skip_zeros=skip_zeros)
    block = pixels_of((150, 80, 1), "float64")
    chance = RNG.random(block.shape)
    block[chance < 0.02] = np.nan
    block[(chance > 0.02) & (chance < 0.1)] = np.inf
    block[chance > 0.96] = -np.inf
    for method in METHODS:
        got = applied(build_engine(method, kernel, block.dtype), block)
        assert_within_bound(got, block, kernel)


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pixels_at_the_end_of_the_range_stay_where_they_are(method: str, dtype: str) -> None:
    """-3.4e38 is a usual nodata value: it must not turn its surroundings into NaN."""
    kernel = Kernel(named_weights("gaussian", {"sigma": 2.0}), (0, 0))
    block = pixels_of((160, 150, 1), dtype)
    block[50:, 40:] = np.finfo(dtype).min * 0.999
    got = applied(build_engine(method, kernel, np.dtype(dtype)), block)
    assert np.isfinite(got).all()
    bound = error_bound(kernel.gain, float(np.finfo(dtype).max), np.dtype(dtype))
    assert np.abs(got - oracle(block, kernel)).max() <= bound


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("float32", -3.4e38), ("float32", 1e20), ("float64", 1e200), ("complex64", 9.96921e36)],
)
def test_pixels_out_of_reach_of_missing_data_are_as_if_there_were_none(
    method: str, dtype: str, nodata: float
) -> None:
    weights = np.outer(np.hanning(21)[1:-1], np.hanning(12)[1:-1])
    kernel = Kernel(weights / weights.sum() * 0.99, (0, 0))
    clean = pixels_of((300, 260, 1), dtype)
    block = clean.copy()
    block[:60, 100:] = nodata
    block[200, 30] = -nodata
    engine = build_engine(method, kernel, np.dtype(dtype))
    got, want = applied(engine, block), oracle(clean, kernel)
    out_of_reach = oracle((block != clean).astype("f8"), kernel) == 0
    assert 0.3 < out_of_reach.mean() < 0.9
    bound = error_bound(kernel.gain, float(np.abs(clean).max()), np.dtype(dtype))
    assert np.abs(got - want)[out_of_reach].max() <= bound
    whole = error_bound(kernel.gain, abs(nodata), np.dtype(dtype))
    assert np.abs(got - oracle(block, kernel)).max() <= whole


@pytest.mark.parametrize("size", [3, 8, 31, 64, 127])
@pytest.mark.parametrize("method", METHODS)
def test_bound_under_a_large_offset(method: str, size: int) -> None:
    """Equal terms are what sums lose most on; the oracle is a sum in longdouble."""
    for weights in (
        np.full((size, size), 0.1),
        np.outer(np.hanning(size + 2)[1:-1], np.r_[1 : size + 1]),
    ):
        kernel = Kernel(weights, (0, 0))
        block = (1e4 + 0.1 * RNG.random((size + 20, size + 90, 1))).astype(np.float32)
        # As the lazy door asks for it: truncating, which matters to integers only.
        cast = Cast(block.dtype, Rule.TRUNCATE)
        got = applied(engine_for(kernel, block.dtype, block.dtype, cast, method=method), block)
        at = (slice(0, 1), slice(0, 5))
        small = block[:size, : size + 4]
        want = oracle(small, kernel)
        bound = error_bound(kernel.gain, float(block.max()), block.dtype)
        assert np.abs(got[at] - want).max() <= bound / 2


@pytest.mark.parametrize("weights", [KERNELS["asymmetric"] / 7, RNG.normal(size=(13, 12))])
@pytest.mark.parametrize("skip_zeros", [False, True])
def test_exact_direct_is_ndimages_to_the_last_bit(weights: np.ndarray, *, skip_zeros: bool) -> None:
    kernel = Kernel(weights, (0, 0), skip_zeros=skip_zeros)
    block = pixels_of((60, 71, 1), "float64") * 1e3
    got = applied(build_engine("direct", kernel, block.dtype, exact=True), block)[..., 0]
    whole = ndimage.correlate(block[..., 0], weights, mode="constant")
    (kr, kc), (rows, columns) = weights.shape, got.shape
    want = whole[kr // 2 :, kc // 2 :][:rows, :columns]
    np.testing.assert_array_equal(got.view(np.int64), np.ascontiguousarray(want).view(np.int64))


@pytest.mark.parametrize("code", ["b", "H", "i", "I", "l"])
def test_integers_wrap_as_scipys(code: str) -> None:
    dtype = np.dtype(code).name
    kernel = kernel_of(ASYMMETRIC, dtype)
    block = pixels_of((20, 31, 1), dtype)
    want = signal.correlate2d(block[..., 0], kernel.weights, "valid")
    got = applied(build_engine("direct", kernel, np.dtype(dtype)), block)[..., 0]
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_reference_takes_what_scipy_takes() -> None:
    for dtype in (np.longdouble, np.clongdouble, np.uint32):
        kernel = Kernel(ASYMMETRIC.astype(dtype), (0, 0))
        block = RNG.integers(-9, 9, (9, 10, 2)).astype(dtype)
        engine = build_engine("reference", kernel, np.dtype(dtype))
        got = applied(engine, block, Cast(np.dtype(dtype), Rule.TRUNCATE))
        np.testing.assert_array_equal(got, oracle(block, kernel))


@pytest.mark.parametrize("products", [1, 60, 1000])
def test_reference_holds_the_interpreter_for_a_bounded_time_only(
    products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces are as small as they must be, in both directions, and sum to the same bits."""
    kernel = Kernel(RNG.normal(size=(5, 4)), (0, 0))
    block = pixels_of((30, 41, 2), "float32")
    engine = build_engine("reference", kernel, block.dtype)
    want = applied(engine, block)
    calls = []
    correlate = signal.correlate

    def counted(x: np.ndarray, weights: np.ndarray, *how: str) -> np.ndarray:
        calls.append(math.prod(np.subtract(x.shape, weights.shape) + 1) * weights.size)
        return correlate(x, weights, *how)

    monkeypatch.setattr("tileconv.core.engines.reference.CALL_PRODUCTS", products)
    monkeypatch.setattr(signal, "correlate", counted)
    got = applied(engine, block)
    np.testing.assert_array_equal(got, want)
    assert max(calls) <= max(products, kernel.weights.size)
    assert sum(calls) == kernel.weights.size * got.size


CUTS = {
    "direct": KERNELS["asymmetric"] / 3,
    "separable": np.outer([1.1, -2, 3.3], [2, 0.1, -1, 5]),
    "fft": KERNELS["asymmetric"] / 3,
}


@settings(deadline=None, max_examples=40)
@given(
    method=st.sampled_from(sorted(CUTS)),
    samples=st.sampled_from([1, 3]),
    dtype=st.sampled_from(["float32", "float64"]),
    start=st.tuples(st.integers(0, 250), st.integers(0, 250)),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    seed=st.integers(0, 3),
)
def test_values_do_not_depend_on_where_a_block_begins(
    method: str,
    samples: int,
    dtype: str,
    start: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    kernel = Kernel(CUTS[method], (0, 0))
    rng = np.random.default_rng(seed)
    block = rng.normal(size=(290, 301, samples)).astype(dtype)
    if seed == 3:
        block[rng.random(block.shape) < 1e-3] = np.nan
    engine = build_engine(method, kernel, np.dtype(dtype))
    whole = applied(engine, block)
    rows, columns = whole.shape[:2]
    y0, x0 = (s // n * n for s, n in zip(start, engine.lattice, strict=True))
    y1, x1 = (
        min(-(-(a + b) // n) * n, end)
        for a, b, n, end in zip((y0, x0), size, engine.lattice, (rows, columns), strict=True)
    )
    if y1 > y0 and x1 > x0:
        part = applied(engine, block[y0 : y1 + 2, x0 : x1 + 3])
        assert part.tobytes() == np.ascontiguousarray(whole[y0:y1, x0:x1]).tobytes()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("block_dtype", "out_dtype"), [("uint8", "uint8"), (">u2", "float32"), ("float64", "int16")]
)
def test_casts_into_views(method: str, block_dtype: str, out_dtype: str) -> None:
    kernel = Kernel(KERNELS["rank one"], (0, 0))
    engine = build_engine(method, kernel, np.dtype(np.float64))
    block = RNG.integers(0, 200, (50, 2100, 2)).astype(block_dtype)
    large = np.zeros((60, 2200, 2), out_dtype)
    counts = engine.apply(block, large[5:53, 7:2104], Cast(np.dtype(out_dtype)))
    want = oracle(block.astype(np.float64), kernel)
    if out_dtype != "float32":
        info = np.iinfo(out_dtype)
        assert counts.clipped == np.count_nonzero((want < info.min) | (want > info.max))
        want = np.clip(want, info.min, info.max)
    # Whole results: transforms leave a trace of their rounding in float outputs alone.
    loss = 1e-7 * np.abs(want).max() if method == "fft" and out_dtype == "float32" else 0
    np.testing.assert_allclose(large[5:53, 7:2104], want.astype(np.float64), rtol=0, atol=loss)
    assert not large[:5].any()
    assert not large[:, 2104:].any()


@pytest.mark.parametrize("method", METHODS)
def test_engines_pickle(method: str) -> None:
    kernel = Kernel(CUTS["separable"], (0, 0))
    block = pixels_of((40, 50, 1), "float32")
    engine = build_engine(method, kernel, block.dtype)
    copy = pickle.loads(pickle.dumps(engine))
    assert applied(copy, block).tobytes() == applied(engine, block).tobytes()
    assert len(pickle.dumps(engine)) < 10_000


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_output_is_fine(method: str) -> None:
    engine = build_engine(method, Kernel(np.ones((3, 3)), (0, 0)), np.dtype(np.float32))
    engine.apply(np.ones((2, 9, 1), np.float32), np.empty((0, 7, 1), np.float32), Cast("f4"))


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize(("dtype", "out"), [("float32", "uint8"), ("float64", "float64")])
@pytest.mark.parametrize(
    ("method", "size"), [*product(["direct", "separable", "fft"], [5, 90]), ("reference", 5)]
)
def test_workspace_is_an_upper_bound(
    method: str, dtype: str, out: str, size: int, *, finite: bool
) -> None:
    taps = np.hanning(size + 2)[1:-1]
    weights = np.outer(taps, taps) + np.outer(taps**2, 1 - taps)  # Two terms.
    kernel = Kernel(weights, (0, 0))
    engine = build_engine(method, kernel, np.dtype(dtype))
    # What is never NaN needs no room for it.
    block = pixels_of((400, 5000, 1), "uint8" if finite else dtype)
    if not finite:
        block[::50, ::50] = np.nan
        block[7::90, ::40] = np.inf
    result = np.empty((401 - size, 5001 - size, 1), out)
    for rule in Rule:
        cast = Cast(np.dtype(out), rule)
        engine.apply(block[: size + 1, : size + 1], result[:2, :2], cast)  # Compiles.
        tracemalloc.start()
        engine.apply(block, result, cast)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        bound = engine.workspace_bytes(result.shape[:2], 1, block.dtype, result.dtype)
        assert peak <= bound


def test_forced_methods_that_cannot_serve_name_themselves() -> None:
    full_rank = Kernel(RNG.normal(size=(4, 4)), (0, 0))
    whole = Kernel(ASYMMETRIC, (0, 0))
    cases = [
        ("separable", full_rank, "float64"),
        ("separable", whole, "int32"),
        ("fft", whole, "int32"),
        ("direct", whole, "longdouble"),
        ("direct", full_rank, "int32"),
        ("fft", Kernel(np.array([[1.0, np.nan]]), (0, 0)), "float64"),
        ("separable", Kernel(np.array([[1.0, np.inf]]), (0, 0)), "float64"),
        ("reference", Kernel(np.array([[1.0, 0.0]]), (0, 0), skip_zeros=True), "float32"),
        ("direct", Kernel(np.array([[1j]]), (0, 0)), "float64"),
        ("reference", whole, "object"),
    ]
    for method, kernel, dtype in cases:
        with pytest.raises(MethodError, match=f"^{method}: "):
            build_engine(method, kernel, np.dtype(dtype))
    with pytest.raises(ConfigError, match="complex"):
        engine_for(whole, np.dtype("u1"), np.dtype("c8"), Cast(np.dtype("f4")))


def test_textbook_kernel_is_exact() -> None:
    weights = np.ones((10, 10))
    weights[:, :5] = -1
    block = np.zeros((109, 109, 1))
    block[:50, :40], block[50:, :60] = 1, 1
    kernel = Kernel(weights[::-1, ::-1], (5, 5))
    engine = engine_for(kernel, block.dtype, block.dtype, Cast(block.dtype))
    want = signal.convolve2d(block[..., 0], weights, "valid")
    np.testing.assert_array_equal(applied(engine, block)[..., 0], want)


@pytest.mark.parametrize("weights", [ASYMMETRIC / 16, np.outer([1, 2, 1], [1, 0, -1])])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_truncated_results_are_ndimages(weights: np.ndarray, dtype: str) -> None:
    kernel = Kernel(weights, (0, 0), skip_zeros=True)
    block = pixels_of((60, 50, 1), dtype)
    cast = Cast(block.dtype, Rule.TRUNCATE)
    engine = engine_for(kernel, block.dtype, np.dtype(np.float64), cast)
    got = applied(engine, block, cast)[..., 0]
    whole = ndimage.correlate(block[..., 0], weights, mode="constant")
    (kr, kc), (rows, columns) = weights.shape, got.shape
    np.testing.assert_array_equal(got, whole[kr // 2 :, kc // 2 :][:rows, :columns])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**36 - 1))
def test_rectangles_cover_a_mask_once(rows: int, columns: int, bits: int) -> None:
    mask = np.array([bits >> i & 1 for i in range(rows * columns)], bool).reshape(rows, columns)
    seen = np.zeros(mask.shape, int)
    for top, bottom, left, right in rectangles(mask):
        seen[top:bottom, left:right] += 1
    np.testing.assert_array_equal(seen, mask)


@pytest.mark.parametrize("size", [40, 700])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_preparing_takes_what_it_says(size: int, dtype: str) -> None:
    weights = np.random.default_rng(0).normal(size=(size, size))
    block = np.zeros((size, size, 1), dtype)
    out = np.empty((1, 1, 1), dtype)
    small = Kernel(weights[:3, :3], (0, 0))
    build_engine("fft", small, np.dtype(dtype)).apply(block[:3, :3], out, Cast(out.dtype))
    engine = build_engine("fft", Kernel(weights, (0, 0)), np.dtype(dtype))
    tracemalloc.start()
    engine.apply(block, out, Cast(out.dtype))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    work = engine.workspace_bytes((1, 1), 1, block.dtype, out.dtype)
    assert peak <= engine.held_bytes + max(engine.preparing_bytes, work) + (1 << 20)
