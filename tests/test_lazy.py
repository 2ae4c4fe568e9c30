"""Lazy results equal scipy's on the whole array, whatever the chunks."""

import os
import pickle
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

from tileconv import lazy
from tileconv.errors import MethodError
from tileconv.lazy import inputs

# One more example of each property takes ten milliseconds.
sweep = settings(deadline=None, max_examples=120)

PADS = {"fill": "constant", "wrap": "wrap", "symm": "symmetric", "nearest": "edge"}
PADS |= {"mirror": "reflect", "constant": "constant", "reflect": "symmetric"}
PADS |= {"grid-mirror": "symmetric", "grid-wrap": "wrap", "grid-constant": "constant"}

INTEGERS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
FLOATS = ["e", "f4", "f8", ">f4", "g", "c8", "c16"]


def cut(total):
    """A strategy: lengths of chunks that make up `total`."""
    ends = st.sets(st.integers(1, max(total - 1, 1)), max_size=total)
    return ends.map(lambda e: tuple(int(d) for d in np.diff(sorted({0, total} | e)) if d))


def numbers(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        info, native = np.iinfo(dtype), dtype.newbyteorder("=")
        return rng.integers(info.min, info.max, shape, native, endpoint=True).astype(dtype)
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if dtype.kind == "c" else values).astype(dtype)


@st.composite
def problems(draw, dtypes=("f8",), weight_dtypes=("f8",)):
    """A raster, its dask array, and weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    raster = numbers(rng, shape, draw(st.sampled_from(dtypes)))
    weights = numbers(rng, size, draw(st.sampled_from(weight_dtypes)))
    weights[rng.random(size) < 0.2] = 0
    chunks = tuple(draw(cut(n)) for n in shape)
    return raster, da.from_array(raster, chunks=chunks), weights


def computed(array):
    result = array.compute(scheduler="synchronous")
    assert (result.shape, result.dtype) == (array.shape, array.dtype)
    return result


def bound(raster, weights, dtype, fill=0.0):
    """design.md: 64 eps times the sum of absolute weights times the largest pixel."""
    gain = np.abs(weights.astype(np.result_type(weights, "g"))).sum()
    largest = max(np.abs(raster.astype(np.result_type(raster, "g"))).max(), abs(fill))
    return float(64 * np.finfo(dtype).eps * gain * largest)


def outcome(function, *arguments, **options):
    """What a call returns, or the type and words of what it raises."""
    try:
        with np.errstate(all="ignore"):
            return function(*arguments, **options), None
    except (RuntimeError, TypeError, ValueError) as error:
        return None, (type(error), str(error))


def close(got, expected, tolerance):
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(got, expected)
    else:
        assert np.abs(got - expected).max(initial=0) <= tolerance


def signal_oracle(name, raster, weights, mode, boundary, fill):
    """scipy's function; for our own boundaries scipy's on what np.pad extends."""
    function = getattr(signal, name)
    if boundary in ("fill", "wrap", "symm"):
        return function(raster, weights, mode, boundary, fill)
    if mode == "valid":
        return function(raster, weights, mode)
    pad = [(k - 1, k - 1) for k in weights.shape]
    full = function(np.pad(raster, pad, PADS[boundary]), weights, "valid")
    if mode == "full":
        return full
    starts = [(k - 1) // 2 if name == "convolve2d" else k // 2 for k in weights.shape]
    return full[tuple(slice(s, s + n) for s, n in zip(starts, raster.shape, strict=True))]


@sweep
@given(
    data=st.data(),
    problem=problems(INTEGERS + FLOATS, INTEGERS + FLOATS),
    name=st.sampled_from(["convolve2d", "correlate2d"]),
    mode=st.sampled_from(["full", "same", "valid"]),
    boundary=st.sampled_from(["fill", "wrap", "symm", "nearest", "mirror"]),
)
def test_signal_equals_scipy(data, problem, name, mode, boundary):
    raster, chunked, weights = problem
    fill = data.draw(st.sampled_from([0, 1, 3]))
    rules = (weights, mode, boundary, fill)
    expected, refused = outcome(signal_oracle, name, raster, *rules)
    if refused:
        assert outcome(getattr(lazy, name), chunked, *rules)[1] == refused
        return
    tolerance = 0.0
    if expected.dtype.kind not in "biu":
        tolerance = bound(raster, weights, expected.dtype, fill)
    for given_raster in (chunked, raster):
        result = getattr(lazy, name)(given_raster, *rules)
        close(computed(result), expected, tolerance)


def anchors(size):
    return st.integers(-(size // 2), (size - 1) // 2)


def ndimage_oracle(name, raster, weights, output, mode, cval, origin):
    """scipy's function on what np.pad extends, because scipy reads out of bounds in reflect."""
    pad = [(k + 1, k + 1) for k in weights.shape]
    constant = {"constant_values": cval} if PADS[mode] == "constant" else {}
    wide = np.result_type(raster, np.float64) if constant else raster.dtype
    padded = np.pad(raster.astype(wide), pad, PADS[mode], **constant)
    output = raster.dtype if output is None and not np.iscomplexobj(weights) else output
    result = getattr(ndimage, name)(padded, weights, output, "constant", origin=origin)
    return result[tuple(slice(a, -b) for a, b in pad)]


