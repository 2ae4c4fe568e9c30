"""TIFF as three readers that share no code with tileconv see it: tifffile, GDAL, libvips."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import signal
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import pyvips
import rasterio
import tifffile
from rasterio.enums import ColorInterp

from tileconv.core.grid import Region, TileGrid
from tileconv.core.raster import Raster
from tileconv.errors import StorageError
from tileconv.stores.tiff.layout import BATCH_BYTES, tiff_layout
from tileconv.stores.tiff.part_file import PartFile
from tileconv.stores.tiff.tags import TiffTags
from tileconv.stores.tiff.writer import TiffSink

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def store(sink, plane: int, region: Region, block: np.ndarray) -> None:
    sink.record(sink.writer.write(plane, region, block))


def write(array: np.ndarray, dims: str, path: Path, **options) -> TiffSink:
    """Write an array whole, plane by plane, tile by tile from the last to the first."""
    layout = tiff_layout(Raster(array.shape, array.dtype, tuple(dims)), **options)
    raster = layout.raster
    planes = array.reshape(raster.planes, *raster.spatial, raster.samples)
    sink = TiffSink(path, layout)
    for tile in reversed(list(TileGrid(raster.spatial, layout.unit, raster.planes))):
        store(sink, tile.plane, tile.region, planes[tile.plane][tile.region.slices])
    sink.finish()
    return sink


def bands_of(array: np.ndarray, dims: str) -> np.ndarray:
    """Bands, rows, columns of the first page, as GDAL has them."""
    if "s" not in dims:
        return array.reshape(-1, *array.shape[-2:])[:1]
    first = array.reshape(-1, *array.shape[-3:])[0]
    return first if dims.endswith("syx") else np.moveaxis(first, -1, 0)


def gdal_read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def vips_read(path: Path) -> np.ndarray:
    image = pyvips.Image.new_from_file(str(path), fail_on="warning")
    pixels = image.numpy().reshape(image.height, image.width, image.bands)
    return np.moveaxis(pixels, -1, 0)


LAYOUTS = [
    ((600, 530), "yx"),
    ((530, 70, 3), "yxs"),
    ((30, 540, 4), "yxs"),
    ((40, 50, 7), "yxs"),
    ((3, 40, 530), "syx"),
    ((5, 40, 50), "zyx"),
    ((2, 3, 20, 30, 2), "tcyxs"),
    ((2, 4, 20, 30), "zsyx"),
    ((1, 1), "yx"),
    ((1, 600), "yx"),
    ((600, 1, 3), "yxs"),
]
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compression", ["deflate", "none", "lzw", "zstd"])
def test_every_reader_sees_the_same_pixels(tmp_path, caplog, compression, dtype):
    rng = np.random.default_rng(0)
    for number, (shape, dims) in enumerate(LAYOUTS):
        values = rng.normal(size=shape) * 100
        if dtype[0] == "c":
            values = values + 1j * rng.normal(size=shape)
        array = values.astype(np.int64 if dtype[0] in "ui" else dtype).astype(dtype)
        path = tmp_path / f"{number}.tif"
        write(array, dims, path, compression=compression)
        with caplog.at_level(logging.WARNING):
            read = tifffile.imread(path)
        assert not caplog.records
        assert (read.shape, read.dtype) == (array.shape, array.dtype)
        assert read.tobytes() == array.tobytes()
        np.testing.assert_array_equal(gdal_read(path), bands_of(array, dims))
        # libvips: no samples of 64 bits, no planar tiles, and in its wheel no zstd.
        if array.dtype.itemsize < 8 and not dims.endswith("syx") and compression != "zstd":
            np.testing.assert_array_equal(vips_read(path), bands_of(array, dims))


def test_vips_refuses_what_it_cannot_read(tmp_path):
    """The limits that the test above steps around are errors to libvips's users, not zeros."""
    write(np.ones((3, 40, 50), np.uint8), "syx", tmp_path / "planar.tif")
    write(np.ones((40, 50), np.float64), "yx", tmp_path / "double.tif")
    for name in ("planar", "double"):
        with pytest.raises(pyvips.Error):
            vips_read(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("level", [1, 9, 12])
def test_every_level_of_deflate_is_read(tmp_path, level):
    array = np.random.default_rng(0).integers(0, 9, (300, 200), np.uint16)
    write(array, "yx", tmp_path / "x.tif", level=level)
    np.testing.assert_array_equal(gdal_read(tmp_path / "x.tif")[0], array)


def test_bytes_of_the_other_order_are_turned(tmp_path):
    array = np.arange(600, dtype=">i4").reshape(20, 30)
    write(array, "yx", tmp_path / "x.tif")
    np.testing.assert_array_equal(gdal_read(tmp_path / "x.tif")[0], array)
    assert (tmp_path / "x.tif").read_bytes()[:4] == b"II\x2b\0"


def test_thousands_of_pages(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5000, 5, 4), np.uint8)
    write(array, "zyx", tmp_path / "x.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), array)
    pages = pyvips.Image.new_from_file(str(tmp_path / "x.tif"), n=-1)
    np.testing.assert_array_equal(pages.numpy().reshape(array.shape), array)


def test_axes_have_names(tmp_path):
    write(np.zeros((2, 3, 20, 30), np.uint8), "tcyx", tmp_path / "x.tif")
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert file.series[0].axes == "TCYX"
        assert file.pages.first.tags[305].value.startswith("tileconv ")
    write(np.zeros((2, 3, 20, 30), np.uint8), ("d0", "d1", "y", "x"), tmp_path / "y.tif")
    assert tifffile.imread(tmp_path / "y.tif").shape == (2, 3, 20, 30)


@pytest.mark.parametrize(("shape", "dims"), [((20, 30, 4), "yxs"), ((4, 20, 30), "syx")])
def test_colours_are_colours(tmp_path, shape, dims):
    write(np.zeros(shape, np.uint8), dims, tmp_path / "x.tif")
    with rasterio.open(tmp_path / "x.tif") as file:
        assert file.colorinterp == (
            ColorInterp.red,
            ColorInterp.green,
            ColorInterp.blue,
            ColorInterp.alpha,
        )


GEO = {
    33550: (12, 3, (10.0, 20.0, 0.0)),
    33922: (12, 6, (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0)),
    34735: (3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632)),
    42112: (2, 53, b'<GDALMetadata><Item name="A">b</Item></GDALMetadata>\0'),
    42113: (2, 3, b"-7\0"),
    282: (5, 1, (600, 7)),
    283: (5, 1, (300, 7)),
    296: (3, 1, 3),
}


