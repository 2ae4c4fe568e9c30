"""tileconv.open gives a file's pixels lazily, in the file's own axis order."""

import gc
import itertools
import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr

from tileconv.errors import ConfigError, InputError
from tileconv.lazy import convolve, convolve2d
from tileconv.lazy import open as open_raster

LAYOUTS = {
    "tiles": {"tile": (16, 32)},
    "rows": {"rowsperstrip": 1},
    "strips": {"rowsperstrip": 37},
    "one strip": {"rowsperstrip": 1 << 20},
}
COMPRESSIONS = [
    "none", "adobe_deflate", "deflate", "lzw", "zstd", "lzma", "packbits", "jpeg", "jpeg2000",
    "webp", "lerc",
]  # fmt: skip
DTYPES = ["u1", "u2", "i2", "f4"]
BANDS = {
    "grey": ((45, 40), {"photometric": "minisblack"}),
    "interleaved": ((45, 40, 3), {"photometric": "rgb", "planarconfig": "contig"}),
    "planar": ((3, 45, 40), {"photometric": "rgb", "planarconfig": "separate"}),
}


def picture(shape, dtype):
    """Smooth enough for lossy codecs, different along every axis and in every band."""
    ramp = sum(np.arange(n).reshape([-1] + [1] * i) * (i + 2) for i, n in enumerate(shape[::-1]))
    return (ramp % 251).astype(dtype) * (3 if dtype != "u1" else 1)


def written(path, dtype, bands, **options):
    """Whether tifffile can write it, and its own decoder read it."""
    shape, colours = BANDS[bands]
    try:
        tifffile.imwrite(path, picture(shape, dtype), **colours, **options)
        return tifffile.imread(path)
    except Exception:  # noqa: BLE001 - codecs refuse in words of their own
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_tifffile(tmp_path, layout, compression):
    variants = itertools.product(DTYPES, BANDS, [False, True], "<>", [False, True])
    path, compared = tmp_path / "x.tif", 0
    for dtype, bands, predictor, byteorder, bigtiff in variants:
        options = {"compression": compression, "predictor": predictor, **LAYOUTS[layout]}
        expected = written(path, dtype, bands, byteorder=byteorder, bigtiff=bigtiff, **options)
        if expected is None:
            continue
        lazy = open_raster(path)
        assert lazy.dtype == expected.dtype
        got = np.asarray(lazy.compute(scheduler="synchronous"))
        np.testing.assert_array_equal(got, expected, f"{dtype} {bands} {options} {byteorder}")
        compared += 1
    assert compared >= 4


@pytest.fixture
def tiff(tmp_path):
    """A tiled TIFF of one plane, and its pixels."""
    pixels = picture((300, 200), "u2")
    tifffile.imwrite(tmp_path / "x.tif", pixels, tile=(32, 48), compression="deflate")
    return tmp_path / "x.tif", pixels


def test_pages_are_leading_axes(tmp_path):
    pixels = picture((4, 5, 40, 30), "i2")
    tifffile.imwrite(tmp_path / "x.tif", pixels, tile=(16, 16), photometric="minisblack")
    lazy = open_raster(tmp_path / "x.tif")
    expected = tifffile.imread(tmp_path / "x.tif")
    assert lazy.shape == expected.shape
    np.testing.assert_array_equal(lazy, expected)
    np.testing.assert_array_equal(lazy[-1, 5:20, 3], expected[-1, 5:20, 3])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(tmp_path, zarr_format):
    pixels = picture((3, 40, 30), "f4")
    stored = zarr.create_array(
        tmp_path / "x.zarr", shape=pixels.shape, chunks=(1, 16, 16), dtype="f4",
        zarr_format=zarr_format,
    )  # fmt: skip
    stored[...] = pixels
    np.testing.assert_array_equal(open_raster(tmp_path / "x.zarr"), pixels)


