"""The values of jobs: fill values, exact integers, double precision, NaN; oracles are exact."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import zarr
from scipy import ndimage, signal

import tileconv
from tileconv.errors import ConfigError, MethodError, OutputExistsError
from tileconv.jobs.describe import plan_dict, plan_table
from tileconv.jobs.staging import stage

I8, U8 = np.iinfo(np.int64), np.iinfo(np.uint64)


def command(*arguments):
    """Exit code, stdout and stderr of a command."""
    words = [sys.executable, "-m", "tileconv", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def job_of(folder, pixels, weights, output=None, kernel=None, **convolution):
    """A job over pixels in memory, with weights in a list, into a Zarr."""
    np.save(folder / "in.npy", pixels)
    return {
        "input": {"path": str(folder / "in.npy")},
        "kernel": kernel or {"weights": weights},
        "convolution": {"boundary": "fill"} | convolution,
        "output": {"path": str(folder / "out.zarr"), "overwrite": True} | (output or {}),
        "run": {"memory": "1GiB", "workers": 2},
    }


def convolved(*arguments, **options):
    """The output of a job."""
    job = job_of(*arguments, **options)
    report = tileconv.run(job)
    return zarr.open_array(job["output"]["path"], mode="r")[...], report


def exact(pixels, weights, fill=0):
    """scipy's convolution, full, of Python's own integers."""
    rows, columns = (n + k - 1 for n, k in zip(pixels.shape, weights.shape, strict=True))
    (kr, kc), out = weights.shape, np.empty((rows, columns), object)
    padded = np.pad(pixels.astype(object), [(k - 1, k - 1) for k in (kr, kc)], constant_values=fill)
    flipped = weights.astype(object)[::-1, ::-1]
    for y, x in np.ndindex(rows, columns):
        out[y, x] = int((padded[y : y + kr, x : x + kc] * flipped).sum())
    return out


def as_dtype(numbers, dtype):
    """Whole numbers, clipped to the range of an integer dtype."""
    info = np.iinfo(dtype)
    return np.array([min(max(n, info.min), info.max) for n in numbers.flat], dtype).reshape(
        numbers.shape
    )


@pytest.mark.parametrize("fill", [0.1, -9999, 70000, 1e20, 0.5])
@pytest.mark.parametrize("dtype", ["float16", "uint8", "float32"])
def test_a_fill_value_is_rounded_to_the_accumulator_only(tmp_path, dtype, fill):
    pixels = np.arange(20).reshape(4, 5).astype(dtype)
    got, _ = convolved(tmp_path, pixels, [[0, 0, 1]], mode="full", fill_value=fill)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[:, :2], np.full((4, 2), fill, np.float32))
    np.testing.assert_array_equal(got[:, 2:], pixels.astype(np.float32))


@pytest.mark.parametrize("output", ["int32", "int64"])
def test_a_fill_value_of_a_float_raster_and_integer_sums(tmp_path, output):
    pixels = np.arange(20, dtype=np.float32).reshape(4, 5)
    options = {"mode": "full", "fill_value": 16777217}
    got, _ = convolved(tmp_path, pixels, [[1, 0, 2]], {"dtype": output}, **options)
    wide = signal.convolve2d(pixels.astype("f8"), [[1, 0, 2]], "full", "fill", 16777217)
    np.testing.assert_array_equal(got, wide.astype(output))


@pytest.mark.parametrize("fill", [-1, 2**53 + 1, 2**62 + 1, -(2**62)])
@pytest.mark.parametrize("dtype", ["int64", "uint16", "int8"])
def test_a_whole_fill_value_of_integers_is_exact(tmp_path, dtype, fill):
    info = np.iinfo(dtype)
    pixels = np.array([[info.min, 5, info.max], [7, 8, 9]], dtype)
    options = {"mode": "full", "fill_value": fill}
    got, report = convolved(tmp_path, pixels, [[0, 0, 1]], {"dtype": "int64"}, **options)
    np.testing.assert_array_equal(got, as_dtype(exact(pixels, np.array([[0, 0, 1]]), fill), "i8"))
    assert report.as_dict()["warnings"] == []


@pytest.mark.parametrize("fill", [0.5, float("nan")])
def test_sums_that_a_fractional_fill_value_is_not_in_are_exact(tmp_path, fill):
    pixels = np.random.default_rng(2).integers(2**15, 2**16, (60, 50), np.uint16)
    weights = np.full((20, 20), 7)
    weights[3, 3] = 1 - 399 * 7
    output = {"dtype": "uint16", "nan_fill": 0}
    got, _ = convolved(tmp_path, pixels, weights.tolist(), output, fill_value=fill)
    want = as_dtype(exact(pixels, weights)[9:-10, 9:-10], "u2")
    np.testing.assert_array_equal(got[10:-10, 10:-10], want[10:-10, 10:-10])
    whole = np.array([[2**62 + 1]])  # Which no kernel of one weight reads.
    got, report = convolved(tmp_path, whole, [[1]], {"dtype": "input"}, fill_value=fill)
    assert got == whole
    assert report.as_dict()["warnings"] == []


@pytest.mark.parametrize("method", ["auto", "direct", "separable", "reference", "fft"])
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_the_identity_of_integers(tmp_path, dtype, method):
    info = np.iinfo(dtype)
    numbers = [2**62 + 1, info.min, info.min + 1, info.max, info.max - 1, 0, 2**53 + 1]
    pixels = np.array([numbers], dtype)
    kernel = {"name": "identity"}
    output = {"dtype": "input"}
    got, report = convolved(tmp_path, pixels, None, output, kernel, method=method)
    np.testing.assert_array_equal(got, pixels)
    assert report.as_dict()["accumulator"] == dtype


def test_what_nan_becomes_is_exact(tmp_path):
    pixels = np.array([[1, np.nan, 3]])
    output = {"dtype": "int64", "nan_fill": 2**62 + 1}
    got, _ = convolved(tmp_path, pixels, [[1]], output)
    assert got.tolist() == [[1, 2**62 + 1, 3]]


@pytest.mark.parametrize("weights", [[[2**53 + 1, -(2**53 + 1)]], [[3, 2**60 + 1]]])
@pytest.mark.parametrize("written", ["mapping", "toml", "npy", "csv"])
def test_weights_above_2_to_the_53(tmp_path, weights, written):
    pixels = np.array([[1, 0, 1], [1, 1, 0]], bool)
    kernel = None
    if written == "npy":
        np.save(tmp_path / "k.npy", np.array(weights))
        kernel = {"file": str(tmp_path / "k.npy")}
    elif written == "csv":
        (tmp_path / "k.csv").write_text("\n".join(",".join(map(str, row)) for row in weights))
        kernel = {"file": str(tmp_path / "k.csv")}
    job = job_of(tmp_path, pixels, weights, {"dtype": "int64"}, kernel, mode="full")
    if written == "toml":
        config = tmp_path / "job.toml"
        config.write_text(
            f'[input]\npath = "in.npy"\n[kernel]\nweights = {weights}\n[convolution]\n'
            'boundary = "fill"\nmode = "full"\n[output]\npath = "out.zarr"\ndtype = "int64"\n'
        )
        job = config
    tileconv.run(job)
    got = zarr.open_array(tmp_path / "out.zarr", mode="r")[...]
    np.testing.assert_array_equal(got, as_dtype(exact(pixels, np.array(weights)), "i8"))


def test_weights_that_no_dtype_holds(tmp_path):
    pixels = np.zeros((2, 2), np.uint8)
    for weights, message in (
        ([[2**64 + 1, 1]], "neither float64 nor a 64-bit integer"),
        ([[2**63 + 1, -1]], "neither float64 nor a 64-bit integer"),
        ([[10**400]], "beyond 1.8e308"),
    ):
        with pytest.raises(ConfigError, match=message):
            tileconv.plan(job_of(tmp_path, pixels, weights))
    with pytest.raises(ConfigError, match=r"convolution\.fill_value.*beyond"):
        tileconv.plan(job_of(tmp_path, pixels, [[1]], fill_value=10**400))


WIDE = [
    (given, output, method)
    for given, output in (("int64", "int64"), ("uint32", "uint64"), ("uint32", "int64"))
    for method in ("auto", "direct", "fft")
]


@pytest.mark.parametrize(("given", "output", "method"), WIDE)
def test_large_whole_kernels_are_exact_by_every_method(tmp_path, given, output, method):
    """TOML's weights are floats; transforms take pixels in pieces of 16 bits."""
    rng = np.random.default_rng(3)
    info = np.iinfo(given)
    pixels = rng.integers(info.min, info.max, (150, 170), given, endpoint=True)
    weights = rng.integers(0, 2, (21, 24))
    weights[3, 4] = -1 if output == "int64" else 2
    if given == "int64":  # 2**63 times more than 1 is not known to fit: one weight, far away.
        weights = np.eye(1, 470).reshape(47, 10)
    weights = weights.astype(float)
    got, _ = convolved(tmp_path, pixels, weights.tolist(), {"dtype": output}, method=method)
    want = signal.convolve2d(pixels.astype(output), weights.astype(output), "same")  # Wraps.
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_sums_that_do_not_fit_are_not_put_together_of_pieces(tmp_path, dtype):
    """They would wrap; directly they saturate, and those up to 2**53 are exact."""
    pixels = np.full((90, 80), np.iinfo(dtype).max, dtype)
    pixels[30:, :] = np.arange(60 * 80).reshape(60, 80)
    weights = np.ones((25, 26))
    with pytest.raises(MethodError, match="^fft: "):
        tileconv.plan(job_of(tmp_path, pixels, weights.tolist(), {"dtype": "input"}, method="fft"))
    got, report = convolved(tmp_path, pixels, weights.tolist(), {"dtype": "input"}, boundary="symm")
    assert (got[:15] == np.iinfo(dtype).max).all()
    part = np.pad(pixels[30:].astype("i8"), [(0, 0), (13, 12)], "symmetric")
    want = signal.convolve2d(part, weights.astype("i8"), "valid")
    np.testing.assert_array_equal(got[43 : 43 + 30], want[1:31, : got.shape[1]])
    assert report.as_dict()["accumulator"] == "float64"


