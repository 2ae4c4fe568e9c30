"""Outputs that are right pass; a wrong kernel, edge rule, shift or single pixel does not."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tileconv
from tileconv.core.grid import TileGrid
from tileconv.errors import ConfigError, InputError, MemoryCapError, VerificationError
from tileconv.verification.sampling import is_unit, sampled

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (300, 420), np.uint8)
WEIGHTS = RNG.normal(size=(4, 3)).round(2)
"""Nothing about it is symmetric."""
TILE = 32


def write(path, pixels, **options):
    """A raster as another program writes it."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, tile=(TILE, TILE), **options)
    elif path.suffix == ".npy":
        np.save(path, pixels)
    else:
        chunks = tuple(TILE if n > 3 else n for n in pixels.shape)
        zarr.create_array(path, shape=pixels.shape, dtype=pixels.dtype, chunks=chunks)[...] = pixels
    return path


def read(path):
    return tifffile.imread(path) if path.suffix == ".tif" else zarr.open_array(path, mode="r")[...]


def replace(path, pixels):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    options = {"photometric": "rgb"} if pixels.ndim == 3 and pixels.shape[2] == 3 else {}
    write(path, pixels, **options or {"photometric": "minisblack"})


def job_of(source, path, weights=WEIGHTS, **tables):
    return {
        "input": {"path": str(source)},
        "kernel": {"weights": np.asarray(weights).tolist()},
        "convolution": tables.get("convolution", {}),
        "output": {"path": str(path), "tile": TILE, "overwrite": True} | tables.get("output", {}),
        "run": {"memory": "1GiB", "workers": 2} | tables.get("run", {}),
    }


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 1)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.tif", PIXELS)


def caught(job, **options):
    """The verification of an output that must not pass."""
    with pytest.raises(VerificationError) as error:
        tileconv.verify(job, **options)
    assert error.value.exit_code == 9
    assert error.value.verification is None or not error.value.verification.passed
    return error.value


FAULTS = {
    "kernel": ({}, WEIGHTS + 0.01 * np.eye(4, 3)),
    "flip": ({"operation": "correlate"}, WEIGHTS),
    "transposed": ({}, WEIGHTS.T),
    "shift": ({"origin": [0, 1]}, WEIGHTS),
    "edge rule": ({"boundary": "mirror"}, WEIGHTS),
    "fill": ({"boundary": "fill", "fill_value": 1}, WEIGHTS),
    "wrap": ({"boundary": "wrap"}, WEIGHTS),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("suffix", "dtype", "method"),
    [
        (".tif", "float32", "auto"),
        (".zarr", "uint8", "auto"),
        (".zarr", "float32", "fft"),
        (".tif", "uint8", "fft"),
    ],
)
def test_a_job_that_was_another_is_caught(tmp_path, source, fault, suffix, dtype, method):
    convolution, weights = FAULTS[fault]
    output = {"dtype": dtype}
    done = job_of(source, tmp_path / f"out{suffix}", convolution={"method": method}, output=output)
    tileconv.run(done)
    assert tileconv.verify(done, samples=0).passed
    options = {"convolution": convolution | {"method": method}, "output": output}
    said = job_of(source, tmp_path / f"out{suffix}", weights, **options)
    error = caught(said, samples=0)
    assert "times the bound" in str(error)
    assert "\n" not in str(error)
    found = error.verification.result
    assert found.worst.units > 1
    expected = read(tmp_path / f"out{suffix}")[found.worst.at[1:3]]
    assert found.worst.found == expected


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".tif", "float32"), (".zarr", "uint8"), (".zarr", "int32"), (".tif", "float64")],
)
@pytest.mark.parametrize("place", ["corner", "edge", "last tile", "border of four"])
def test_one_changed_pixel_is_caught_where_it_is_looked_for(tmp_path, source, suffix, dtype, place):
    output = tmp_path / f"out{suffix}"
    job = job_of(source, output, output={"dtype": dtype})
    tileconv.run(job)
    good = read(output)
    rows, columns = good.shape
    grid = TileGrid(good.shape, (TILE, TILE))
    at = {
        "corner": [(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)],
        "edge": [(0, 5), (rows - 1, 17), (11, 0), (3, columns - 1)],
        "last tile": [(rows - 3, columns - 2)],
        # Wherever the sample has looked across one.
        "border of four": [
            border.region.start for border in sampled(grid, 16, 0) if not is_unit(grid, border)
        ][:3],
    }[place]
    assert at
    for row, column in at:
        bad = good.copy()
        if bad.dtype.kind == "f":
            bad[row, column] += 4096 * np.spacing(np.abs(bad).max().astype(np.float32))
        else:
            bad[row, column] ^= 1
        replace(output, bad)
        found = caught(job).verification.result
        assert found.wrong == 1
        assert found.worst.at == (0, row, column, 0)
        assert found.worst.found == bad[row, column]
        assert found.worst.expected == pytest.approx(good[row, column], abs=1e-2)
    replace(output, good)
    assert tileconv.verify(job).passed


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.tuples(st.integers(0, 299), st.integers(0, 419)), method=st.sampled_from([0, 1]))
def test_everything_catches_any_pixel(tmp_path, source, place, method):
    output = tmp_path / "out.zarr"
    weights = WEIGHTS if method else np.outer(np.hanning(33), np.hanning(20)[1:]) / 160
    job = job_of(source, output, weights, output={"dtype": "uint8"})
    tileconv.run(job)
    zarr.open_array(output, mode="r+")[place] ^= 1
    found = caught(job, everything=True).verification
    assert found.pixels == found.pixels_total == 300 * 420
    assert (found.result.wrong, found.result.worst.at) == (1, (0, *place, 0))


