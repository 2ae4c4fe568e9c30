"""What every sink does, whatever its format; read back by programs that are not tileconv."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tileconv.core.grid import Region, TileGrid
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, OutputExistsError, StorageError
from tileconv.stores.formats import format_of, open_sink, plan_layout
from tileconv.stores.sink import Receipt, Sink

ENDINGS = {"tiff": ".tif", "zarr": ".zarr"}
READERS = {
    "tiff": tifffile.imread,
    "zarr": lambda path: np.asarray(zarr.open_array(path, mode="r")[...]),
}
DTYPES = ["uint8", "int16", "uint16", "float32", "float64", "complex64"]
SHAPES = {
    "grey": ((1100, 700), "yx"),
    "interleaved": ((530, 600, 3), "yxs"),
    "planar": ((3, 520, 40), "syx"),
    "pages": ((4, 30, 50), "zyx"),
    "stack of interleaved pages": ((2, 3, 40, 20, 2), "tcyxs"),
    "one sample": ((33, 18, 1), "yxs"),
    "one planar sample": ((1, 33, 18), "syx"),
    "one page": ((1, 1, 33, 18), "tzyx"),
    "one pixel": ((1, 1), "yx"),
    "one column": ((1200, 1), "yx"),
    "one row": ((1, 1200), "yx"),
}


@pytest.fixture(params=sorted(ENDINGS))
def file_format(request) -> str:
    return request.param


def pixels_of(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Every bit pattern an integer has; for floats also NaN, infinity and a negative zero."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max, shape, kind, endpoint=True)
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, shape)
    if kind.kind == "c":
        values = values + 1j * rng.normal(size=shape)
    values = values.astype(kind)
    for index, special in enumerate([np.nan, np.inf, -np.inf, -0.0]):
        if values.size > 10:
            values.flat[index * 2] = special
    return values


def planes_of(array: np.ndarray, raster: Raster) -> np.ndarray:
    return array.reshape(raster.planes, *raster.spatial, raster.samples)


def open_for(array: np.ndarray, dims: str, file_format: str, path: Path, **options) -> Sink:
    raster = Raster(array.shape, array.dtype, tuple(dims))
    return open_sink(plan_layout(file_format, raster, **options), path)


def tiles_of(sink: Sink, units: tuple[int, int] = (1, 1)) -> list:
    raster, unit = sink.layout.raster, sink.layout.unit
    tile = (unit[0] * units[0], unit[1] * units[1])
    return list(TileGrid(raster.spatial, tile, raster.planes))


def write_all(sink: Sink, array: np.ndarray, *, seed: int = 0, units=(1, 1), threads=3) -> int:
    """Write every tile, in random order, from several threads; returns the bytes stored."""
    planes = planes_of(array, sink.layout.raster)
    tiles = tiles_of(sink, units)
    random.Random(seed).shuffle(tiles)

    def write(tile) -> Receipt:
        return sink.writer.write(tile.plane, tile.region, planes[tile.plane][tile.region.slices])

    stored = 0
    with ThreadPoolExecutor(threads) as pool:
        for receipt in pool.map(write, tiles):
            sink.record(receipt)
            stored += receipt.stored_bytes
    return stored


def store(sink: Sink, plane: int, region: Region, block: np.ndarray) -> None:
    sink.record(sink.writer.write(plane, region, block))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the last bit, NaN and signed zero too."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def bytes_on_disk(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_what_was_written_is_read(tmp_path, file_format, name, dtype):
    shape, dims = SHAPES[name]
    array = pixels_of(shape, dtype)
    path = tmp_path / f"out{ENDINGS[file_format]}"
    sink = open_for(array, dims, file_format, path)
    stored = write_all(sink, array)
    sink.finish()
    sink.close()
    assert same(READERS[file_format](path), array)
    assert 0 < stored <= bytes_on_disk(path) <= sink.layout.max_bytes


def test_a_tile_may_cover_many_units(tmp_path, file_format):
    array = pixels_of((2, 1300, 1700), "uint16")
    path = tmp_path / f"out{ENDINGS[file_format]}"
    sink = open_for(array, "zyx", file_format, path)
    write_all(sink, array, units=(2, 3))
    sink.finish()
    assert same(READERS[file_format](path), array)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
        np.asfortranarray,
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
    ids=["transposed", "flipped", "mirrored", "strided", "fortran", "broadcast"],
)
def test_blocks_may_have_any_strides(tmp_path, file_format, view):
    array = view(pixels_of((600, 600), "int16"))
    assert not array.flags.c_contiguous
    path = tmp_path / f"out{ENDINGS[file_format]}"
    sink = open_for(array, "yx", file_format, path)
    for tile in tiles_of(sink):
        store(sink, tile.plane, tile.region, array[tile.region.slices][..., np.newaxis])
    sink.finish()
    assert same(READERS[file_format](path), array.copy())


def test_write_leaves_the_block_as_it_was(tmp_path, file_format):
    array = pixels_of((512, 512, 1), "uint8")
    before = array.copy()
    array.flags.writeable = False
    sink = open_for(array[..., 0], "yx", file_format, tmp_path / f"out{ENDINGS[file_format]}")
    store(sink, 0, Region.of_shape((512, 512)), array)
    sink.finish()
    assert same(array, before)


@given(data=st.data())
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_shape_in_any_order(tmp_path_factory, file_format, data):
    planes = data.draw(st.lists(st.integers(1, 3), max_size=2), label="planes")
    samples = data.draw(st.lists(st.integers(1, 4), max_size=1), label="samples")
    spatial = data.draw(st.tuples(st.integers(1, 1100), st.integers(1, 60)), label="spatial")
    if data.draw(st.booleans(), label="wide"):
        spatial = spatial[::-1]
    units = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), label="units")
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    dims = "tz"[: len(planes)] + "yx" + "s"[: len(samples)]
    array = pixels_of((*planes, *spatial, *samples), dtype)
    path = tmp_path_factory.mktemp("any") / f"out{ENDINGS[file_format]}"
    sink = open_for(array, dims, file_format, path)
    write_all(sink, array, seed=data.draw(st.integers(0, 99)), units=units, threads=2)
    sink.finish()
    assert same(READERS[file_format](path), array)


@pytest.mark.parametrize("left_out", [0, 1, -1])
def test_finish_refuses_a_missing_unit(tmp_path, file_format, left_out):
    array = pixels_of((3, 20, 20), "uint8")
    path = tmp_path / f"out{ENDINGS[file_format]}"
    sink = open_for(array, "zyx", file_format, path)
    tiles = tiles_of(sink)
    missing = tiles[left_out]
    for tile in tiles:
        if tile is not missing:
            store(sink, tile.plane, tile.region, array[tile.plane][tile.region.slices][..., None])
    with pytest.raises(StorageError, match="never written") as caught:
        sink.finish()
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    sink.close()


@pytest.mark.parametrize(
    ("plane", "start", "stop"),
    [
        (0, (1, 0), (20, 20)),
        (0, (0, 3), (20, 20)),
        (0, (0, 0), (19, 20)),
        (0, (0, 0), (20, 7)),
        (0, (0, 0), (21, 20)),
        (0, (-16, 0), (20, 20)),
        (0, (0, 0), (0, 0)),
        (2, (0, 0), (20, 20)),
        (-1, (0, 0), (20, 20)),
    ],
)
def test_a_region_is_made_of_whole_units(tmp_path, file_format, plane, start, stop):
    array = pixels_of((2, 20, 20), "uint8")
    sink = open_for(array, "zyx", file_format, tmp_path / f"out{ENDINGS[file_format]}")
    region = Region(start, stop)
    with pytest.raises(ValueError, match=r"\w"):
        store(sink, plane, region, np.zeros((*region.shape, 1), np.uint8))
    sink.close()


@pytest.mark.parametrize(
    "block",
    [
        np.zeros((20, 20), np.uint8),
        np.zeros((20, 20, 2), np.uint8),
        np.zeros((19, 20, 1), np.uint8),
        np.zeros((20, 20, 1), np.int8),
        np.zeros((20, 20, 1), np.float32),
    ],
    ids=["no samples", "two samples", "a row short", "signed", "float"],
)
def test_a_block_has_the_regions_shape_and_the_rasters_dtype(tmp_path, file_format, block):
    array = pixels_of((20, 20), "uint8")
    sink = open_for(array, "yx", file_format, tmp_path / f"out{ENDINGS[file_format]}")
    with pytest.raises(ValueError, match=r"\w"):
        store(sink, 0, Region.of_shape((20, 20)), block)
    sink.close()


def test_a_retried_task_may_write_again(tmp_path, file_format):
    array = pixels_of((40, 30), "float32")
    path = tmp_path / f"out{ENDINGS[file_format]}"
    sink = open_for(array, "yx", file_format, path)
    write_all(sink, array)
    write_all(sink, array)
    sink.finish()
    assert same(READERS[file_format](path), array)


def test_what_stands_at_the_path_stays(tmp_path, file_format):
    path = tmp_path / f"out{ENDINGS[file_format]}"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match="out"):
        open_for(np.zeros((20, 20)), "yx", file_format, path)
    assert path.read_text() == "precious"


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path, file_format):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / f"out{ENDINGS[file_format]}"
    with pytest.raises(StorageError, match="out") as caught:
        open_for(np.zeros((20, 20)), "yx", file_format, path)
    assert "\n" not in str(caught.value)


def test_a_closed_sink_takes_no_more(tmp_path, file_format):
    array = pixels_of((20, 20, 1), "uint8")
    sink = open_for(array[..., 0], "yx", file_format, tmp_path / f"out{ENDINGS[file_format]}")
    store(sink, 0, Region.of_shape((20, 20)), array)
    sink.finish()
    sink.close()
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        store(sink, 0, Region.of_shape((20, 20)), array)


def test_planning_touches_no_file_and_minds_no_size(tmp_path, monkeypatch, file_format):
    monkeypatch.chdir(tmp_path)
    raster = Raster((31_622_777, 31_622_777), np.dtype(np.uint8), ("y", "x"))
    layout = plan_layout(file_format, raster)
    assert layout.format == file_format
    assert layout.max_bytes >= raster.nbytes
    assert 0 < layout.write_bytes < 1 << 28
    assert list(tmp_path.iterdir()) == []


def test_a_layout_describes_what_will_be_stored(file_format):
    raster = Raster((3, 3000, 5000), np.dtype(np.int16), ("c", "y", "x"), chunk=(7, 7))
    layout = plan_layout(file_format, raster, compression="none")
    assert layout.raster.shape == raster.shape
    assert layout.raster.dtype == raster.dtype
    assert layout.raster.dims == raster.dims
    assert layout.raster.compression == layout.compression == "none"
    assert layout.raster.chunk is not None
    assert [u % c for u, c in zip(layout.unit, layout.raster.chunk, strict=True)] == [0, 0]


@pytest.mark.parametrize("options", [{"compression": "zip"}, {"level": 99}, {"level": -1}])
def test_a_compression_that_is_not_there_is_refused(file_format, options):
    value = str(next(iter(options.values())))
    with pytest.raises(ConfigError, match=value):
        plan_layout(file_format, Raster((20, 20), np.dtype(np.uint8), ("y", "x")), **options)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.tif", "tiff"),
        ("a.b.TIFF", "tiff"),
        (Path("folder.zarr/a.tif"), "tiff"),
        ("a.zarr", "zarr"),
        ("home.tif", "tiff"),
        ("a.ome.zarr.zarr", "zarr"),
    ],
)
def test_the_ending_picks_the_format(name, wanted):
    assert format_of(name) == wanted


@pytest.mark.parametrize("name", ["a", "a.png", "a.ome.tif", "a.OME.zarr", "a.tif.gz", ".tif", ""])
def test_other_endings_are_refused(name):
    with pytest.raises(ConfigError, match=r"use \.tif, \.tiff, \.zarr"):
        format_of(name)


def elsewhere(sink: Sink, array: np.ndarray, *, writers: int) -> list[Receipt]:
    """Every tile written once, by copies of the writer such as other processes hold."""
    copies = [pickle.loads(pickle.dumps(sink.writer)) for _ in range(writers)]
    planes = planes_of(array, sink.layout.raster)
    receipts = []
    for number, tile in enumerate(tiles_of(sink)):
        block = planes[tile.plane][tile.region.slices]
        receipt = copies[number % writers].write(tile.plane, tile.region, block)
        receipts.append(pickle.loads(pickle.dumps(receipt)))
    return receipts


@pytest.mark.parametrize("writers", [1, 3])
def test_copies_of_the_writer_write_into_the_same_output(tmp_path, file_format, writers):
    array = pixels_of((3, 1100, 700), "int16")
    path = tmp_path / f"out{ENDINGS[file_format]}"
    sink = open_for(array, "zyx", file_format, path)
    receipts = elsewhere(sink, array, writers=writers)
    random.Random(1).shuffle(receipts)
    for receipt in receipts:
        sink.record(receipt)
    sink.finish()
    assert same(READERS[file_format](path), array)


def test_some_tiles_here_some_elsewhere_some_twice(tmp_path, file_format):
    array = pixels_of((4, 530, 600, 3), "uint8")
    path = tmp_path / f"out{ENDINGS[file_format]}"
    sink = open_for(array, "zyxs", file_format, path)
    lost, kept = elsewhere(sink, array, writers=2), elsewhere(sink, array, writers=2)
    planes = planes_of(array, sink.layout.raster)
    for number, tile in enumerate(tiles_of(sink)):
        sink.record(lost[number])
        if number % 3:
            sink.record(kept[number])
        else:
            store(sink, tile.plane, tile.region, planes[tile.plane][tile.region.slices])
    sink.finish()
    assert same(READERS[file_format](path), array)


def test_what_no_receipt_names_was_never_written(tmp_path, file_format):
    array = pixels_of((3, 20, 20), "uint8")
    sink = open_for(array, "zyx", file_format, tmp_path / f"out{ENDINGS[file_format]}")
    for receipt in elsewhere(sink, array, writers=1)[:-1]:
        sink.record(receipt)
    with pytest.raises(StorageError, match="1 of 3 .* row 0, column 0 of plane 2"):
        sink.finish()


def test_a_writer_that_outlives_its_run_brings_nothing_back(tmp_path, file_format):
    folder = tmp_path / "staging"
    folder.mkdir()
    array = pixels_of((20, 20, 1), "uint8")
    sink = open_for(array[..., 0], "yx", file_format, folder / f"out{ENDINGS[file_format]}")
    begun, late = pickle.loads(pickle.dumps([sink.writer, sink.writer]))
    begun.write(0, Region.of_shape((20, 20)), array)
    shutil.rmtree(folder)
    for writer in (begun, late):
        with pytest.raises(StorageError, match="out"):
            writer.write(0, Region.of_shape((20, 20)), array)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_gone_or_cut_short_is_told(tmp_path):
    array = pixels_of((600, 600), "uint8")
    for damage in (Path.unlink, lambda part: os.truncate(part, 1000)):
        path = tmp_path / "out.tif"
        sink = open_for(array, "yx", "tiff", path)
        for receipt in elsewhere(sink, array, writers=1):
            sink.record(receipt)
        (part,) = (tmp_path / "out.tif.parts").iterdir()
        damage(part)
        with pytest.raises(StorageError, match=part.name):
            sink.finish()
        shutil.rmtree(part.parent)
        path.unlink()


def test_parts_are_joined_where_the_system_cannot_copy_between_files(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    array = pixels_of((600, 1100), "uint16")
    sink = open_for(array, "yx", "tiff", tmp_path / "out.tif")
    for receipt in elsewhere(sink, array, writers=2):
        sink.record(receipt)
    sink.finish()
    assert same(tifffile.imread(tmp_path / "out.tif"), array)
