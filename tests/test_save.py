"""Saving lazy arrays: the pixels dask would compute, stored like a job's output."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage, signal

import tileconv
from tileconv.errors import ConfigError, MemoryCapError, OutputExistsError
from tileconv.jobs.journal import has_tiles
from tileconv.jobs.progress import Listener
from tileconv.lazy.saving import aligned_chunks

RNG = np.random.default_rng(4)
KERNEL = RNG.normal(size=(4, 7))


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = RNG.integers(0, 255, (300, 420), np.uint8)
    tifffile.imwrite("slide.tif", pixels, tile=(64, 64), compression="deflate")
    return pixels


def read(path):
    return tifffile.imread(path) if path.endswith(".tif") else zarr.open_array(path, mode="r")[...]


@pytest.mark.parametrize("output", ["out.tif", "out.zarr"])
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_a_result_over_a_file_is_a_job_with_its_own_dtype_rules(slide, output, mode):
    lazy = tileconv.convolve2d("slide.tif", KERNEL, mode=mode, boundary="wrap")
    report = tileconv.save(lazy, output, tile=64, workers=2)
    got = read(output)
    assert got.dtype == lazy.dtype == np.float64
    assert np.array_equal(got, lazy.compute())
    np.testing.assert_allclose(got, signal.convolve2d(slide, KERNEL, mode, "wrap"), rtol=1e-9)
    assert report.plan.work.source.chunk == (64, 64)


def test_ndimage_results_keep_its_cast(slide):
    lazy = tileconv.convolve("slide.tif", np.full((3, 3), 1 / 9), output="uint8")
    tileconv.save(lazy, "out.zarr")
    assert np.array_equal(read("out.zarr"), ndimage.convolve(slide, np.full((3, 3), 1 / 9)))


def test_an_opened_file_is_copied(slide):
    tileconv.save(tileconv.open("slide.tif"), "copy.zarr")
    assert np.array_equal(read("copy.zarr"), slide)


@pytest.mark.parametrize("dtype", ["bool", "int64", "float32", "complex64"])
@pytest.mark.parametrize("shape", [(70, 90), (3, 50, 60), (40, 50, 3)])
def test_any_other_dask_array(tmp_path, dtype, shape):
    pixels = (RNG.normal(size=shape) * 100).astype(dtype)
    lazy = da.from_array(pixels, chunks=tuple(min(n, 17) for n in shape))
    tileconv.save(lazy, tmp_path / "out.zarr", tile=16)
    assert np.array_equal(read(str(tmp_path / "out.zarr")), pixels)


def test_blocks_are_computed_once(tmp_path):
    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.ones(block_info[None]["chunk-shape"])

    lazy = da.map_blocks(block, chunks=((50, 30), (40, 40, 9)), dtype=float, meta=np.ones((0, 0)))
    tileconv.save(lazy, tmp_path / "out.tif", tile=16, memory="1GiB")
    assert sorted(computed) == [(y, x) for y in range(2) for x in range(3)]


def counted(shape, chunks):
    """An array of one pixel value a block, and how often each block was computed."""
    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.full(block_info[None]["chunk-shape"], float(len(computed)))

    meta = np.ones((0, 0))
    return da.map_blocks(block, chunks=chunks, dtype=float, meta=meta), computed


def test_what_neighbours_share_is_computed_once(tmp_path):
    lazy, computed = counted((80, 89), ((20, 20, 20, 20), (40, 40, 9)))
    result = tileconv.convolve(lazy, np.ones((3, 4)), mode="wrap")
    with dask.config.set(scheduler="synchronous"):
        tileconv.save(result, tmp_path / "out.tif", tile=32)
    assert sorted(computed) == [(y, x) for y in range(4) for x in range(3)]


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((100, 130), ((7, 80, 13), (100, 1, 29))),
        ((5, 100, 70), ((2, 3), (33, 67), (70,))),
        ((100, 70, 3), ((64, 36), (10, 60), (2, 1))),
        ((2, 3, 40, 50), ((1, 1), (2, 1), (40,), (25, 25))),
    ],
)
def test_uneven_chunks_become_whole_write_units(tmp_path, name, shape, chunks):
    pixels = RNG.integers(0, 255, shape, np.uint8)
    report = tileconv.save(da.from_array(pixels, chunks), tmp_path / name, tile=16)
    assert np.array_equal(read(str(tmp_path / name)), pixels)
    unit, y = report.plan.work.layout.unit, report.plan.work.source.y_axis
    aligned = aligned_chunks(chunks, y, unit)
    assert [sum(sizes) for sizes in aligned] == list(shape)
    for axis, step in zip((y, y + 1), unit, strict=True):
        assert all(size % step == 0 for size in aligned[axis][:-1])
    assert report.pixels == np.prod(shape) // (3 if y == 0 and len(shape) == 3 else 1)
    assert sorted(os.listdir(tmp_path)) == [name]


def test_an_empty_array_is_an_empty_zarr(tmp_path):
    tileconv.save(da.zeros((0, 5), dtype="f4"), tmp_path / "out.zarr")
    assert read(str(tmp_path / "out.zarr")).shape == (0, 5)


def test_an_error_of_the_array_is_its_own_and_leaves_nothing(tmp_path):
    def fails(block):
        raise LookupError("no such scene")

    lazy = da.zeros((50, 50)).map_blocks(fails, dtype=float)
    with pytest.raises(LookupError, match="no such scene"):
        tileconv.save(lazy, tmp_path / "out.tif")
    assert os.listdir(tmp_path) == []


def test_two_saves_of_one_array_at_once_are_two(tmp_path):
    """They share an input, and nothing that stores."""
    lazy = da.from_array(RNG.normal(size=(300, 200)), chunks=50)
    names = [tmp_path / f"{n}.zarr" for n in range(4)]
    with ThreadPoolExecutor(4) as pool, dask.config.set(scheduler="threads"):
        list(pool.map(lambda path: tileconv.save(lazy, path), names))
    graphs = [set(dict(_stored_graph(lazy))) for _ in range(2)]
    assert graphs[0] & graphs[1] == set()
    for path in names:
        assert np.array_equal(read(str(path)), lazy.compute())


def _stored_graph(lazy):
    """The tasks with which one call stores an array."""
    seen = {}

    def get(graph, keys, **_):
        seen.update(dict.fromkeys(keys))
        raise StopIteration

    with dask.config.set(scheduler=get), pytest.raises((StopIteration, RuntimeError)):
        tileconv.save(lazy, "unused.zarr")
    return seen


def test_what_a_job_has_done_is_not_thrown_away(slide, monkeypatch):
    """An array that dask computes cannot go on with it, and must not end it."""

    class Stop(Listener):
        def advanced(self, report):
            raise LookupError

    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 64 * 64)
    job = {"input": {"path": "slide.tif"}, "kernel": {"name": "box"}}
    with pytest.raises(LookupError):
        tileconv.run({**job, "output": {"path": "out.tif", "tile": 64}}, listener=Stop())
    with pytest.raises(OutputExistsError, match="unfinished run"):
        tileconv.save(da.from_array(slide), "out.tif")
    assert has_tiles(Path(".out.tif.tileconv"))


def test_what_a_file_cannot_say_is_refused(tmp_path):
    pixels = da.from_array(RNG.normal(size=(60, 50)), chunks=20)
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        tileconv.save(pixels[pixels[:, 0] > 0], tmp_path / "out.zarr")
    masked = da.ma.masked_array(pixels, mask=pixels > 0)
    hidden = pixels.map_blocks(lambda x: np.ma.masked_greater(x, 0), meta=np.empty((0, 0)))
    for array in (masked, hidden):
        with pytest.raises(TypeError, match=r"masked.*da.ma.filled|masked.*array\.ma\.filled"):
            tileconv.save(array, tmp_path / "out.zarr")
    with pytest.raises(TypeError, match="masked"):
        tileconv.convolve(masked, np.ones((2, 3)))
    for wrong in (lambda x: x.astype("i4"), lambda x: x[:-1]):
        array = pixels.map_blocks(wrong, dtype=float, chunks=pixels.chunks)
        with pytest.raises(ValueError, match=r"block \[\d+:\d+, \d+:\d+\] came out as"):
            tileconv.save(array, tmp_path / "out.zarr", tile=16)
    assert os.listdir(tmp_path) == []


def test_with_a_client_its_workers_store(slide, tmp_path):
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster),
    ):
        pixels = da.from_array(slide, chunks=50)
        lazy = tileconv.convolve(pixels, KERNEL, output="float64")
        for name in ("out.tif", "out.zarr"):
            tileconv.save(lazy, name, tile=64)
        over_file = tileconv.convolve("slide.tif", KERNEL, output="float64")
        report = tileconv.save(over_file, "job.tif", tile=64)
    assert report.plan.processes == 2
    wanted = ndimage.convolve(slide, KERNEL, output="float64")
    for name in ("out.tif", "out.zarr", "job.tif"):
        np.testing.assert_allclose(read(name), wanted, rtol=1e-9, atol=1e-9)
    assert sorted(os.listdir()) == ["job.tif", "out.tif", "out.zarr", "slide.tif"]


def test_a_derived_array_is_not_taken_for_its_file(slide):
    lazy = tileconv.open("slide.tif")
    tileconv.save((lazy + 1)[10:, ::2], "out.zarr")
    assert np.array_equal(read("out.zarr"), (slide + np.uint8(1))[10:, ::2])


def test_mistakes_leave_nothing(slide):
    lazy = tileconv.convolve2d("slide.tif", KERNEL)
    with pytest.raises(ConfigError, match="is the input"):
        tileconv.save(lazy, "slide.tif", overwrite=True)
    with pytest.raises(ConfigError, match=r"\.zarr"):
        tileconv.save(lazy, "out.jpg")
    with pytest.raises(MemoryCapError, match="smallest"):
        tileconv.save(lazy, "out.tif", memory="10MiB")
    for wrong in ({"workers": -1}, {"workers": "2"}, {"compression_level": "x"}, {"tile": 0}):
        (key,) = wrong
        with pytest.raises(ConfigError, match=key):
            tileconv.save(lazy, "out.tif", **wrong)
    with pytest.raises(ConfigError, match="dask array"):
        tileconv.save(slide, "out.tif")
    Path("there.tif").touch()
    with pytest.raises(OutputExistsError):
        tileconv.save(lazy, "there.tif")
    assert sorted(os.listdir()) == ["slide.tif", "there.tif"]