def test_a_sample_is_a_sample(tmp_path, source):
    output = tmp_path / "out.zarr"
    job = job_of(source, output)
    tileconv.run(job)
    first, again = (tileconv.verify(job, samples=3, seed=1) for _ in range(2))
    assert first.result == again.result
    assert 10 < first.tiles < first.tiles_total == 10 * 14
    assert first.borders > 0
    assert first.pixels < first.pixels_total
    # Whatever cap and workers.
    other = job | {"run": {"memory": "3GiB", "workers": 1}}
    assert tileconv.verify(other, samples=3, seed=1).result == first.result
    whole = tileconv.verify(job, samples=1000)
    assert whole.pixels == whole.pixels_total
    assert whole.tiles == whole.tiles_total
    assert whole.result == tileconv.verify(job, everything=True).result


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    kernel=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    dtypes=st.sampled_from(
        [
            *(("uint8", None), ("uint8", "uint8"), ("uint16", "int16"), ("int32", "int64")),
            *(("int64", "uint64"), ("float32", "float16"), ("float64", None), ("float16", None)),
            *(("float32", "uint8"), ("complex64", None), ("float32", "complex128")),
        ]
    ),
    integral=st.booleans(),
    mode=st.sampled_from(["same", "full", "valid"]),
    boundary=st.sampled_from(["symm", "wrap", "fill", "nearest", "mirror"]),
    operation=st.sampled_from(["convolve", "correlate"]),
    method=st.sampled_from(["auto", "fft", "direct"]),
    seed=st.integers(0, 9),
)
def test_what_jobs_write_passes(
    tmp_path, shape, kernel, dtypes, integral, mode, boundary, operation, method, seed
):
    if mode == "valid" and any(k > n for k, n in zip(kernel, shape, strict=True)):
        return
    rng = np.random.default_rng(seed)
    pixels = rng.normal(scale=90, size=shape)
    pixels = (np.abs(pixels) if dtypes[0][0] == "u" else pixels).astype(dtypes[0])
    weights = rng.integers(-9, 9, kernel) if integral else rng.normal(size=kernel)
    np.save(tmp_path / "in.npy", pixels)
    convolution = {"mode": mode, "boundary": boundary, "operation": operation, "method": method}
    output = {} if dtypes[1] is None else {"dtype": dtypes[1]}
    convolution["fill_value"] = 2.5
    job = job_of(
        tmp_path / "in.npy",
        tmp_path / "out.zarr",
        weights,
        convolution=convolution,
        output=output,
    )
    try:
        tileconv.run(job)
    except ConfigError:  # A transform that cannot be exact is refused.
        assert method == "fft"
        return
    found = tileconv.verify(job, samples=2)
    assert found.passed
    assert tileconv.verify(job, everything=True).pixels == found.pixels_total


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize(("size", "dtype"), [(5, "float32"), (5, "uint8"), (31, "float32")])
def test_missing_data(tmp_path, method, size, dtype):
    """NaN, infinities and -3.4e38 pass where they belong, and hide nothing elsewhere."""
    pixels = RNG.random((300, 310)).astype(np.float32) * 200
    pixels[200, 210], pixels[5:9, 160:170] = np.nan, np.inf
    pixels[250:270, 100:120] = -3.4028235e38
    pixels[100, 40] = -np.inf
    # A laplacian's sums of -3.4e38 leave float32's range on the way.
    ramp = np.arange(size) / size**2
    weights = np.outer(ramp, ramp[1:] - 0.01)
    source, output = write(tmp_path / "in.npy", pixels), tmp_path / "out.zarr"
    options = {"dtype": dtype} | ({"nan_fill": 3} if dtype == "uint8" else {})
    job = job_of(source, output, weights, convolution={"method": method}, output=options)
    tileconv.run(job)
    assert tileconv.verify(job, everything=True).passed
    good = read(output)
    for place in ((200, 211), (6, 165), (100, 41), (260, 110), (150, 200), (262, 132)):
        bad = good.copy()
        old = bad[place]
        bad[place] = (old ^ 1) if dtype == "uint8" else (0 if not np.isfinite(old) else old + 9)
        if place in ((260, 110), (262, 132)) and dtype == "float32":
            bad[place] = old / 2 if abs(old) > 1e30 else old + 9
        replace(output, bad)
        worst = caught(job, everything=True).verification.result.worst
        assert worst.at[1:3] == place