@sweep
@given(
    data=st.data(),
    problem=problems(["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8", ">i2"]),
    name=st.sampled_from(["convolve", "correlate"]),
    mode=st.sampled_from(sorted(set(PADS) - {"fill", "symm"})),
    cval=st.sampled_from([0.0, 0.3, -2, 7]),
    output=st.sampled_from([None, "i2", "u1", np.float32, np.dtype("f8"), bool]),
)
def test_ndimage_equals_scipy(data, problem, name, mode, cval, output):
    raster, chunked, weights = problem
    if data.draw(st.booleans()):
        weights = np.rint(weights * 2)
    origin = tuple(data.draw(anchors(k)) for k in weights.shape)
    expected = ndimage_oracle(name, raster, weights, output, mode, cval, origin)
    tolerance = bound(raster, weights, np.float64, cval)
    if expected.dtype == np.float32:
        tolerance += float(np.finfo(np.float32).eps * np.abs(expected).max())
    for given_raster in (chunked, raster):
        result = getattr(lazy, name)(given_raster, weights, output, mode, cval, origin)
        close(computed(result), expected.astype(expected.dtype.newbyteorder("=")), tolerance)


@sweep
@given(
    data=st.data(),
    problem=problems(["u1", "f4", "c8", "c16"], ["f8", "c8", "c16"]),
    name=st.sampled_from(["convolve", "correlate"]),
    mode=st.sampled_from(["constant", "wrap", "nearest", "mirror"]),
)
def test_ndimage_complex(data, problem, name, mode):
    raster, chunked, weights = problem
    origin = tuple(data.draw(anchors(k)) for k in weights.shape)
    cval = 1 - 2j if np.iscomplexobj(raster) else 1.5
    expected = getattr(ndimage, name)(raster, weights, None, mode, cval, origin)
    result = computed(getattr(lazy, name)(chunked, weights, None, mode, cval, origin))
    # scipy adds real parts that it has rounded to the output's precision.
    dtype = expected.dtype if np.iscomplexobj(expected) else np.dtype(np.float64)
    tolerance = bound(raster, weights, dtype, cval)
    if expected.dtype == np.float32:
        tolerance += float(np.finfo(np.float32).eps * np.abs(expected).max())
    close(result, expected, tolerance)


@sweep
@given(
    data=st.data(),
    problem=problems(["f4", "f8", "c8"]),
    method=st.sampled_from(["direct", "separable", "reference"]),
    mode=st.sampled_from(["full", "same"]),
    boundary=st.sampled_from(["fill", "wrap", "symm", "nearest", "mirror"]),
)
def test_chunks_change_no_bit(data, problem, method, mode, boundary):
    raster, chunked, weights = problem
    if method == "separable":
        weights = np.outer(weights[:, 0] + 2, weights[0] - 2)
        if min(weights.shape) < 3:
            return
    raster[tuple(data.draw(st.integers(0, n - 1)) for n in raster.shape)] = np.nan
    chunked = da.from_array(raster, chunks=chunked.chunks)
    whole, parts = (
        computed(lazy.convolve2d(r, weights, mode, boundary, 2, method=method))
        for r in (raster, chunked)
    )
    np.testing.assert_array_equal(whole.view("u1"), parts.view("u1"))


