"""Whole jobs against scipy on the whole array, in every dtype, mode, boundary and store."""

import io
import itertools
import os

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

import tileconv
from tileconv.errors import InputError, MemoryCapError, OutputExistsError, StorageError
from tileconv.jobs.journal import has_tiles
from tileconv.jobs.progress import PlainProgress

PAD = {"symm": "symmetric", "wrap": "wrap", "nearest": "edge", "mirror": "reflect"}


def read(path):
    return tifffile.imread(path) if path.suffix == ".tif" else zarr.open_array(path, mode="r")[...]


def write(path, pixels, chunk=64):
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, tile=(chunk, chunk), compression="deflate", predictor=True)
    elif path.suffix == ".npy":
        np.save(path, pixels)
    else:
        array = zarr.create_array(
            path, shape=pixels.shape, dtype=pixels.dtype, chunks=(chunk, chunk)
        )
        array[...] = pixels
    return path


def run(source, path, weights, *, memory="1GiB", workers=2, **tables):
    job = {
        "input": {"path": str(source)},
        "kernel": {"weights": np.asarray(weights).tolist()},
        "convolution": tables.get("convolution", {}),
        "output": {"path": str(path), "tile": 64, "overwrite": True} | tables.get("output", {}),
        "run": {"memory": memory, "workers": workers},
    }
    return tileconv.run(job)