def test_sums_that_leave_the_range_on_the_way_pass(tmp_path):
    pixels = np.full((90, 90), -3.4028235e38, np.float32)
    pixels[:40] = RNG.random((40, 90))
    source = write(tmp_path / "in.npy", pixels)
    job = job_of(source, tmp_path / "out.zarr", [[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    tileconv.run(job)
    assert not np.isfinite(read(tmp_path / "out.zarr")).all()
    assert tileconv.verify(job, everything=True).passed


@pytest.mark.parametrize("method", ["direct", "separable", "fft", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_one_sided_overflow_excuses_nothing_else(tmp_path, method, dtype):
    """A box over -3.4e38 may reach -inf, where it is all there is; never inf, NaN or 0."""
    pixels = RNG.random((60, 70)).astype(np.float32) * 100
    pixels[20:40, 30:50] = -3.4028235e38
    source, output = write(tmp_path / "in.npy", pixels), tmp_path / "out.zarr"
    options = {"convolution": {"method": method}, "output": {"dtype": dtype}}
    job = job_of(source, output, np.full((3, 4), 1 / 12), **options)
    tileconv.run(job)
    assert tileconv.verify(job, everything=True).passed
    stored = zarr.open_array(output, mode="r+")
    # Inside, at the edge, at the corner: 12, 4 and 1 of them under the kernel.
    for place in ((30, 40), (30, 52), (19, 29)):
        good = stored[place]
        faults = (0, 32767) if dtype == "int16" else (np.nan, np.inf)
        if dtype == "float32" and place != (30, 40):
            faults += (-np.inf,)
        for fault in faults:
            stored[place] = fault
            found = caught(job, everything=True).verification
            assert (found.result.wrong, found.result.worst.at) == (1, (0, *place, 0))
            if dtype == "float32":
                assert found.result.worst.units == np.inf
                assert found.as_dict()["worst"]["error_in_bounds"] is None
        stored[place] = good
    stored[30, 40] = -32768 if dtype == "int16" else -np.inf
    assert tileconv.verify(job, everything=True).passed


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
def test_sums_of_terms_that_cancel_may_overflow_where_the_kernel_would_not(tmp_path, method):
    pixels = np.where(RNG.random((60, 70)) < 0.3, -3.4028235e38, RNG.random((60, 70)))
    source = write(tmp_path / "in.npy", pixels.astype(np.float32))
    gap = np.ones((9, 8))
    gap[2:7, 3:6] = 0
    for scale in (0.1, 0.4, 1):
        path = tmp_path / f"{scale}.zarr"
        job = job_of(source, path, gap * scale, convolution={"method": method})
        tileconv.run(job)
        assert tileconv.verify(job, everything=True).passed


@pytest.mark.parametrize("method", ["direct", "fft"])
def test_complex_pixels_beyond_the_range_of_magnitudes_pass(tmp_path, method):
    """3e38 in both parts is finite, its magnitude in single precision is not."""
    pixels = (RNG.random((60, 70)) + 1j * RNG.random((60, 70))).astype(np.complex64)
    pixels[30:33, 30:33] = 3e38 + 3e38j
    source = write(tmp_path / "in.npy", pixels)
    weights = [[0.1, 0.2, 0.1], [0.1, 0.3, 0.1]]
    job = job_of(source, tmp_path / "out.zarr", weights, convolution={"method": method})
    tileconv.run(job)
    assert tileconv.verify(job, everything=True).passed


def test_whole_numbers_are_exact_also_where_the_bound_is_wide(tmp_path):
    pixels = RNG.integers(-(2**31), 2**31, (90, 100))
    weights = RNG.integers(-(2**14), 2**14, (5, 6))
    source = write(tmp_path / "in.npy", pixels.astype(np.int32))
    job = job_of(source, tmp_path / "out.zarr", weights, output={"dtype": "int64"})
    tileconv.run(job)
    assert tileconv.verify(job).passed
    zarr.open_array(tmp_path / "out.zarr", mode="r+")[0, 99] += 1
    found = caught(job).verification.result
    assert (found.wrong, found.error, found.worst.at) == (1, 1, (0, 0, 99, 0))


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_bands_and_planes(tmp_path, suffix):
    rgb, stack = PIXELS[:90, :140, None].repeat(3, 2), RNG.random((5, 70, 80)).astype("f4")
    rgb[..., 1:] = 255 - rgb[..., 1:] // 2
    rgb[..., 2] //= 3
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    places = {"rgb": ((88, 3, 1), (0, 88, 3, 1)), "stack": ((4, 0, 79), (4, 0, 79, 0))}
    for name, (at, where) in places.items():
        output = tmp_path / f"{name}-out{suffix}"
        job = job_of(tmp_path / f"{name}.tif", output)
        tileconv.run(job)
        found = tileconv.verify(job, samples=0)
        assert found.passed
        assert found.pixels_total == (90 * 140 if name == "rgb" else 5 * 70 * 80)
        bad = read(output).copy()
        bad[at] += 1
        replace(output, bad)
        assert caught(job, samples=0).verification.result.worst.at == where
        # Swapped bands, or planes.
        tileconv.run(job)
        good = read(output)
        replace(output, np.ascontiguousarray(good[::-1] if name == "stack" else good[..., ::-1]))
        assert caught(job, samples=0).verification.result.wrong > 1


def test_shape_and_dtype_come_first(tmp_path, source):
    job = job_of(source, tmp_path / "out.zarr")
    tileconv.run(job)
    error = caught(job | {"convolution": {"mode": "full"}})
    assert "is 300 x 420 float32, the job writes 303 x 422 float32" in str(error)
    error = caught(job | {"output": job["output"] | {"dtype": "uint8"}})
    assert "300 x 420 uint8" in str(error)


def test_an_output_that_cannot_be_read_is_not_right(tmp_path, source):
    job = job_of(source, tmp_path / "out.zarr")
    tileconv.run(job)
    shards = sorted(path for path in (tmp_path / "out.zarr" / "c").rglob("*") if path.is_file())
    first = shards[0].read_bytes()
    shards[0].write_bytes(first[:100])
    assert "out.zarr" in str(caught(job))
    shards[0].unlink()
    error = caught(job)
    assert "is absent; run the job again" in str(error)
    assert "--missing" not in str(error)
    job = job_of(source, tmp_path / "out.tif")
    tileconv.run(job)
    data = (tmp_path / "out.tif").read_bytes()
    (tmp_path / "out.tif").write_bytes(data[:-5000])
    assert "out.tif" in str(caught(job))
    (tmp_path / "out.tif").write_bytes(b"nothing that is a raster")
    error = caught(job)
    assert f"output {tmp_path / 'out.tif'} is of no format" in str(error)
    assert "input" not in str(error)


def test_what_is_not_there_and_what_does_not_fit(tmp_path, source):
    job = job_of(source, tmp_path / "out.zarr")
    with pytest.raises(ConfigError, match="out.zarr does not exist; run the job first"):
        tileconv.verify(job)
    tileconv.run(job)
    with pytest.raises(ConfigError, match="samples"):
        tileconv.verify(job, samples=-1)
    with pytest.raises(MemoryCapError, match="the smallest that can"):
        tileconv.verify(job | {"run": {"memory": "30MiB"}})
    with pytest.raises(ConfigError, match="gone.tif does not exist"):
        tileconv.verify(job | {"input": {"path": str(tmp_path / "gone.tif")}})
    source.write_bytes(source.read_bytes()[:-3000])
    with pytest.raises(InputError, match="in.tif"):
        tileconv.verify(job)


def test_made_up_inputs_and_empty_rasters(tmp_path):
    job = {
        "input": {"sample": "zoneplate", "shape": "200x300x3"},
        "kernel": {"name": "gaussian", "sigma": 4.0},
        "output": {"path": str(tmp_path / "out.zarr"), "dtype": "uint8"},
    }
    tileconv.run(job)
    assert tileconv.verify(job).passed
    assert (
        caught(job | {"input": job["input"] | {"sample": "step"}}).verification.result.wrong > 1000
    )
    np.save(tmp_path / "none.npy", np.ones((0, 7), np.float32))
    job = job_of(tmp_path / "none.npy", tmp_path / "none.zarr")
    tileconv.run(job)
    assert tileconv.verify(job).pixels == tileconv.verify(job, everything=True).pixels == 0


def test_a_verification_tells_itself_in_plain_numbers(tmp_path, source):
    job = job_of(source, tmp_path / "out.zarr")
    tileconv.run(job)
    told = tileconv.verify(job).as_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["passed"]
    assert 0 < told["largest_error_in_bounds"] < 1
    assert told["worst"]["found"] == pytest.approx(told["worst"]["expected"], abs=1e-3)
    memory = told["memory"]
    assert memory["planned_bytes"] <= memory["cap_bytes"]
    zarr.open_array(tmp_path / "out.zarr", mode="r+")[0, 0] = np.nan
    told = caught(job).verification.as_dict()
    assert (told["passed"], told["largest_error"], told["worst"]["found"]) == (False, None, None)
    assert (told["largest_error_in_bounds"], told["worst"]["error_in_bounds"]) == (None, None)
    json.dumps(told, allow_nan=False)


def test_each_tile_may_stop_it(tmp_path, source):
    job, heard = job_of(source, tmp_path / "out.zarr"), []
    tileconv.run(job)
    tileconv.verify(job, each_tile=lambda *progress: heard.append(progress))
    count = heard[0][1]
    assert heard == [(done, count) for done in range(1, count + 1)]

    def stop(done, _):
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt, match="1"):
        tileconv.verify(job, each_tile=stop)