def test_sums_that_fit_64_bit_integers_are_transformed_in_pieces(tmp_path):
    rng = np.random.default_rng(4)
    pixels = rng.integers(-(2**31), 2**31, (200, 230), np.int32)
    weights = rng.integers(-(2**12), 2**12, (40, 41)).astype(float)
    weights[0, 0] = 2.0**21
    job = job_of(tmp_path, pixels, weights.tolist(), {"dtype": "int64"}, boundary="wrap")
    plan = tileconv.plan(job)
    assert (plan.work.choice.method, plan.work.choice.limbs) == ("fft", 2)
    tileconv.run(job)
    got = zarr.open_array(tmp_path / "out.zarr", mode="r")[...]
    want = signal.convolve2d(pixels.astype("i8"), weights.astype("i8"), "same", "wrap")
    np.testing.assert_array_equal(got, want)


def test_no_tiling_shows_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 1)
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 2**32, (300, 310), np.uint32)
    output = {"dtype": "uint64", "tile": 64}
    weights = rng.integers(0, 9, (33, 34)).tolist()
    got, _ = convolved(tmp_path, pixels, weights, output, method="fft")
    want = signal.convolve2d(pixels.astype("u8"), np.array(weights, "u8"), "same")
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_sums_that_may_round_are_told(tmp_path, dtype):
    """No accumulator holds 9 pixels of 64 bits: those up to 2**53 are exact all the same."""
    phrase = "sums may round above 2^53"
    pixels = np.array([[2**49 + 1, 3, 2**49 + 7], [1, 2, 3]], dtype)
    weights = [[1.0, 2.0, 1.0], [2.0, 3.0, 2.0]]
    job = job_of(tmp_path, pixels, weights, {"dtype": "input"}, mode="full")
    plan = tileconv.plan(job)
    assert phrase in plan_table(plan, 0)
    assert phrase in plan_dict(plan)["warnings"][0]
    report = tileconv.run(job)
    assert phrase in json.dumps(report.as_dict())
    got = zarr.open_array(job["output"]["path"], mode="r")[...]
    np.testing.assert_array_equal(got, as_dtype(exact(pixels, np.array(weights)), dtype))
    np.save(tmp_path / "k.npy", np.array(weights))
    source, kernel = str(tmp_path / "in.npy"), str(tmp_path / "k.npy")
    given = [source, str(tmp_path / "b.zarr"), "--kernel", kernel, "--dtype", "input"]
    code, _, told = command("convolve", *given)
    assert (code, phrase in told) == (0, True)
    code, told, _ = command("plan", source, tmp_path / "c.zarr", *given[2:])
    assert (code, phrase in told) == (0, True)
    # Fractions and floats are not whole sums, and 32 bits are exact.
    for weights, output, given in (
        ([[0.5, 1]], {"dtype": "input"}, pixels),
        ([[1, 1]], {}, pixels),
        ([[1, 1]], {"dtype": "int64"}, pixels.astype("i4")),
    ):
        assert tileconv.plan(job_of(tmp_path, given, weights, output)).work.warnings == ()