@sweep
@given(problem=problems(["f4", "f8", "c16"]), boundary=st.sampled_from(["fill", "wrap", "symm"]))
def test_fft_is_within_the_bound(problem, boundary):
    raster, chunked, weights = problem
    expected = signal.correlate2d(raster, weights, "same", boundary)
    result = computed(lazy.correlate2d(chunked, weights, "same", boundary, method="fft"))
    close(result, expected, bound(raster, weights, expected.dtype))


@sweep
@given(data=st.data(), name=st.sampled_from(["convolve", "correlate"]))
def test_bands_are_carried(data, name):
    ndim = data.draw(st.integers(2, 4))
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * ndim))
    count = data.draw(st.integers(1, 2))
    axes = data.draw(st.permutations(range(-ndim, ndim)).map(lambda p: tuple(p[:count])))
    size = data.draw(st.tuples(*[st.integers(1, 3)] * count))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    raster, weights = numbers(rng, shape, "i2"), rng.integers(-9, 9, size).astype(float)
    origin = [data.draw(st.integers(-1, 1)) for _ in axes]
    chunked = da.from_array(raster, chunks=tuple(data.draw(cut(n)) for n in shape))
    rules = (weights, "f4", "mirror", 0.0, origin)
    expected, refused = outcome(getattr(ndimage, name), raster, *rules, axes=axes)
    result, ours = outcome(getattr(lazy, name), chunked, *rules, axes=axes)
    assert ours == refused
    if refused:
        return
    assert result.chunks == chunked.chunks
    np.testing.assert_array_equal(computed(result), expected)


@pytest.mark.parametrize("axes", [(1, 0), (-1, 0), (2, 0), (2, -2), (0, 2)])
def test_axes_in_any_order(axes):
    raster = np.arange(2 * 5 * 7).reshape(2, 5, 7) ** 2 % 101
    raster = raster if 2 in axes else raster[0]
    weights = np.array([[1, 2, 0], [0, 5, 7], [3, 0, 0]])
    for name in ("convolve", "correlate"):
        rules = (weights, None, "wrap", 0.0, (1, -1))
        expected = getattr(ndimage, name)(raster, *rules, axes=axes)
        np.testing.assert_array_equal(getattr(lazy, name)(raster, *rules, axes=axes), expected)


def test_weights_along_one_of_three_axes():
    stack, row = np.arange(60.0).reshape(3, 4, 5) ** 2, np.array([[[1.0, 2, 5]]])
    np.testing.assert_array_equal(lazy.convolve(stack, row), ndimage.convolve(stack, row))


def test_weights_along_three_axes_are_refused():
    with pytest.raises(ValueError, match="over two axes"):
        lazy.convolve(np.ones((3, 3, 3)), np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="over two axes"):
        lazy.convolve(np.ones(3), np.ones(2))


IMAGE = np.arange(12.0).reshape(3, 4)

REFUSED = [
    ("convolve2d", (IMAGE, np.ones(3))),
    ("correlate2d", (IMAGE[0], IMAGE)),
    ("convolve2d", (IMAGE, IMAGE, "sme")),
    ("convolve2d", (IMAGE, IMAGE, 1)),
    ("convolve2d", (IMAGE, IMAGE.T, "valid")),
    ("convolve2d", (IMAGE, IMAGE, "full", "edge")),
    ("convolve2d", (IMAGE, IMAGE, "full", "reflect")),
    ("convolve2d", (IMAGE > 1, IMAGE > 2)),
    ("convolve2d", (IMAGE.astype("e"), IMAGE.astype("e"))),
    ("convolve2d", (IMAGE.astype(object), IMAGE)),
    ("convolve2d", (IMAGE.astype("M8[s]"), IMAGE.astype(int))),
    ("convolve2d", (IMAGE, IMAGE, "full", "fill", [1, 2])),
    ("convolve2d", (IMAGE, IMAGE, "full", "fill", [])),
    ("convolve", (IMAGE, np.ones(3))),
    ("convolve", (IMAGE, np.ones((0, 3)))),
    ("convolve", (IMAGE, IMAGE, None, "symm")),
    ("correlate", (IMAGE, IMAGE, None, "reflect", 0.0, 2)),
    ("correlate", (IMAGE, IMAGE, None, "reflect", 0.0, (0, 0, 0))),
    ("correlate", (IMAGE, IMAGE, "nonsense")),
    ("correlate", (IMAGE, IMAGE * 1j, "f8")),
    ("correlate", (IMAGE, IMAGE * 1j, None, "constant", 1j)),
    ("correlate", (IMAGE.astype("e"), IMAGE)),
    ("correlate", (IMAGE.astype("g"), IMAGE)),
]