@pytest.mark.parametrize(("shape", "dims"), [((600, 700), "yx"), ((3, 600, 700), "syx")])
def test_georeference_and_other_tags_are_carried(tmp_path, shape, dims):
    tags = TiffTags(entries=tuple((code, *entry) for code, entry in reversed(GEO.items())))
    write(np.ones(shape, np.float32), dims, tmp_path / "x.tif", tags=tags)
    with rasterio.open(tmp_path / "x.tif") as file:
        assert file.crs == rasterio.CRS.from_epsg(32632)
        assert tuple(file.transform)[:6] == (10, 0, 500000, 0, -20, 5000000)
        assert file.nodata == -7
        assert file.tags()["A"] == "b"
        assert file.tags()["TIFFTAG_RESOLUTIONUNIT"].startswith("3")
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert file.pages.first.tags[282].value == (600, 7)


@pytest.mark.skipif(shutil.which("tiffinfo") is None, reason="libtiff's tools are not installed")
def test_libtiff_has_nothing_to_say(tmp_path):
    write(np.ones((2, 600, 700, 4), np.uint16), "zyxs", tmp_path / "x.tif")
    command = ["tiffinfo", "-d", str(tmp_path / "x.tif")]
    said = subprocess.run(command, capture_output=True, check=True, text=True)
    assert said.stderr == ""
    assert said.stdout.count("=== TIFF directory") == 2