@pytest.mark.parametrize("method", ["auto", "direct", "separable", "fft"])
def test_the_curvature_of_an_elevation_model(tmp_path, method):
    """A curvature of 4e-5 on 1500: within 1e-9 in double precision; the dtype stays."""
    y, x = np.mgrid[:160, :200]
    pixels = (1500 + 0.4 * np.sin(x / 90) * np.cos(y / 80)).astype(np.float32)
    kernel = {"name": "gaussian_laplace", "sigma": 2}
    want = ndimage.gaussian_laplace(pixels.astype(np.float64), 2)
    errors = {}
    for accumulate, dtype in itertools.product(("auto", "float64"), (None, "float64")):
        output = {} if dtype is None else {"dtype": dtype}
        options = {"accumulate": accumulate, "method": method, "boundary": "symm"}
        got, report = convolved(tmp_path, pixels, None, output, kernel, **options)
        assert got.dtype == np.dtype(dtype or np.float32)
        sums = "float64" if accumulate == "float64" else "float32"
        assert report.as_dict()["accumulator"] == sums
        errors[accumulate, dtype] = np.abs(got - want).max()
    assert errors["float64", "float64"] < 1e-9
    assert errors["float64", None] < 2e-8  # The output's own rounding: the kernel's sum is not 0.
    assert errors["auto", "float64"] > 1e-7


