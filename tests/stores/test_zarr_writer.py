"""Zarr output: what zarr-python makes of it, what its files hold, how it fails.

What every sink does is in test_sinks.py.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import zarr

from tileconv import __version__
from tileconv.core.grid import Region, TileGrid
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, StorageError
from tileconv.stores.zarr.layout import SHARD_BYTES_MAX, array_metadata, zarr_layout
from tileconv.stores.zarr.reader import ZarrSource
from tileconv.stores.zarr.writer import ZarrSink

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64", "complex64", "complex128"]  # fmt: skip


def raster(shape, dtype="uint8", dims="yx") -> Raster:
    return Raster(tuple(shape), np.dtype(dtype), tuple(dims))


def store(sink, plane: int, region: Region, block: np.ndarray) -> None:
    sink.record(sink.writer.write(plane, region, block))


def written(path, array: np.ndarray, dims: str = "yx", **options) -> ZarrSink:
    layout = zarr_layout(raster(array.shape, array.dtype, dims), **options)
    sink = ZarrSink(path, layout)
    planes = array.reshape(layout.raster.planes, *layout.raster.spatial, layout.raster.samples)
    for tile in TileGrid(layout.raster.spatial, layout.unit, layout.raster.planes):
        store(sink, tile.plane, tile.region, planes[tile.plane][tile.region.slices])
    sink.finish()
    return sink


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_written_as_zarr_python_names_it(tmp_path, dtype):
    array = (np.arange(600 * 530).reshape(600, 530) % 128).astype(dtype)
    written(tmp_path / "a.zarr", array)
    stored = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert stored.dtype == array.dtype
    assert stored.fill_value == np.zeros((), dtype)
    np.testing.assert_array_equal(stored[...], array)


@pytest.mark.parametrize(
    ("compression", "codec"), [("zstd", "zstd"), ("deflate", "gzip"), ("none", None)]
)
@pytest.mark.parametrize("level", [None, 3])
def test_the_metadata_are_those_of_zarr_python(tmp_path, compression, codec, level):
    """Written by it for the same array, but for what only tileconv says."""
    if compression == "none" and level:
        pytest.skip("no compression has no level")
    layout = zarr_layout(raster((5, 3000, 2900, 3), "uint16", "cyxs"),
                         compression=compression, level=level)  # fmt: skip
    usual = {"zstd": 1, "deflate": 6}.get(compression)
    compressor = {"name": codec, "configuration": {"level": level or usual}}
    if codec == "zstd":
        compressor["configuration"]["checksum"] = False
    zarr.create_array(
        store=str(tmp_path / "b"),
        shape=(5, 3000, 2900, 3),
        chunks=(1, 512, 512, 3),
        shards=(1, *layout.unit, 3),
        dtype="uint16",
        compressors=compressor if codec else None,
        dimension_names=["c", "y", "x", "s"],
    )
    theirs = json.loads((tmp_path / "b/zarr.json").read_text())
    ours = json.loads(array_metadata(layout))
    assert ours.pop("attributes") == {"tileconv": __version__}
    theirs.pop("attributes")
    assert ours == theirs


def test_every_chunk_in_the_raster_is_stored_also_of_zeros(tmp_path):
    """And none beyond its edge; an absent chunk means that something is wrong."""
    written(tmp_path / "a.zarr", np.zeros((3, 1100, 700), "uint8"), "zyx")
    source = ZarrSource(tmp_path / "a.zarr", cache=None)
    for plane in range(3):
        source.read(plane, Region((0, 0), (1100, 700)), np.empty((1100, 700, 1)))
    assert source.absent.count == 0
    assert source.raster.chunk == (512, 512)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"a.zarr/zarr.json"} | {f"a.zarr/c/{plane}/0/0" for plane in range(3)}
    data = (tmp_path / "a.zarr/c/0/0/0").read_bytes()
    index = np.frombuffer(data[-(16 * 6 + 4) : -4], "<u8").reshape(3, 2, 2)
    assert (index != (1 << 64) - 1).all()


def test_a_shard_at_the_edge_holds_no_chunks_beyond_it(tmp_path):
    written(tmp_path / "a.zarr", np.ones((2048 + 600, 2048 + 10), "uint8"))
    data = (tmp_path / "a.zarr/c/1/1").read_bytes()
    index = np.frombuffer(data[-(16 * 16 + 4) : -4], "<u8").reshape(4, 4, 2)
    there = index[..., 0] != (1 << 64) - 1
    assert there.sum() == 2
    assert there[:2, 0].all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 4, 4), (4, 0, 3)])
def test_an_empty_raster_is_an_empty_array(tmp_path, shape):
    written(tmp_path / "a.zarr", np.zeros(shape), "zyx"[-len(shape) :])
    stored = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert stored.shape == shape
    assert stored[...].size == 0


@pytest.mark.parametrize(
    ("dtype", "samples", "unit"),
    [("uint8", 1, 2048), ("uint16", 1, 2048), ("float32", 1, 1024), ("float64", 1, 1024),
     ("uint8", 3, 1024), ("complex128", 1, 512), ("float64", 4, 512), ("float64", 100, 64)],
)  # fmt: skip
def test_the_shard_is_the_largest_that_keeps_to_its_bytes(dtype, samples, unit):
    layout = zarr_layout(raster((1 << 20, 1 << 20, samples), dtype, "yxs"))
    assert layout.unit == (unit, unit)
    pixel = samples * np.dtype(dtype).itemsize
    assert unit * unit * pixel <= SHARD_BYTES_MAX
    assert unit == 4096 or 4 * unit * unit * pixel > SHARD_BYTES_MAX


@pytest.mark.parametrize(
    ("shape", "chunk", "unit"),
    [((100, 100), (100, 100), (100, 100)), ((1, 1), (1, 1), (1, 1)),
     ((512, 513), (512, 512), (512, 1024)), ((300, 9000), (300, 512), (300, 2048)),
     ((2049, 2048), (512, 512), (2048, 2048))],
)  # fmt: skip
def test_chunks_and_shards_are_no_larger_than_the_raster_needs(shape, chunk, unit):
    layout = zarr_layout(raster(shape))
    assert layout.raster.chunk == chunk
    assert layout.unit == unit


def test_a_layout_depends_on_nothing_but_the_raster():
    one = zarr_layout(raster((9000, 9000)))
    two = zarr_layout(Raster((9000, 9000), np.dtype("u1"), ("y", "x"), chunk=(7, 7), table_bytes=9))
    assert one == two


@pytest.mark.parametrize("dtype", ["U3", "M8[s]", "O", "longdouble"])
def test_dtypes_that_zarr_has_no_name_for_are_refused(dtype):
    with pytest.raises(ConfigError, match="Zarr cannot hold"):
        zarr_layout(raster((4, 4), dtype))


@pytest.mark.parametrize(
    ("compression", "level"),
    [("lzw", None), ("zstd", 23), ("zstd", 0), ("deflate", 10), ("none", 1)],
)
def test_compressions_and_levels_that_are_not_there_are_refused(compression, level):
    with pytest.raises(ConfigError, match="use one of|levels"):
        zarr_layout(raster((4, 4)), compression=compression, level=level)


def test_nothing_is_an_array_before_it_is_finished(tmp_path):
    layout = zarr_layout(raster((4, 4)))
    sink = ZarrSink(tmp_path / "a.zarr", layout)
    store(sink, 0, Region((0, 0), (4, 4)), np.ones((4, 4, 1), "u1"))
    assert not (tmp_path / "a.zarr/zarr.json").exists()
    sink.finish()
    assert (tmp_path / "a.zarr/zarr.json").exists()


def test_a_shard_is_written_without_being_read(tmp_path, monkeypatch):
    """Whole shards, at the edges too, over what a run that was killed left there."""
    array = np.random.default_rng(0).integers(0, 255, (2100, 100)).astype("u1")
    layout = zarr_layout(raster(array.shape))
    sink = ZarrSink(tmp_path / "a.zarr", layout)
    for name in ("c/0/0", "c/1/0"):
        (tmp_path / "a.zarr" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a.zarr" / name).write_bytes(b"torn" * 100_000)
    opened = []
    real = os.open

    def spy(path, flags, *mode):
        opened.append(flags & os.O_ACCMODE)
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", spy)
    for tile in TileGrid(array.shape, layout.unit):
        store(sink, 0, tile.region, array[tile.region.slices][..., None])
    assert set(opened) == {os.O_WRONLY}
    monkeypatch.undo()
    sink.finish()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[...], array)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_is_told_and_leaves_no_torn_shard(tmp_path, monkeypatch, code):
    sink = ZarrSink(tmp_path / "a.zarr", zarr_layout(raster((600, 600))))
    real = os.pwrite
    calls = []

    def full(handle, data, at):
        calls.append(len(data))
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))
        return real(handle, data[: len(data) // 2 + 1], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError) as caught:
        store(sink, 0, Region((0, 0), (600, 600)), np.ones((600, 600, 1), "u1"))
    monkeypatch.undo()
    message = str(caught.value)
    assert "c/0/0" in message
    assert os.strerror(code) in message
    assert re.search(r"needed \d+ bytes, free \d+", message)
    assert "\n" not in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(StorageError, match="never written"):
        sink.finish()


def test_writes_that_stop_short_go_on(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: real(handle, data[:1000], at))
    array = np.random.default_rng(0).integers(0, 255, (600, 600)).astype("u1")
    written(tmp_path / "a.zarr", array, compression="none")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[...], array)


@pytest.mark.parametrize("compression", ["zstd", "deflate", "none"])
def test_data_that_do_not_compress_stay_within_the_plan(tmp_path, compression):
    array = np.random.default_rng(0).integers(0, 256, (1100, 1300), np.uint8)
    sink = written(tmp_path / "a.zarr", array, compression=compression)
    used = sum(f.stat().st_blocks * 512 for f in tmp_path.rglob("*") if f.is_file())
    assert used <= sink.layout.max_bytes


@pytest.mark.parametrize(("compression", "level"), [("zstd", 1), ("zstd", 9), ("deflate", 6)])
def test_a_write_takes_no_more_memory_than_it_says(tmp_path, compression, level):
    code = (
        "import sys, resource, numpy as np\n"
        "from tileconv.core.grid import Region\n"
        "from tileconv.core.raster import Raster\n"
        "from tileconv.stores.zarr.layout import zarr_layout\n"
        "from tileconv.stores.zarr.writer import ZarrSink\n"
        "def sink(name, shape):\n"
        "    made = zarr_layout(Raster(shape, np.dtype('f8'), ('y', 'x')),"
        "        compression=sys.argv[2], level=int(sys.argv[3]))\n"
        "    return ZarrSink(sys.argv[1] + name, made)\n"
        "small = sink('/s', (8, 8))\n"
        "small.writer.write(0, Region((0, 0), (8, 8)), np.zeros((8, 8, 1)))\n"
        "large = sink('/l', (2048, 2048))\n"
        "block = np.random.default_rng(0).random((2048, 2048, 1))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10\n"
        "before = peak()\n"
        "large.writer.write(0, Region((0, 0), (2048, 2048)), block)\n"
        "print(peak() - before, large.layout.write_bytes)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), compression, str(level)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    used, planned = map(int, done.stdout.split())
    assert used <= planned