@pytest.mark.parametrize(("name", "arguments"), REFUSED)
def test_errors_are_scipys(name, arguments):
    module = signal if name.endswith("2d") else ndimage
    expected, ours = (outcome(getattr(home, name), *arguments)[1] for home in (module, lazy))
    assert expected is not None
    assert ours == expected


def test_a_sequence_of_modes_is_refused():
    with pytest.raises(RuntimeError, match="boundary mode not supported"):
        lazy.convolve(IMAGE, IMAGE, mode=["nearest", "wrap"])


def test_an_output_array_is_refused():
    with pytest.raises(ValueError, match="lazy.*give its dtype"):
        lazy.convolve(IMAGE, IMAGE, np.zeros_like(IMAGE))


def test_warnings_are_scipys():
    with pytest.warns(UserWarning, match="promoting specified output dtype to complex"):
        assert lazy.convolve(IMAGE, IMAGE * 1j, output=float).dtype == complex


def test_an_empty_kernel_is_refused():
    with pytest.raises(ValueError, match="empty"):
        lazy.convolve2d(IMAGE, np.ones((0, 3)))


def test_a_method_that_cannot_serve_is_refused():
    kernel = np.array([[1.0, 2], [3, 5]])
    with pytest.raises(ValueError, match="^separable: "):
        lazy.convolve(IMAGE.astype("u1"), kernel + np.pi, method="separable")
    with pytest.raises(MethodError, match="^fft: "):
        lazy.convolve2d(IMAGE.astype("i4"), kernel.astype("i4"), method="fft")
    with pytest.raises(ValueError, match="unknown method 'fast'"):
        lazy.convolve2d(IMAGE, kernel, method="fast")


def test_unknown_chunk_sizes_are_refused():
    unknown = da.from_array(IMAGE, chunks=2)[da.from_array([True, False, True], chunks=1)]
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        lazy.convolve2d(unknown, IMAGE)
    unknown.compute_chunk_sizes()
    np.testing.assert_array_equal(
        lazy.convolve2d(unknown, IMAGE), signal.convolve2d(IMAGE[[0, 2]], IMAGE)
    )


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_empty_rasters(shape):
    empty = np.zeros(shape)
    assert lazy.convolve(empty, IMAGE).compute().shape == shape
    assert lazy.convolve2d(da.from_array(empty), IMAGE, "same", "wrap").compute().shape == shape
    full = lazy.convolve2d(empty, np.ones((2, 2)), "full", "fill", 3).compute()
    np.testing.assert_array_equal(full, np.full([n + 1 for n in shape], 12.0))
    with pytest.raises(ValueError, match="empty raster"):
        lazy.convolve2d(empty, IMAGE, "full", "wrap")


def test_a_fill_value_the_pixels_cannot_hold():
    pixels = IMAGE.astype("u1")
    for fill in (-2.5, 1e6, np.nan, np.inf):
        expected = signal.convolve2d(pixels, IMAGE, "full", "fill", fill)
        np.testing.assert_array_equal(lazy.convolve2d(pixels, IMAGE, fillvalue=fill), expected)