def test_accumulate_on_the_command_line(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((5, 5), np.float16))
    given = [str(tmp_path / "a.npy"), str(tmp_path / "b.zarr"), "--kernel", "box:size=3"]
    code, out, _ = command("plan", *given, "--accumulate", "float64", "--json")
    assert code == 0
    found = json.loads(out)
    found = found[0] if isinstance(found, list) else found
    assert found["accumulator"] == "float64"
    assert found["output"]["dtype"] == "float32"
    assert command("plan", *given, "--accumulate", "float32")[0] == 2
    code, _, told = command("plan", *given, "--boundary", "fill", "--fill-value", "many")
    assert code == 2
    assert "'many' is not a number" in told


def staged(monkeypatch, job):
    """Leave an unfinished run of a job behind."""
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError(28, "No space left on device")

        patch.setattr("tileconv.jobs.staging.rename_if_free", fail)
        with pytest.raises(tileconv.TileconvError, match="No space left"):
            tileconv.run(job)


def test_another_accumulator_does_not_go_on(tmp_path, monkeypatch):
    job = job_of(tmp_path, np.ones((9, 9), np.float32), [[1, 2]], {"overwrite": False})
    staged(monkeypatch, job)
    job["convolution"]["accumulate"] = "float64"
    with pytest.raises(OutputExistsError, match="direct in float32.*direct in float64"):
        tileconv.run(job)
    job["convolution"]["accumulate"] = "auto"
    assert tileconv.run(job).resumed_tiles == 1


def test_a_run_staged_by_another_version_is_refused_by_both_names(tmp_path, monkeypatch):
    job = job_of(tmp_path, np.ones((9, 9), np.float32), [[1, 2]], {"overwrite": False})
    with monkeypatch.context() as patch:
        patch.setattr("tileconv.jobs.fingerprint.__version__", "0.1.0")
        staged(monkeypatch, job)
    config = tmp_path / "job.toml"
    config.write_text(
        '[input]\npath = "in.npy"\n[kernel]\nweights = [[1, 2]]\n[convolution]\n'
        'boundary = "fill"\n[output]\npath = "out.zarr"\n[run]\nmemory = "1GiB"\nworkers = 2\n'
    )
    code, _, told = command("run", config)
    assert code == 4
    assert f"tileconv 0.1.0, this is tileconv {tileconv.__version__}" in told
    assert "--restart" in told
    assert not (tmp_path / "out.zarr").exists()
    with stage(tmp_path / "out.zarr", overwrite=False) as left:  # What it has done is still there.
        assert (left.folder / "journal").exists()
    assert command("run", config, "--restart")[0] == 0
    assert tileconv.__version__ != "0.1.0"


SPECIAL = [np.nan, -np.nan, np.inf, -np.inf, complex(np.inf, 1), complex(1, np.nan), 1j * np.inf]