def test_npy(tmp_path):
    pixels = picture((40, 30, 5), ">f8")
    np.save(tmp_path / "x.npy", pixels)
    lazy = open_raster(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(lazy, pixels)
    assert lazy.compute().flags.writeable


def test_one_task_reads_whole_chunks(tiff, monkeypatch):
    path, pixels = tiff
    monkeypatch.setattr("tileconv.lazy.inputs.BLOCK_BYTES", 20_000)
    lazy = open_raster(path)
    assert lazy.npartitions > 4
    assert len(lazy.__dask_graph__()) == lazy.npartitions + 1  # and the source, once
    for lengths, chunk in zip(lazy.chunks, (32, 48), strict=True):
        assert all(length % chunk == 0 for length in lengths[:-1])
    np.testing.assert_array_equal(lazy, pixels)


def test_the_same_file_has_the_same_name_until_it_changes(tiff):
    path, pixels = tiff
    name = open_raster(path).name
    assert open_raster(path).name == name
    tifffile.imwrite(path, pixels[:100])
    assert open_raster(path).name != name


def test_pickled_as_a_path(tiff):
    path, pixels = tiff
    sent = pickle.dumps(open_raster(path))
    assert len(sent) < 20_000
    np.testing.assert_array_equal(pickle.loads(sent), pixels)


def test_closed_when_nothing_refers_to_it(tiff):
    path, pixels = tiff
    lazy = open_raster(path)
    convolved = convolve2d(path, KERNEL)
    np.testing.assert_array_equal(lazy, pixels)
    convolved.compute()
    del lazy, convolved
    # An open file would be reported here, as an error.
    gc.collect()


def test_opening_reads_no_pixels(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture((64, 64), "u1"), tile=(32, 32), compression="deflate")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[2]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 8)
    lazy = open_raster(path)
    convolved = convolve2d(path, np.ones((3, 3)), "same")
    for broken in (lazy, convolved):
        with pytest.raises(InputError, match=r"x\.tif"):
            broken.compute()


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        open_raster(tmp_path / "absent.tif")


def test_not_a_raster(tmp_path):
    (tmp_path / "x.tif").write_text("not a raster")
    with pytest.raises(InputError):
        open_raster(tmp_path / "x.tif")


def test_unknown_rule_for_missing_chunks(tiff):
    with pytest.raises(ConfigError, match="warn, fill, error"):
        open_raster(tiff[0], missing="maybe")


def test_missing_chunks_are_told_of_or_refused(tmp_path, caplog):
    zarr.create_array(tmp_path / "x.zarr", shape=(8, 8), chunks=(4, 4), dtype="u1", fill_value=7)
    for missing, told in (("fill", 0), ("warn", 1)):
        filled = open_raster(tmp_path / "x.zarr", missing=missing)
        for _ in range(2):
            np.testing.assert_array_equal(filled, np.full((8, 8), 7))
        assert len(caplog.records) == told
    with pytest.raises(InputError, match="absent"):
        open_raster(tmp_path / "x.zarr", missing="error").compute()


def test_levels(tmp_path):
    full, half = picture((64, 48), "u1"), picture((32, 24), "u1")
    with tifffile.TiffWriter(tmp_path / "x.tif") as tif:
        tif.write(full, tile=(16, 16), subifds=1)
        tif.write(half, tile=(16, 16), subfiletype=1)
    np.testing.assert_array_equal(open_raster(tmp_path / "x.tif", level=1), half)


KERNEL = np.array([[1, 2, 0, -1], [0, 3, 1, 1], [5, 0, 0, 2]])


def test_a_path_is_convolved_as_its_pixels(tiff, monkeypatch):
    path, pixels = tiff
    monkeypatch.setattr("tileconv.lazy.inputs.BLOCK_BYTES", 20_000)
    for boundary in ("fill", "wrap", "symm"):
        lazy = convolve2d(path, KERNEL, boundary=boundary)
        assert len(lazy.__dask_graph__()) == lazy.npartitions + 2
        np.testing.assert_array_equal(lazy, convolve2d(pixels, KERNEL, boundary=boundary))


@pytest.mark.parametrize("bands", BANDS)
def test_bands_of_a_file_are_carried(tmp_path, bands):
    path = tmp_path / "x.tif"
    shape, colours = BANDS[bands]
    tifffile.imwrite(path, picture(shape, "u1"), tile=(32, 32), **colours)
    pixels, y = tifffile.imread(path), 1 if bands == "planar" else 0
    expected = convolve(pixels, KERNEL, "f4", axes=(y, y + 1)).compute()
    np.testing.assert_array_equal(convolve(path, KERNEL, "f4"), expected)
    other = convolve(pixels, KERNEL, axes=(0, -1)).compute()
    np.testing.assert_array_equal(convolve(path, KERNEL, axes=(0, -1)), other)


def test_a_kernel_may_be_a_path(tmp_path, tiff):
    path, pixels = tiff
    np.save(tmp_path / "kernel.npy", KERNEL)
    np.savetxt(tmp_path / "kernel.csv", KERNEL, delimiter=",")
    expected = convolve2d(pixels, KERNEL)
    np.testing.assert_array_equal(convolve2d(path, tmp_path / "kernel.npy"), expected)
    np.testing.assert_array_equal(convolve2d(path, tmp_path / "kernel.csv"), expected)


def test_a_zarr_array_is_convolved_as_its_pixels():
    pixels = picture((40, 30), "i4")
    stored = zarr.create_array({}, shape=pixels.shape, chunks=(7, 5), dtype="i4")
    stored[...] = pixels
    lazy = convolve2d(stored, KERNEL, "same", "symm")
    assert isinstance(lazy, da.Array)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(lazy, convolve2d(pixels, KERNEL, "same", "symm"))