def test_nan_reaches_as_far_as_the_kernel():
    pixels = np.ones((9, 9))
    pixels[4, 4], pixels[0, 0] = np.nan, np.inf
    chunked = da.from_array(pixels, chunks=(2, 3))
    for weights in (np.ones((3, 3)), np.diag([1.0, 0, 2])):
        for ours, scipys in (
            (lazy.convolve2d(chunked, weights), signal.convolve2d(pixels, weights)),
            (lazy.convolve(chunked, weights), ndimage.convolve(pixels, weights)),
        ):
            with np.errstate(invalid="ignore"):
                np.testing.assert_array_equal(ours, scipys)


def test_lists_are_taken():
    np.testing.assert_array_equal(
        lazy.convolve2d([[1, 2], [3, 4]], [[1, 0, -1]]),
        signal.convolve2d([[1, 2], [3, 4]], [[1, 0, -1]]),
    )


def test_a_dask_kernel_is_computed_at_once():
    weights = da.from_array(IMAGE, chunks=2)
    np.testing.assert_array_equal(
        lazy.correlate2d(IMAGE, weights), signal.correlate2d(IMAGE, IMAGE)
    )


# Graphs.


def explosive(shape=(40, 30), chunks=(7, 11)):
    def explode():
        raise AssertionError("computed")

    zeros = da.zeros(shape, chunks=chunks)
    return da.map_blocks(lambda block: explode(), zeros, meta=np.empty((0, 0)))


def test_nothing_is_computed_before_it_is_asked_for():
    raster = explosive()
    for mode in ("full", "same", "valid"):
        lazy.convolve2d(raster, IMAGE, mode)
    result = lazy.correlate(raster, IMAGE, mode="wrap")
    with pytest.raises(AssertionError, match="computed"):
        result.compute()


@pytest.mark.parametrize("limit", [8, 500, 1 << 20])
def test_one_task_a_block(monkeypatch, limit):
    monkeypatch.setattr("tileconv.lazy.inputs.BLOCK_BYTES", limit)
    raster = np.ones((20, 15))
    for result in (lazy.convolve2d(raster, IMAGE), lazy.convolve(raster, IMAGE, mode="mirror")):
        # The engine and the pixels, which all tasks share, are nodes of data.
        assert len(result.__dask_graph__()) == result.npartitions + 2


def test_an_array_is_in_the_graph_once(monkeypatch):
    monkeypatch.setattr("tileconv.lazy.inputs.BLOCK_BYTES", 8_000)
    raster = np.arange(10_000.0).reshape(100, 100)
    result = lazy.convolve2d(raster, IMAGE, "same", "symm")
    assert result.npartitions > 4
    assert len(pickle.dumps(result)) < 1.5 * raster.nbytes
    np.testing.assert_array_equal(result, signal.convolve2d(raster, IMAGE, "same", "symm"))


def test_chunks_follow_the_input():
    raster = da.zeros((10, 9), chunks=((3, 0, 3, 4), (2, 5, 2)))
    kernel = np.ones((5, 4))
    assert lazy.convolve(raster, kernel).chunks == ((3, 3, 4), (2, 5, 2))
    assert lazy.convolve2d(raster, kernel, "same").chunks == ((3, 3, 4), (2, 5, 2))
    assert lazy.convolve2d(raster, kernel, "full").chunks == ((5, 3, 6), (3, 5, 4))
    assert lazy.convolve2d(raster, kernel, "valid").chunks == ((1, 3, 2), (5, 1))
    assert lazy.convolve2d(raster, kernel, "full").compute().shape == (14, 12)


@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_arrays_whose_insides_are_not_copied(mode, boundary):
    image = np.random.default_rng(0).normal(size=(67, 131)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(4, 7)).astype(np.float32)
    for raster in (image, image[::2, ::3], np.asfortranarray(image), image.astype(">f4")):
        got = lazy.convolve2d(raster, kernel, mode, boundary).compute()
        expected = signal.convolve2d(raster, kernel, mode, boundary)
        np.testing.assert_allclose(got, expected, atol=1e-4)
        # The same bits as from a file or a dask array, where every window is a copy.
        pieces = da.from_array(raster.astype(np.float32), chunks=(20, 31))
        copied = lazy.convolve2d(pieces, kernel, mode, boundary).compute()
        np.testing.assert_array_equal(got, copied)