@pytest.mark.parametrize("dtype", ["complex64", "float32", "complex128"])
@pytest.mark.parametrize("method", ["direct", "separable", "fft", "reference"])
def test_no_tiling_shows_in_nan(tmp_path, monkeypatch, method, dtype):
    rng = np.random.default_rng(8)
    pixels = rng.normal(size=(180, 190)) + 1j * rng.normal(size=(180, 190))
    with np.errstate(all="ignore"):
        pixels = (pixels if dtype.startswith("c") else pixels.real).astype(dtype)
        special = np.array(SPECIAL)
        special = (special if dtype.startswith("c") else special.real).astype(dtype)
    at = rng.random(pixels.shape) < 0.003
    pixels[at] = rng.choice(special, int(at.sum()))
    # The other sign of NaN, and another payload.
    raw = pixels.view(f"u{pixels.real.itemsize}")
    nans = np.flatnonzero(np.isnan(pixels.view(pixels.real.dtype)))
    raw.flat[nans[::2]] ^= raw.dtype.type(1 << (8 * raw.itemsize - 1))
    raw.flat[nans[::3]] |= raw.dtype.type(5)
    weights = np.outer([1.5, -2, 0, 1], [1, 0.5, -3]).tolist()
    found = set()
    for tile, most, memory in ((16, 1, "2GiB"), (48, 1, "3GiB"), (1001, 1 << 30, "4GiB")):
        monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", most)
        monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 1)
        job = job_of(tmp_path, pixels, weights, {"tile": tile}, method=method, boundary="symm")
        job["run"]["memory"] = memory
        tileconv.run(job)
        got = zarr.open_array(job["output"]["path"], mode="r")[...]
        assert np.isnan(got).any()
        found.add(got.tobytes())
    assert len(found) == 1
    # All of one sign, and finite where scipy's are, in either part.
    parts = got.view(got.real.dtype)
    assert not np.signbit(parts[np.isnan(parts)]).any()
    with np.errstate(all="ignore"):
        padded = np.pad(pixels, [(4, 4), (4, 4)], "symmetric").astype(np.clongdouble)
        want = signal.convolve2d(padded if dtype.startswith("c") else padded.real, weights, "same")
    want = want[4:-4, 4:-4]
    for a, b in ((got.real, want.real), (got.imag, want.imag)):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        finite = np.isfinite(b)
        assert np.abs(a[finite] - b[finite]).max() < 1e-4


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
def test_half_precision_overflows_where_it_must(tmp_path, method):
    """Sums up to 65519 are float16 numbers, those beyond are infinite; none is NaN."""
    pixels = np.full((40, 50), 60000, np.float16)
    pixels[10:20, 10:20], pixels[30, 30] = -60000, np.inf
    weights = np.outer([0.5, 0.5, 0.25], [0.5, 0.5, 0.25])
    output = {"dtype": "float16"}
    options = {"method": method, "boundary": "symm"}
    got, report = convolved(tmp_path, pixels, weights.tolist(), output, **options)
    want = signal.convolve2d(pixels.astype("f8"), weights, "same", "symm")
    with np.errstate(over="ignore"):
        expected = want.astype(np.float16)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    np.testing.assert_array_equal(got, expected)
    assert report.clipped == np.count_nonzero(np.isinf(expected) & np.isfinite(want))


@pytest.mark.parametrize(
    ("dtype", "pixel", "weights"),
    [
        ("float32", 1e20, [[1e-40, 1e-41]]),
        ("float32", 1e20, [[1e-46, 1e-47]]),
        ("uint16", 60000, [[1e-44, 3e-45]]),
        ("float32", 1e-10, [[1e40, 1.0]]),
        ("float32", 1e30, [[1e-44, 1e-45], [3e-42, 0.0]]),
        ("float32", 1e-30, [[3e38] * 3] * 3),
        ("float64", 1e-30, [[1e308, 1e308], [1.7e308, -1e308]]),
    ],
)
def test_weights_that_the_pixels_dtype_cannot_hold(tmp_path, dtype, pixel, weights):
    """They are summed in double precision, so that the bound holds of the weights as written."""
    pixels = np.full((40, 40), pixel, dtype)
    pixels[:, 20:] = 0
    job = job_of(tmp_path, pixels, weights, {"dtype": "float64"}, mode="valid")
    tileconv.run(job)
    got = zarr.open_array(job["output"]["path"], mode="r")[...]
    want = signal.convolve2d(
        pixels.astype(np.longdouble), np.array(weights, np.longdouble), "valid"
    )
    most = 64 * np.finfo(np.float32).eps * np.abs(np.array(weights, np.longdouble)).sum() * pixel
    assert np.abs(got - want).max() <= most / 1000
    assert tileconv.verify(job, everything=True).passed


@pytest.mark.parametrize("fill", [np.inf, -np.inf, np.nan])
def test_fill_values_that_are_no_numbers_around_integers(tmp_path, fill):
    weights = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    pixels = np.random.default_rng(9).integers(0, 255, (30, 40)).astype(np.uint8)
    output = {"dtype": "int16", "nan_fill": 0}
    job = job_of(tmp_path, pixels, weights, output, boundary="fill", fill_value=fill)
    tileconv.run(job)
    got = zarr.open_array(job["output"]["path"], mode="r")[1:-1, 1:-1]
    want = signal.convolve2d(pixels.astype(int), weights, "valid")
    np.testing.assert_array_equal(got, want)
    assert tileconv.verify(job, everything=True).passed