def test_before_finish_the_file_is_no_tiff(tmp_path):
    path = tmp_path / "x.tif"
    layout = tiff_layout(Raster((20, 20), np.dtype(np.uint8), ("y", "x")))
    sink = TiffSink(path, layout)
    store(sink, 0, Region.of_shape((20, 20)), np.ones((20, 20, 1), np.uint8))
    with pytest.raises(tifffile.TiffFileError):
        tifffile.TiffFile(path)
    sink.close()
    assert path.read_bytes()[:16] == bytes(16)


def test_the_missing_tile_is_named(tmp_path):
    layout = tiff_layout(Raster((2, 1100, 700), np.dtype(np.uint8), ("z", "y", "x")))
    sink = TiffSink(tmp_path / "x.tif", layout)
    for tile in TileGrid((1100, 700), layout.unit, 2):
        if tile.index not in (9, 11):
            store(sink, tile.plane, tile.region, np.ones((*tile.region.shape, 1), np.uint8))
    with pytest.raises(StorageError, match=r"2 of 12 .* row 1, column 1 of plane 1"):
        sink.finish()
    sink.close()


@pytest.mark.parametrize(
    ("dtype", "compression"),
    [("uint8", "deflate"), ("float32", "deflate"), ("float64", "lzw"), ("uint16", "none")],
)
def test_write_takes_no_more_memory_than_the_layout_says(tmp_path, dtype, compression):
    # Noise: what is encoded is as long as it gets. Tables inside the codecs are not traced.
    noise = np.random.default_rng(0).bytes(np.dtype(dtype).itemsize * 1500 * 6000)
    block = np.frombuffer(noise, dtype).reshape(1500, 6000, 1)
    layout = tiff_layout(Raster((1500, 6000), block.dtype, ("y", "x")), compression=compression)
    assert block.nbytes > 2 * BATCH_BYTES
    # What is imported once is no memory of a call.
    store(
        TiffSink(tmp_path / "first.tif", layout), 0, Region((0, 0), (512, 512)), block[:512, :512]
    )
    sink = TiffSink(tmp_path / "x.tif", layout)
    tracemalloc.start()
    store(sink, 0, Region.of_shape((1500, 6000)), block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sink.close()
    assert BATCH_BYTES // 2 < peak <= layout.write_bytes


def test_writes_that_stop_short_are_continued(tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 256, (600, 700), np.uint8)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    write(array, "yx", tmp_path / "x.tif")
    monkeypatch.undo()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), array)


def test_a_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    layout = tiff_layout(Raster((600, 700), np.dtype(np.uint8), ("y", "x")))
    sink = TiffSink(tmp_path / "x.tif", layout)

    def full(fd, data, at):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=r"x\.tif: No space left .* needed \d+ bytes, free \d+"):
        store(sink, 0, Region.of_shape((600, 700)), np.ones((600, 700, 1), np.uint8))
    monkeypatch.undo()
    # What failed is not taken for written.
    with pytest.raises(StorageError, match="4 of 4 tiles"):
        sink.finish()
    sink.close()


def test_a_file_size_limit_is_a_storage_error(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    part = PartFile(tmp_path / "part", start=16)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(StorageError, match="cannot write .*part: File too large"):
            part.append([memoryview(bytes(900)), memoryview(bytes(900))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_without_permission_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(path, flags, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"cannot create .*part: Permission denied"):
        PartFile(tmp_path / "part")


def test_parts_give_every_append_a_place_of_its_own(tmp_path):
    part = PartFile(tmp_path / "part", start=3)
    assert part.append([memoryview(b"ab"), memoryview(b"cde")]) == 3
    assert part.append([]) == 8
    assert part.append([memoryview(b"f")]) == 8
    part.put(0, b"xyz")
    assert (tmp_path / "part").read_bytes() == b"xyzabcdef"
