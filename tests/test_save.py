"""Saving lazy arrays: the pixels dask would compute, stored like a job's output."""

import os
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage, signal

import tileconv
from tileconv.errors import ConfigError, MemoryCapError, OutputExistsError

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
