"""What every source does, whatever it reads: windows of a raster that others wrote."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tileconv.core.grid import Region
from tileconv.errors import ConfigError, InputError
from tileconv.stores.array_source import NpySource, NumpySource
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.formats import open_source
from tileconv.stores.sample_source import SampleSource
from tileconv.stores.source import Source
from tileconv.stores.tiff.reader import TiffSource
from tileconv.stores.zarr.reader import ZarrSource

SHAPES = {
    "grey": ((70, 53), "yx"),
    "interleaved": ((40, 37, 3), "yxs"),
    "pages": ((3, 24, 31), "zyx"),
    "two axes of planes": ((2, 3, 20, 17), "tzyx"),
    "one pixel": ((1, 1), "yx"),
}


def _numpy(array: np.ndarray, dims: str, path: Path):
    return array


def _npy(array: np.ndarray, dims: str, path: Path):
    np.save(path / "a.npy", array)
    return path / "a.npy"


def _npy_fortran(array: np.ndarray, dims: str, path: Path):
    np.save(path / "f.npy", np.asfortranarray(array))
    return path / "f.npy"


def _zarr(array: np.ndarray, dims: str, path: Path | None, *, version: int, shard: bool = False):
    chunk = [{"y": 16, "x": 12}.get(name, 2) for name in dims]
    names = {"dimension_names": list(dims)} if version == 3 else {}
    out = zarr.create_array(
        store=zarr.storage.MemoryStore() if path is None else str(path / f"v{version}.zarr"),
        shape=array.shape,
        chunks=tuple(chunk),
        shards=tuple(2 * size for size in chunk) if shard else None,
        dtype=array.dtype,
        zarr_format=version,
        **names,
    )
    out[...] = array
    return out if path is None else path / f"v{version}.zarr"


def _zarr2(array: np.ndarray, dims: str, path: Path):
    return _zarr(array, dims, path, version=2)


def _zarr3(array: np.ndarray, dims: str, path: Path):
    return _zarr(array, dims, path, version=3)


def _zarr3_sharded(array: np.ndarray, dims: str, path: Path):
    return _zarr(array, dims, path, version=3, shard=True)


def _zarr_in_memory(array: np.ndarray, dims: str, path: Path):
    return _zarr(array, dims, None, version=3, shard=True)


def _tiff_tiles(array: np.ndarray, dims: str, path: Path):
    photometric = "rgb" if dims[-1] == "s" else "minisblack"
    options = {"tile": (16, 32), "compression": "deflate", "photometric": photometric}
    tifffile.imwrite(path / "t.tif", array, **options)
    return path / "t.tif"


def _tiff_strips(array: np.ndarray, dims: str, path: Path):
    photometric = "rgb" if dims[-1] == "s" else "minisblack"
    options = {"rowsperstrip": 7, "byteorder": ">", "photometric": photometric}
    tifffile.imwrite(path / "s.tif", array, **options)
    return path / "s.tif"


MAKERS: dict[str, tuple[Callable, type]] = {
    "numpy": (_numpy, NumpySource),
    "npy": (_npy, NpySource),
    "npy in Fortran order": (_npy_fortran, NpySource),
    "zarr v2": (_zarr2, ZarrSource),
    "zarr v3": (_zarr3, ZarrSource),
    "zarr v3 with shards": (_zarr3_sharded, ZarrSource),
    "zarr array in memory": (_zarr_in_memory, ZarrSource),
    "tiff, tiles": (_tiff_tiles, TiffSource),
    "tiff, strips": (_tiff_strips, TiffSource),
}
FILES = [name for name in MAKERS if name not in ("numpy", "zarr array in memory")]


def pixels(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    values = np.random.default_rng(7).integers(0, 251, shape)
    return (values + 1j * values[::-1] if dtype.endswith(("c8", "c16")) else values).astype(dtype)


def opened(maker: str, array: np.ndarray, dims: str, path: Path, **options) -> Source:
    make, _ = MAKERS[maker]
    made = make(array, dims, path)
    if not maker.startswith("tiff"):
        options.setdefault("dims", dims)
    return open_source(made, **options)


def read(source: Source, plane: int, region: Region) -> np.ndarray:
    out = np.empty((*region.shape, source.raster.samples), source.raster.dtype)
    source.read(plane, region, out)
    return out


def whole(source: Source) -> np.ndarray:
    """Every plane, read at once."""
    region = Region.of_shape(source.raster.spatial)
    return np.stack([read(source, plane, region) for plane in range(source.raster.planes)])


@pytest.fixture(params=sorted(SHAPES))
def shaped(request) -> tuple[np.ndarray, str]:
    shape, dims = SHAPES[request.param]
    return pixels(shape), dims


@pytest.fixture(params=sorted(MAKERS))
def maker(request) -> str:
    return request.param


def test_open_source_finds_the_format_and_describes_the_raster(maker, shaped, tmp_path):
    array, dims = shaped
    with opened(maker, array, dims, tmp_path) as source:
        assert type(source) is MAKERS[maker][1]
        assert source.raster.shape == array.shape
        assert source.raster.dtype == array.dtype
        assert source.raster.dtype.isnative
        assert source.raster.dims.index("y") == dims.index("y")
        assert source.raster.spatial == array.shape[dims.index("y") :][:2]
        assert source.absent.count == 0


def test_planes_read_at_once_are_the_array(maker, shaped, tmp_path):
    array, dims = shaped
    with opened(maker, array, dims, tmp_path) as source:
        raster = source.raster
        expected = array.reshape(raster.planes, *raster.spatial, raster.samples)
        np.testing.assert_array_equal(whole(source), expected)


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", ">i8", "f2", "<f4", ">f8"])
def test_every_dtype_comes_out_native(maker, dtype, tmp_path):
    array = pixels((33, 21), dtype)
    with opened(maker, array, "yx", tmp_path) as source:
        assert source.raster.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(whole(source)[0, :, :, 0], array)


@pytest.mark.parametrize("dtype", ["?", "<c8", "<c16"])
@pytest.mark.parametrize("maker", [name for name in MAKERS if not name.startswith("tiff")])
def test_booleans_and_complex_numbers_are_read(maker, dtype, tmp_path):
    array = pixels((33, 21), dtype)
    with opened(maker, array, "yx", tmp_path) as source:
        np.testing.assert_array_equal(whole(source)[0, :, :, 0], array)


@pytest.mark.parametrize("dims", ["grey", "interleaved", "two axes of planes"])
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(data=st.data())
def test_any_window_goes_into_any_array(maker, dims, tmp_path_factory, data):
    """Whatever the strides of the block, and whatever dtype it has."""
    shape, names = SHAPES[dims]
    array = pixels(shape)
    source = _opened_once(maker, dims, array, names, tmp_path_factory)
    raster = source.raster
    rows, columns = raster.spatial
    y0, x0 = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    y1, x1 = data.draw(st.integers(y0, rows)), data.draw(st.integers(x0, columns))
    plane = data.draw(st.integers(0, raster.planes - 1))
    region = Region((y0, x0), (y1, x1))
    dtype = data.draw(st.sampled_from(["u2", "i4", ">f4", "f8", "c16"]))
    big = np.full((2 * (y1 - y0) + 1, 3 * (x1 - x0) + 2, raster.samples + 1), 77, dtype)
    out = big[1::2, 1:-1:3, : raster.samples]
    if data.draw(st.booleans()):
        out = out[::-1]
    if data.draw(st.booleans()):
        out = out[:, ::-1]
    assert out.shape == (*region.shape, raster.samples)
    source.read(plane, region, out)
    expected = array.reshape(raster.planes, *raster.spatial, raster.samples)[plane][region.slices]
    np.testing.assert_array_equal(out, expected)
    # Nothing beside the window was written.
    assert np.count_nonzero(big == 77) >= big.size - out.size


_SOURCES: dict[tuple[str, str], Source] = {}


@pytest.fixture(scope="module", autouse=True)
def close_sources():
    yield
    for source in _SOURCES.values():
        source.close()


def _opened_once(maker, name, array, dims, factory) -> Source:
    if (maker, name) not in _SOURCES:
        path = factory.mktemp("source")
        _SOURCES[maker, name] = opened(maker, array, dims, path, cache=ChunkCache(1 << 12))
    return _SOURCES[maker, name]


def test_many_threads_read_at_once(maker, tmp_path):
    array = pixels((120, 90))
    with opened(maker, array, "yx", tmp_path, cache=ChunkCache(1 << 11)) as source:
        windows = [
            Region((y, x), (y + 23, x + 31)) for y in range(0, 97, 5) for x in range(0, 59, 9)
        ]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda window: read(source, 0, window), windows))
        for window, block in zip(windows, found, strict=True):
            np.testing.assert_array_equal(block[:, :, 0], array[window.slices])


def test_a_chunk_is_decoded_once_where_the_cache_holds_it(maker, tmp_path):
    array = pixels((96, 96))
    cache = ChunkCache(1 << 22)
    with opened(maker, array, "yx", tmp_path, cache=cache) as source:
        for _ in range(2):
            for y in range(0, 96, 8):
                read(source, 0, Region((y, 0), (y + 8, 96)))
        if source.raster.chunk is None or source.raster.compression == "none":
            return
        rows, columns = source.raster.chunk
        assert cache.loads == -(-96 // rows) * -(-96 // columns)


@pytest.mark.parametrize("maker", FILES)
def test_a_pickle_carries_the_path_and_opens_the_file_anew(maker, tmp_path):
    array = pixels((300, 200))
    source = opened(maker, array, "yx", tmp_path)
    carried = pickle.dumps(source)
    assert len(carried) < 2000
    source.close()
    with pickle.loads(carried) as copy:
        assert copy.raster == source.raster
        np.testing.assert_array_equal(whole(copy)[0, :, :, 0], array)


@pytest.mark.parametrize("maker", FILES)
def test_a_closed_source_does_not_read(maker, tmp_path):
    source = opened(maker, pixels((30, 20)), "yx", tmp_path)
    source.close()
    source.close()
    with pytest.raises(ValueError, match="closed"):
        read(source, 0, Region((0, 0), (4, 4)))


def test_a_made_up_raster_is_a_source_too():
    with SampleSource("slide", (300, 260, 3)) as source:
        full = whole(source)[0]
        region = Region((41, 17), (200, 201))
        np.testing.assert_array_equal(read(source, 0, region), full[region.slices])
        assert pickle.loads(pickle.dumps(source)).raster == source.raster


# What cannot be opened.


def test_a_path_that_does_not_exist_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "none.tif", tmp_path / "none.zarr", tmp_path / "file" / "a.npy"):
        with pytest.raises(ConfigError, match="does not exist") as caught:
            open_source(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("a.tif", b"II*"),
        ("a.tif", b""),
        ("a.npy", b"\x93NUMPZ" + bytes(100)),
        ("a.npy", b"\x93NUMPY\x01\x00\xff\xff" + bytes(10)),
        ("a.npy", b"\x93NUMPY\x09\x00"),
        ("a.tif", b"II*\0\xff\xff\xff\x7f"),
    ],
)
def test_a_file_of_no_known_format_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_zarr_is_refused(tmp_path):
    with pytest.raises(InputError, match="folder without Zarr"):
        open_source(tmp_path)


def test_what_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = _npy(pixels((4, 4)), "yx", tmp_path)

    def denied(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match="Permission denied"):
        open_source(path)


@pytest.mark.parametrize("maker", sorted(MAKERS))
def test_a_level_that_is_not_there_is_the_users_mistake(maker, tmp_path):
    with pytest.raises(ConfigError, match="level"):
        opened(maker, pixels((30, 20)), "yx", tmp_path, level=1)


@pytest.mark.parametrize(
    "thing", [None, 3, [[1, 2]], memoryview(b"ab")], ids=["none", "number", "list", "memory"]
)
def test_what_is_neither_path_nor_array_is_the_users_mistake(thing):
    with pytest.raises(ConfigError, match="a path, a numpy or a Zarr array"):
        open_source(thing)


def test_a_tiff_keeps_its_own_axes(tmp_path):
    path = _tiff_tiles(pixels((40, 37, 3)), "yxs", tmp_path)
    with open_source(path, dims="YXS") as source:
        assert source.raster.dims == ("y", "x", "s")
    with pytest.raises(ConfigError, match="leave axes out"):
        open_source(path, dims="zyx")


def test_a_zarr_is_found_whatever_its_name(tmp_path):
    array = pixels((30, 20))
    _zarr3(array, "yx", tmp_path)
    (tmp_path / "v3.zarr").rename(tmp_path / "plain")
    with open_source(str(tmp_path / "plain")) as source:
        np.testing.assert_array_equal(whole(source)[0, :, :, 0], array)
