"""Every pixel is judged by its own window: right outputs pass whatever they hold, wrong do not."""

import numpy as np
import pytest

import tileconv
from tileconv.errors import VerificationError

RNG = np.random.default_rng(0)
BLUR = np.outer(np.hanning(11)[1:-1], np.hanning(11)[1:-1]) / 20


def passes(job):
    tileconv.run(job)
    found = tileconv.verify(job, everything=True)
    assert found.passed
    return found


def caught(job):
    with pytest.raises(VerificationError) as error:
        tileconv.verify(job, everything=True)
    return error.value.verification.result


def raster(kind, shape=(90, 95)):
    pixels = (15 + RNG.random(shape)).astype(np.float32)
    match kind:
        case "hole of 1e20":
            pixels[30:33, 40:44] = 1e20
        case "hole of 1e12":
            pixels[30, 40] = 1e12
        case "lowest":
            pixels[30:50, 40:60] = -3.4028235e38
        case "decades":
            pixels = (10.0 ** RNG.uniform(-30, 30, shape)).astype(np.float32)
        case "zeros":
            pixels[:, 20:70] = 0
        case "denormal":
            pixels *= np.float32(1e-44)
        case "not finite":
            pixels[10, 20], pixels[50, 60:63], pixels[70, 3] = np.nan, np.inf, -np.inf
    return pixels


KINDS = [
    "even", "hole of 1e20", "hole of 1e12", "lowest", "decades", "zeros", "denormal", "not finite",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["direct", "separable", "fft", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_right_outputs_pass(job_of, kind, method, dtype):
    pixels = raster(kind).astype(dtype)
    passes(job_of(pixels, BLUR, convolution={"method": method}))


@pytest.mark.parametrize("kind", KINDS[:5])
@pytest.mark.parametrize("part", [4, 1000])
def test_an_error_of_a_few_bounds_is_caught_beside_anything(job_of, changed, kind, part):
    pixels = raster(kind)
    job = job_of(pixels, BLUR, convolution={"method": "direct"})
    tileconv.run(job)
    largest = np.abs(pixels[60:69, 70:79]).max()
    bound = 64 * 2.0**-23 * np.abs(BLUR).sum() * largest
    changed((64, 74), lambda value: value + np.float32(part * bound))
    found = caught(job)
    assert (found.wrong, found.worst.at) == (1, (0, 64, 74, 0))
    assert part / 2 < found.worst.units < part * 2


@pytest.mark.parametrize("method", ["direct", "separable"])
def test_where_the_window_holds_only_zeros_the_result_is_0(job_of, changed, method):
    job = job_of(raster("zeros"), BLUR, convolution={"method": method})
    tileconv.run(job)
    assert changed((40, 40), np.float32(1e-45)) == 0
    assert caught(job).worst.units == np.inf
    changed((40, 40), np.float32(-0.0))
    assert tileconv.verify(job, everything=True).passed


@pytest.mark.parametrize("shape", [(12, 13), (9, 5)])
@pytest.mark.parametrize("method", ["auto", "direct"])
def test_one_more_is_seen_in_exact_integers_beyond_2_to_the_40(job_of, changed, shape, method):
    rng = np.random.default_rng(1)
    pixels = rng.integers(-(2**31), 2**31, (90, 100)).astype(np.int32)
    weights = rng.integers(-(2**11), 2**11, shape)
    job = job_of(pixels, weights, convolution={"method": method}, output={"dtype": "int64"})
    passes(job)
    for at, by in (((0, 99), 1), ((45, 50), -1)):
        before = changed(at, lambda value, by=by: value + by)
        assert abs(int(before)) > 2**38
        found = caught(job)
        assert (found.wrong, found.error, found.worst.at) == (1, 1, (0, *at, 0))
        changed(at, before)


@pytest.mark.parametrize("dtypes", [("int64", "int64"), ("uint64", "uint64"), ("int64", "int8")])
def test_integers_of_64_bits_saturate(job_of, dtypes):
    info = np.iinfo(dtypes[0])
    pixels = RNG.integers(info.min, info.max, (60, 70), dtypes[0], endpoint=True)
    passes(job_of(pixels, [[2, -1, 3]], output={"dtype": dtypes[1]}))


@pytest.mark.parametrize(
    ("dtype", "output", "fill"),
    [
        *(("float16", None, fill) for fill in (0.1, -9999.0, 70000.0, 1e20)),
        ("float32", "int32", 16777217.0),
        ("float32", "int64", 16777217.0),
        ("uint8", "float32", 0.3),
        ("int16", None, 1e6),
    ],
)
def test_the_fill_value_counts_in_the_dtype_of_the_sums(job_of, dtype, output, fill):
    pixels = (RNG.random((40, 45)) * 50).astype(dtype)
    convolution = {"boundary": "fill", "fill_value": fill}
    given = {} if output is None else {"dtype": output}
    passes(job_of(pixels, [[1.0, 2.0, 1.0]] * 3, convolution=convolution, output=given))


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e38])
@pytest.mark.parametrize("method", ["direct", "fft"])
def test_weights_far_from_1(job_of, scale, method):
    pixels = (RNG.random((60, 61)) * 1e-3).astype(np.float32)
    passes(job_of(pixels, BLUR * scale, convolution={"method": method}))


def test_complex_weights_over_real_pixels_and_a_fill(job_of):
    weights = RNG.normal(size=(3, 4)) + 1j * RNG.normal(size=(3, 4))
    convolution = {"boundary": "fill", "fill_value": 2.5}
    passes(job_of(RNG.random((40, 45)), weights, convolution=convolution))


@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm", "nearest", "mirror"])
def test_kernels_much_larger_than_the_raster(job_of, boundary):
    pixels = RNG.integers(0, 255, (3, 7), np.uint8)
    convolution = {"boundary": boundary, "fill_value": 3.0, "origin": [4, -9]}
    passes(job_of(pixels, RNG.normal(size=(20, 31)), convolution=convolution))


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_complex_pixels_and_weights(job_of, changed, method):
    pixels = (RNG.normal(size=(60, 61)) + 1j * RNG.normal(size=(60, 61))).astype(np.complex64)
    pixels[20, 20] = complex(np.inf, 1)
    weights = RNG.normal(size=(3, 4)) + 1j * RNG.normal(size=(3, 4))
    job = job_of(pixels, weights, convolution={"method": method})
    passes(job)
    for value in (complex(np.nan, 1), complex(1, np.inf)):
        before = changed((40, 41), value)
        assert caught(job).wrong == 1
        changed((40, 41), before)
    before = changed((20, 20), 1 + 1j)
    assert np.isnan(before) or np.isinf(before)
    assert caught(job).wrong == 1


def test_an_infinity_where_sums_cannot_leave_the_range_is_caught(job_of, changed):
    job = job_of(raster("even"), BLUR * 1e30)
    tileconv.run(job)
    for value in (np.inf, np.nan):
        changed((50, 50), np.float32(value))
        assert caught(job).worst.at == (0, 50, 50, 0)


def test_long_double_is_judged_by_its_own_bound(job_of, tmp_path):
    pixels = RNG.normal(size=(20, 21)).astype(np.longdouble) / 3
    job = job_of(pixels, np.ones((3, 3)) / 9, output={"dtype": "float64"})
    passes(job)