def oracle(pixels, weights, mode="same", boundary="symm", fill=0, *, convolving=True):
    """scipy.signal over a padded float64 array; numpy.pad for the rules scipy.signal has not."""
    pixels, weights = pixels.astype(np.float64), np.asarray(weights, dtype=np.float64)
    apply = signal.convolve2d if convolving else signal.correlate2d
    if boundary in ("fill", "wrap", "symm") or mode == "valid":
        return apply(pixels, weights, mode, "fill" if mode == "valid" else boundary, fill)
    before = [k - 1 for k in weights.shape]
    padded = np.pad(pixels, [(k, k) for k in before], PAD[boundary])
    full = apply(padded, weights, "valid")
    if mode == "full":
        return full
    at = [(k - 1) // 2 if convolving else k // 2 for k in weights.shape]
    return full[at[0] : at[0] + pixels.shape[0], at[1] : at[1] + pixels.shape[1]]


def bound(pixels, weights, dtype):
    largest = np.abs(pixels.astype(np.float64)).max(initial=0)
    return 64 * np.finfo(dtype).eps * np.abs(weights).sum() * largest


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    kernel=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "float32", "float64"]),
    mode=st.sampled_from(["same", "full", "valid"]),
    boundary=st.sampled_from(["symm", "wrap", "fill", "nearest", "mirror"]),
    convolving=st.booleans(),
    stores=st.sampled_from(list(itertools.product((".tif", ".zarr", ".npy"), (".tif", ".zarr")))),
    seed=st.integers(0, 9),
)
def test_jobs_equal_scipy(
    tmp_path_factory, shape, kernel, dtype, mode, boundary, convolving, stores, seed
):
    if mode == "valid" and any(k > n for k, n in zip(kernel, shape, strict=True)):
        return
    tmp_path = tmp_path_factory.mktemp("job")
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        pixels = rng.normal(100, 50, shape).astype(dtype)
    else:
        info = np.iinfo(dtype)
        pixels = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    weights = rng.normal(size=kernel)
    source = write(tmp_path / f"in{stores[0]}", pixels)
    output = tmp_path / f"out{stores[1]}"
    operation = "convolve" if convolving else "correlate"
    options = {"mode": mode, "boundary": boundary, "operation": operation, "fill_value": 2}
    run(source, output, weights, convolution=options)
    got = read(output)
    want = oracle(pixels, weights, mode, boundary, 2, convolving=convolving)
    accumulator = np.float64 if dtype == "float64" else np.float32
    assert got.dtype == accumulator
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=bound(pixels, weights, accumulator))


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_no_tiling_shows(tmp_path, monkeypatch, method, suffix):
    """The same bits for any tile and worker count."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (700, 900), np.uint8)
    column, row = rng.normal(size=(2, 9))
    source = write(tmp_path / "in.tif", pixels)
    results, grids = [], set()
    # The chunk bounds a tile from below, the limit from above.
    for chunk, most, workers in ((64, 1, 1), (256, 1 << 30, 2), (128, 1, 3), (16, 9000, 2)):
        monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", most)
        monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 1)
        output = tmp_path / f"out{chunk}{suffix}"
        report = run(
            source,
            output,
            np.outer(column, row),
            workers=workers,
            convolution={"method": method},
            output={"tile": chunk},
        )
        grids.add(report.plan.grid)
        results.append(read(output))
    assert len(grids) == 4
    assert sum(len(grid) > 20 for grid in grids) == 3
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("boundary", ["symm", "wrap", "mirror"])
@pytest.mark.parametrize("layout", ["tiles", "strips", "zarr"])
def test_the_plan_states_what_is_decoded(tmp_path, layout, boundary):
    pixels = np.random.default_rng(0).integers(0, 255, (333, 417), np.uint8)
    source = tmp_path / ("in.zarr" if layout == "zarr" else "in.tif")
    if layout == "strips":
        tifffile.imwrite(source, pixels, rowsperstrip=100, compression="deflate")
    else:
        write(source, pixels, chunk=48)
    report = run(
        source,
        tmp_path / "out.tif",
        np.ones((9, 8)),
        workers=1,
        convolution={"boundary": boundary},
    )
    planned = report.plan.read_amplification
    if boundary == "wrap":  # What comes from the far side may still be in the cache.
        assert 1 <= report.read_amplification <= planned <= 2
    else:
        assert report.read_amplification == pytest.approx(planned)


def test_interleaved_and_stacked_axes_are_carried(tmp_path):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(4, 3))
    rgb = rng.integers(0, 255, (100, 130, 3), np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb", tile=(32, 32))
    stack = rng.integers(0, 255, (3, 60, 70), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    for suffix in (".tif", ".zarr"):
        run(tmp_path / "rgb.tif", tmp_path / f"rgb-out{suffix}", weights)
        got = read(tmp_path / f"rgb-out{suffix}")
        for band in range(3):
            want = oracle(rgb[..., band], weights)
            np.testing.assert_allclose(got[..., band], want, atol=bound(rgb, weights, np.float32))
        run(tmp_path / "stack.tif", tmp_path / f"stack-out{suffix}", weights)
        got = read(tmp_path / f"stack-out{suffix}")
        for plane in range(3):
            want = oracle(stack[plane], weights)
            np.testing.assert_allclose(got[plane], want, atol=bound(stack, weights, np.float32))


def test_integer_outputs_round_half_to_even_and_saturate(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    source = write(tmp_path / "in.npy", pixels)
    report = run(source, tmp_path / "half.tif", [[0.5]], output={"dtype": "input"})
    assert np.array_equal(read(tmp_path / "half.tif"), np.rint(pixels / 2).astype(np.uint8))
    assert report.clipped == 0
    report = run(source, tmp_path / "twice.tif", [[2]], output={"dtype": "uint8"})
    assert np.array_equal(read(tmp_path / "twice.tif"), np.clip(pixels * 2.0, 0, 255))
    assert report.clipped == 128
    with pytest.raises(InputError, match="do not fit uint8"):
        run(source, tmp_path / "no.tif", [[2]], output={"dtype": "uint8", "overflow": "error"})
    assert not (tmp_path / "no.tif").exists()


def test_overflow_into_a_narrower_float_is_counted(tmp_path):
    source = write(tmp_path / "in.npy", np.full((20, 30), 65535, np.uint16))
    report = run(source, tmp_path / "half.zarr", [[1.0]], output={"dtype": "float16"})
    assert report.clipped == 600
    with pytest.raises(InputError, match="do not fit float16"):
        options = {"dtype": "float16", "overflow": "error"}
        run(source, tmp_path / "no.zarr", [[1.0]], output=options)


def test_a_raster_none_of_whose_chunks_is_stored_is_refused(tmp_path):
    zarr.create_array(tmp_path / "gone.zarr", shape=(30, 30), chunks=(10, 10), dtype="u1")
    with pytest.raises(InputError, match="every one of its 9 chunks is missing"):
        run(tmp_path / "gone.zarr", tmp_path / "out.tif", [[1.0]])


def test_nan_into_integers_needs_a_value(tmp_path):
    pixels = np.ones((40, 40), np.float32)
    pixels[20, 20] = np.nan
    source = write(tmp_path / "in.npy", pixels)
    weights = np.arange(6).reshape(2, 3)
    with pytest.raises(InputError, match="NaN"):
        run(source, tmp_path / "out.zarr", weights, output={"dtype": "uint8"})
    report = run(source, tmp_path / "out.zarr", weights, output={"dtype": "uint8", "nan_fill": 9})
    assert report.nans == 6
    assert (read(tmp_path / "out.zarr") == 9).sum() == 6


@pytest.mark.parametrize("method", ["direct", "separable", "fft"])
def test_nan_and_infinity_reach_as_far_as_the_kernel(tmp_path, method):
    rng = np.random.default_rng(0)
    pixels = rng.random((150, 170)).astype(np.float32)
    pixels[60, 70], pixels[5, 160], pixels[63, 74] = np.nan, np.inf, -np.inf
    weights = np.outer([1.0, 2, 3, 4, -1], [2.0, 0, -1, 3])
    source = write(tmp_path / "in.tif", pixels)
    run(source, tmp_path / "out.tif", weights, convolution={"method": method})
    got, want = read(tmp_path / "out.tif"), oracle(pixels, weights)
    assert np.array_equal(np.isfinite(got), np.isfinite(want))
    assert np.array_equal(got[~np.isfinite(want)], want[~np.isfinite(want)], equal_nan=True)


def test_an_output_that_exists_is_kept_unless_overwritten(tmp_path):
    source = write(tmp_path / "in.npy", np.ones((9, 9)))
    output = tmp_path / "out.tif"
    run(source, output, [[1.0]])
    with pytest.raises(OutputExistsError):
        run(source, output, [[2.0]], output={"overwrite": False})
    assert (read(output) == 1).all()
    run(source, output, [[2.0]])
    assert (read(output) == 2).all()


def test_a_failed_run_leaves_no_more_than_what_is_done(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8)
    source = write(tmp_path / "in.tif", pixels)
    data = bytearray(source.read_bytes())
    with tifffile.TiffFile(source) as tif:
        at = tif.pages[0].dataoffsets[7]
    data[at : at + 40] = b"\xff" * 40
    source.write_bytes(data)
    for name in ("out.tif", "sub/out.zarr"):
        with pytest.raises(InputError, match="in.tif"):
            run(source, tmp_path / name, np.ones((3, 3)))
        assert not (tmp_path / name).exists()
    # One folder an output, if a tile was done before the one that failed.
    kept = [folder for folder in tmp_path.rglob(".out.*.tileconv") if has_tiles(folder)]
    for path in tmp_path.rglob("*"):
        assert (
            path == source
            or any(path in (folder, *folder.parents) for folder in kept)
            or any(folder in path.parents for folder in kept)
        )


def test_caps_that_cannot_be_kept_are_refused_before_anything_is_made(tmp_path):
    source = write(tmp_path / "in.npy", np.ones((9, 9)))
    with pytest.raises(MemoryCapError, match="the smallest that can is"):
        run(source, tmp_path / "out.tif", [[1.0]], memory="20MiB")
    assert os.listdir(tmp_path) == ["in.npy"]


def test_a_full_disk_is_refused_before_the_start(tmp_path, monkeypatch):
    source = write(tmp_path / "in.npy", np.ones((400, 400)))
    monkeypatch.setattr("tileconv.jobs.opening.free_bytes", lambda _: 1000)
    with pytest.raises(StorageError, match="1000 free"):
        run(source, tmp_path / "out.tif", [[1.0]], output={"compression": "none"})
    assert os.listdir(tmp_path) == ["in.npy"]
    # What is compressed may fit all the same.
    run(source, tmp_path / "out.tif", [[1.0]])


def test_empty_rasters(tmp_path):
    np.save(tmp_path / "in.npy", np.ones((0, 7), np.float32))
    run(tmp_path / "in.npy", tmp_path / "out.zarr", [[1.0]])
    assert read(tmp_path / "out.zarr").shape == (0, 7)
    with pytest.raises(InputError, match="empty"):
        run(tmp_path / "in.npy", tmp_path / "out.tif", [[1.0]])


def test_listeners_hear_every_tile(tmp_path):
    from tileconv.jobs.progress import Listener

    heard = []

    class Ear(Listener):
        def started(self, plan):
            heard.append(len(plan.grid))

        def advanced(self, report):
            heard.append(report.tiles)

        def finished(self, report):
            heard.append(report.output)

    source = write(tmp_path / "in.npy", np.ones((300, 200)))
    job = {
        "input": {"path": str(source)},
        "kernel": {"name": "box"},
        "output": {"path": str(tmp_path / "out.tif"), "tile": 16},
    }
    report = tileconv.run(job, listener=Ear())
    assert heard[0] == report.tiles == len(report.plan.grid)
    assert heard[1:-1] == list(range(1, report.tiles + 1))
    assert heard[-1] == str(tmp_path / "out.tif")


def test_a_first_tile_that_fails_is_told_as_it_is(tmp_path):
    """Progress has nothing to divide by then."""
    pixels = np.ones((100, 100), np.float32)
    pixels[3, 3] = np.nan
    source = write(tmp_path / "in.npy", pixels)
    job = {
        "input": {"path": str(source)},
        "kernel": {"name": "box"},
        "output": {"path": str(tmp_path / "out.tif"), "dtype": "uint8"},
    }
    with pytest.raises(InputError, match="NaN"):
        tileconv.run(job, listener=PlainProgress(io.StringIO(), every_s=0))