def test_a_fill_value_the_pixels_cannot_hold_changes_no_bits():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120), np.uint8)
    kernel = rng.normal(size=(13, 13)) * (rng.random((13, 13)) < 0.7)
    given = {"mode": "constant", "cval": 0.5, "output": "f8", "method": "direct"}
    whole = lazy.convolve(image, kernel, **given).compute()
    pieces = lazy.convolve(da.from_array(image, chunks=50), kernel, **given).compute()
    np.testing.assert_array_equal(whole, pieces)


def test_large_arrays_are_not_hashed(monkeypatch):
    monkeypatch.setattr(inputs, "HASHED_BYTES", 100)
    image = np.ones((20, 20))
    first, second = (lazy.convolve2d(image, np.ones((3, 3))) for _ in range(2))
    assert first.name != second.name
    np.testing.assert_array_equal(first - second, 0)


def test_names_are_the_same_for_the_same_arguments():
    raster = da.from_array(IMAGE, chunks=2)
    name = lazy.convolve2d(raster, IMAGE).name
    assert lazy.convolve2d(raster, IMAGE.copy()).name == name
    others = [
        lazy.correlate2d(raster, IMAGE),
        lazy.convolve2d(raster, IMAGE + 1),
        lazy.convolve2d(raster + 1, IMAGE),
        lazy.convolve2d(raster, IMAGE, "same"),
        lazy.convolve2d(raster, IMAGE, boundary="symm"),
        lazy.convolve2d(raster, IMAGE, fillvalue=1),
        lazy.convolve2d(raster, IMAGE, method="reference"),
    ]
    assert len({name, *(other.name for other in others)}) == len(others) + 1


def test_graphs_survive_what_dask_does_with_them():
    raster = np.arange(63.0).reshape(7, 9)
    expected = signal.convolve2d(raster, IMAGE)
    result = lazy.convolve2d(da.from_array(raster, chunks=(2, 3)) * 1, IMAGE)
    np.testing.assert_array_equal(result[3:8, ::-2], expected[3:8, ::-2])
    np.testing.assert_array_equal((result + 1).rechunk(4).T, expected.T + 1)
    np.testing.assert_array_equal(result.persist(scheduler="threads"), expected)
    np.testing.assert_array_equal(dask.optimize(result)[0], expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(result)), expected)
    twice = lazy.convolve2d(result, IMAGE, "same")
    np.testing.assert_array_equal(twice, signal.convolve2d(expected, IMAGE, "same"))


def test_distributed():
    from distributed import Client, LocalCluster

    raster = np.arange(63.0).reshape(7, 9)
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False}
    with (
        LocalCluster(**options, protocol="inproc", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        for given_raster in (raster, da.from_array(raster, chunks=(2, 3))):
            result = lazy.convolve2d(given_raster, IMAGE, boundary="wrap")
            np.testing.assert_array_equal(
                result.compute(), signal.convolve2d(raster, IMAGE, boundary="wrap")
            )


IN_PLACE = """
import numpy as np
from scipy import ndimage, signal
import tileconv
x, k = np.arange(30.).reshape(5, 6), np.arange(6.).reshape(2, 3)
expected = signal.convolve2d(x, k), ndimage.correlate(x, k)
signal.convolve2d, signal.correlate2d = tileconv.convolve2d, tileconv.correlate2d
ndimage.convolve, ndimage.correlate = tileconv.convolve, tileconv.correlate
assert np.array_equal(signal.convolve2d(x, k), expected[0])
assert np.array_equal(ndimage.correlate(x, k), expected[1])
"""


def test_scipys_names_may_be_replaced_by_ours():
    subprocess.run([sys.executable, "-c", IN_PLACE], check=True, env=dict(os.environ))


# Values.


@pytest.mark.parametrize("name", ["convolve2d", "correlate2d"])
@pytest.mark.parametrize("method", ["auto", "direct", "fft"])
def test_double_precision_where_it_is_asked_for(name, method):
    y, x = np.mgrid[:90, :100]
    raster = (1500 + 0.4 * np.sin(x / 40) * np.cos(y / 30)).astype(np.float32)
    taps = np.exp(-(np.arange(-8, 9) ** 2) / 8)
    curve = (np.arange(-8, 9) ** 2 / 16 - 1 / 4) * taps
    weights = (np.outer(curve, taps) + np.outer(taps, curve)).astype(np.float32)
    want = getattr(signal, name)(raster.astype("f8"), weights.astype("f8"), "same", "symm")
    results = {
        accumulate: getattr(lazy, name)(
            raster, weights, "same", "symm", method=method, accumulate=accumulate
        )
        for accumulate in (None, "auto", "float64")
    }
    errors = {
        accumulate: np.abs(result.compute().astype("f8") - want).max()
        for accumulate, result in results.items()
    }
    assert {result.dtype for result in results.values()} == {np.dtype(np.float32)}
    assert errors["float64"] <= np.spacing(np.float32(np.abs(want).max()))
    assert errors[None] == errors["auto"] > 4 * errors["float64"]
    assert results[None].name == results["auto"].name != results["float64"].name


def test_double_precision_has_the_dtype_and_fill_value_of_scipy():
    rng = np.random.default_rng(0)
    raster = (rng.normal(size=(9, 8)) + 1j * rng.normal(size=(9, 8))).astype("c8")
    weights = np.ones((2, 3), "f4")
    got = lazy.convolve2d(raster, weights, fillvalue=0.1, accumulate="float64")
    want = signal.convolve2d(raster.astype("c16"), weights.astype("f8"), fillvalue=0.1)
    assert got.dtype == np.complex64
    np.testing.assert_array_equal(got.compute(), want.astype("c8"))
    # Integers wrap as scipy's do, and ndimage's sums are double anyway.
    whole = rng.integers(-99, 99, (9, 8), np.int8)
    got = lazy.convolve2d(whole, whole[:3, :3], accumulate="float64")
    np.testing.assert_array_equal(got, signal.convolve2d(whole, whole[:3, :3]))
    got = lazy.convolve(whole, weights, accumulate="float64")
    np.testing.assert_array_equal(got, ndimage.convolve(whole, weights))
    with pytest.raises(ValueError, match="'single'.*'auto', 'float64'"):
        lazy.convolve2d(whole, weights, accumulate="single")
    with pytest.raises(ValueError, match="'single'.*'auto', 'float64'"):
        lazy.correlate(whole, weights, accumulate="single")


@pytest.mark.parametrize("method", ["auto", "direct", "separable", "fft"])
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_what_scipy_keeps_finite_of_complex_pixels_stays_finite(method, dtype):
    raster = np.zeros((30, 40), dtype)
    raster[5, 6], raster[20, 30], raster[9, 25] = complex(np.inf, 2), complex(3, np.nan), np.inf
    weights = np.array([[1.0, 2, 0], [0, -1, 4]])
    with np.errstate(all="ignore"):
        expected = ndimage.convolve(raster, weights)
    if method == "separable":
        weights = weights[:1]
        expected = ndimage.convolve(raster, weights)
    got = lazy.convolve(da.from_array(raster, chunks=13), weights, method=method).compute()
    for part in ("real", "imag"):
        np.testing.assert_allclose(getattr(got, part), getattr(expected, part), atol=1e-12)


@pytest.mark.parametrize("fill", [0.1, -9999, 70000, 1e20])
def test_a_fill_value_of_half_precision_pixels(fill):
    raster = np.arange(12, dtype=np.float16).reshape(3, 4)
    weights = np.array([[0, 0, 1]], np.float32)
    got = lazy.convolve2d(raster, weights, fillvalue=fill).compute()
    np.testing.assert_array_equal(got, signal.convolve2d(raster, weights, fillvalue=fill))


@pytest.mark.parametrize("fill", [2.0**64, 2.0**63, -1.0, 0.5])
def test_a_fill_value_beyond_the_range_of_the_pixels(fill):
    raster = np.arange(12, dtype=np.uint64).reshape(3, 4)
    weights = np.array([[1.0, 2.0]])
    got = lazy.convolve2d(raster, weights, fillvalue=fill).compute()
    np.testing.assert_array_equal(got, signal.convolve2d(raster, weights, fillvalue=fill))
