"""Zarr arrays written by zarr-python, read window by window; what is absent, corrupt or hostile."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)

from tileconv.core.grid import Region
from tileconv.errors import BadChunkError, ConfigError, InputError
from tileconv.stores.absent import Bad, Missing
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.zarr.reader import ZarrSource

RNG = np.random.default_rng(3)


def pixels(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    return RNG.integers(1, 200, shape).astype(dtype)


def planes(source: ZarrSource) -> np.ndarray:
    raster = source.raster
    out = np.empty((raster.planes, *raster.spatial, raster.samples), raster.dtype)
    for plane in range(raster.planes):
        source.read(plane, Region.of_shape(raster.spatial), out[plane])
    return out


def assert_reads(source: ZarrSource, array: np.ndarray) -> None:
    np.testing.assert_array_equal(planes(source).reshape(array.shape), array)


def make(path: Path | str, array: np.ndarray, **options) -> zarr.Array:
    options.setdefault("chunks", tuple(min(size, 16) for size in array.shape))
    out = zarr.create_array(store=str(path), shape=array.shape, dtype=array.dtype, **options)
    out[...] = array
    return out


# Codecs.

V2_COMPRESSORS = {
    "none": None,
    "zlib": numcodecs.Zlib(3),
    "gzip": numcodecs.GZip(3),
    "zstd": numcodecs.Zstd(1),
    "lz4": numcodecs.LZ4(),
    "bz2": numcodecs.BZ2(1),
    "lzma": numcodecs.LZMA(),
    "blosc lz4 shuffle": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
    "blosc zstd bitshuffle": numcodecs.Blosc("zstd", 1, numcodecs.Blosc.BITSHUFFLE),
    "blosc blosclz": numcodecs.Blosc("blosclz"),
    "blosc zlib": numcodecs.Blosc("zlib"),
}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressor", sorted(V2_COMPRESSORS))
def test_v2_codecs(tmp_path, compressor, order):
    array = pixels((50, 41), ">i4")
    make(
        tmp_path / "a",
        array,
        zarr_format=2,
        compressors=V2_COMPRESSORS[compressor],
        order=order,
        filters=None,
    )
    source = ZarrSource(tmp_path / "a")
    assert_reads(source, array)


V3_CHAINS = {
    "raw": {"compressors": None},
    "big-endian": {"serializer": BytesCodec(endian="big"), "compressors": None},
    "zstd": {"compressors": ZstdCodec(level=3)},
    "zstd, checked": {"compressors": ZstdCodec(level=1, checksum=True)},
    "gzip": {"compressors": GzipCodec(level=1)},
    "blosc": {"compressors": BloscCodec(cname="lz4", typesize=2)},
    "crc32c": {"compressors": Crc32cCodec()},
    "two compressors and a checksum": {
        "compressors": (GzipCodec(level=1), ZstdCodec(level=1), Crc32cCodec())
    },
    "transposed": {"filters": TransposeCodec(order=(2, 0, 1)), "compressors": ZstdCodec()},
    "transposed twice": {
        "filters": (TransposeCodec(order=(1, 2, 0)), TransposeCodec(order=(1, 0, 2))),
        "compressors": None,
    },
    "shards": {"chunks": (2, 8, 8), "shards": (2, 24, 16)},
    "shards, index first": {
        "chunks": (4, 16, 16),
        "compressors": None,
        "serializer": ShardingCodec(
            chunk_shape=(2, 8, 4), codecs=[BytesCodec(), GzipCodec()], index_location="start"
        ),
    },
    "shards, index unchecked": {
        "chunks": (4, 16, 16),
        "compressors": None,
        "serializer": ShardingCodec(
            chunk_shape=(2, 8, 4),
            codecs=[TransposeCodec(order=(2, 1, 0)), BytesCodec(), ZstdCodec()],
            index_codecs=[BytesCodec()],
        ),
    },
    "dots in keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
}


@pytest.mark.parametrize("chain", sorted(V3_CHAINS))
def test_v3_codecs(tmp_path, chain):
    array = pixels((5, 30, 41))
    options = {"chunks": (2, 8, 16)} | V3_CHAINS[chain]
    stored = make(tmp_path / "a", array, **options)
    source = ZarrSource(tmp_path / "a", dims="zyx")
    assert source.raster.chunk == tuple(stored.chunks)[1:]
    assert_reads(source, array)


NUMCODECS = "ignore::zarr.errors.ZarrUserWarning", "ignore:Numcodecs codecs"


def numcodec(name: str, **options) -> dict[str, object]:
    return {"name": f"numcodecs.{name}", "configuration": options}


@pytest.mark.filterwarnings(*NUMCODECS)
@pytest.mark.parametrize(
    "options",
    [
        {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="<u2")]},
        {"zarr_format": 2, "filters": [numcodecs.Delta(dtype="<u2")], "order": "F"},
        {"zarr_format": 2, "filters": [numcodecs.Shuffle(2)], "compressors": numcodecs.LZ4()},
        {
            "zarr_format": 2,
            "filters": [numcodecs.Delta(dtype="<u2"), numcodecs.Shuffle(2), numcodecs.CRC32()],
            "compressors": numcodecs.Blosc(),
        },
        {"zarr_format": 2, "filters": [numcodecs.AsType("<f8", "<u2")], "compressors": None},
        {"zarr_format": 2, "filters": [numcodecs.FixedScaleOffset(0, 0.5, "<u2", "<u2")]},
        {"compressors": numcodec("lz4", acceleration=1)},
        {"compressors": [numcodec("shuffle", elementsize=2), numcodec("zlib", level=1)]},
        {"compressors": [numcodec("zstd", level=1), numcodec("fletcher32")]},
        {"filters": numcodec("delta", dtype="<u2")},
        {"chunks": (8, 8), "shards": (16, 16), "compressors": numcodec("zlib", level=1)},
    ],
    ids=" ".join,
)
def test_filters_and_numcodecs_names(tmp_path, options):
    array = pixels((50, 41)) // 2 * 2
    make(tmp_path / "a", array, **({"chunks": (16, 16)} | options))
    assert_reads(ZarrSource(tmp_path / "a"), array)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and path.name not in ("zarr.json", ".zarray", ".zattrs"):
            path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadChunkError, match="corrupt"):
        planes(ZarrSource(tmp_path / "a"))


@pytest.mark.filterwarnings(*NUMCODECS)
@pytest.mark.parametrize(
    "options",
    [
        {"zarr_format": 2, "compressors": numcodecs.LZMA(format=3, filters=[{"id": 33}])},
        {"zarr_format": 2, "filters": [numcodecs.Zlib()], "compressors": None},
        {"filters": TransposeCodec(order=(1, 0)), "serializer": numcodec("zfpy", mode=4)},
        {"serializer": BytesCodec(endian="big"), "filters": numcodec("delta", dtype=">u2")},
        {
            "chunks": (32, 16),
            "compressors": None,
            "serializer": ShardingCodec(
                chunk_shape=(16, 16),
                codecs=[ShardingCodec(chunk_shape=(8, 4), codecs=[BytesCodec(), ZstdCodec()])],
            ),
        },
        {"chunks": (8, 8), "shards": (16, 16), "serializer": numcodec("pcodec")},
    ],
    ids=" ".join,
)
def test_what_would_be_decoded_without_a_bound_is_refused(tmp_path, options):
    chosen = {"chunks": (16, 16), "shape": (50, 41), "dtype": "u2"} | options
    try:
        zarr.create_array(store=str(tmp_path / "a"), **chosen)
    except (ValueError, TypeError, ImportError) as error:
        pytest.skip(f"zarr-python does not make that: {error}")
    with pytest.raises(InputError, match="does not decode"):
        ZarrSource(tmp_path / "a")


@pytest.mark.parametrize("option", ["|O", "<U1000000", "|V64", "M8[s]"])
def test_a_filter_makes_nothing_but_numbers(tmp_path, option):
    make(tmp_path / "a", pixels((20, 20)), zarr_format=2, compressors=None, filters=None)
    metadata = json.loads((tmp_path / "a/.zarray").read_text())
    metadata["filters"] = [{"id": "astype", "encode_dtype": option, "decode_dtype": "<u2"}]
    (tmp_path / "a/.zarray").write_text(json.dumps(metadata))
    with pytest.raises(InputError):
        ZarrSource(tmp_path / "a")


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_chunks_of_any_array(tmp_path_factory, data):
    """Chunks that span planes, part of the samples, or more than the array, with any shards."""
    before = data.draw(st.lists(st.integers(1, 4), max_size=2))
    after = data.draw(st.lists(st.integers(1, 4), max_size=2))
    shape = (*before, data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)), *after)
    chunks = tuple(data.draw(st.integers(1, size + 2)) for size in shape)
    shards = tuple(size * data.draw(st.integers(1, 3)) for size in chunks)
    path = tmp_path_factory.mktemp("zarr") / "a"
    sharded = data.draw(st.booleans())
    version = 3 if sharded else data.draw(st.sampled_from([2, 3]))
    array = RNG.integers(0, 3, shape).astype("u1")
    options = {"shards": shards} if sharded else {}
    stored = make(path, array, chunks=chunks, zarr_format=version, fill_value=1, **options)
    names = (
        [f"p{i}" for i in range(len(before))] + ["y", "x"] + [f"s{i}" for i in range(len(after))]
    )
    source = ZarrSource(path, dims=names, cache=ChunkCache(data.draw(st.sampled_from([0, 400]))))
    assert_reads(source, array)
    raster = source.raster
    y0, x0 = (data.draw(st.integers(0, size)) for size in raster.spatial)
    y1, x1 = (
        data.draw(st.integers(y0, raster.spatial[0])),
        data.draw(st.integers(x0, raster.spatial[1])),
    )
    plane = data.draw(st.integers(0, raster.planes - 1))
    out = np.empty((y1 - y0, x1 - x0, raster.samples), "u1")
    source.read(plane, Region((y0, x0), (y1, x1)), out)
    expected = np.asarray(stored[(*raster.plane_index(plane), slice(y0, y1), slice(x0, x1))])
    np.testing.assert_array_equal(out, expected.reshape(out.shape))


def test_the_description_names_inner_chunks_and_planes(tmp_path):
    make(tmp_path / "a", pixels((5, 60, 50, 3)), chunks=(2, 10, 20, 3), shards=(4, 20, 40, 3))
    raster = ZarrSource(tmp_path / "a", dims="zyxs").raster
    assert (raster.chunk, raster.chunk_planes, raster.samples) == ((10, 20), 2, 3)
    assert raster.compression == "zstd"
    assert raster.chunk_bytes == 2 * 10 * 20 * 3 * 2
    assert raster.table_bytes > 0


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 4, 4), (3, 0, 0)])
def test_an_empty_array_is_a_raster_of_no_pixels(tmp_path, shape):
    make(tmp_path / "a", np.zeros(shape), chunks=(1,) * len(shape))
    source = ZarrSource(tmp_path / "a")
    assert source.raster.shape == shape
    source.require_chunks()
    assert planes(source).size == 0


# Axes.


@pytest.mark.parametrize(
    ("shape", "names", "expected"),
    [
        ((4, 5, 6), ["Z", "Y", "X"], ("z", "y", "x")),
        ((4, 5, 6), ["y", "x", "band"], ("y", "x", "band")),
        ((4, 5, 6), ["x", "y", None], ("d0", "y", "x")),
        ((4, 5, 6), [None, "y", "x"], ("d0", "y", "x")),
        ((4, 5, 6), None, ("d0", "y", "x")),
        ((40, 50, 3), None, ("y", "x", "s")),
        ((40, 50, 4), None, ("y", "x", "s")),
        ((3, 50, 3), None, ("d0", "y", "x")),
        ((2, 40, 50, 3), None, ("d0", "d1", "y", "x")),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_axes_are_the_arrays_own_or_the_usual_ones(tmp_path, shape, names, expected, version):
    options = {"dimension_names": names} if version == 3 else {}
    stored = make(tmp_path / "a", np.zeros(shape), zarr_format=version, **options)
    if version == 2 and names is not None:
        stored.attrs["_ARRAY_DIMENSIONS"] = names
    assert ZarrSource(tmp_path / "a").raster.dims == expected


@pytest.mark.parametrize("dims", ["yx", "xyz", "zxy", "yyx", ("y", "c", "x")])
def test_dims_that_do_not_fit_are_the_users_mistake(tmp_path, dims):
    make(tmp_path / "a", np.zeros((4, 5, 6)))
    with pytest.raises(ConfigError, match="axes"):
        ZarrSource(tmp_path / "a", dims=dims)


def ome(path: Path, version: str, levels: list[np.ndarray], axes: str) -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    for number, level in enumerate(levels):
        options = (
            {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if version == "0.4" else {}
        )
        out = group.create_array(
            f"s{number}", shape=level.shape, chunks=(1, 8, 8), dtype=level.dtype, **options
        )
        out[...] = level
    image = {
        "version": version,
        "axes": [{"name": name, "type": "space"} for name in axes],
        "datasets": [{"path": f"s{number}"} for number in range(len(levels))],
    }
    group.attrs.update(
        {"multiscales": [image]} if version == "0.4" else {"ome": {"multiscales": [image]}}
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_opens_at_each_of_its_levels(tmp_path, version):
    levels = [pixels((2, 40, 30)), pixels((2, 20, 15))]
    ome(tmp_path / "a.ome.zarr", version, levels, "cyx")
    for number, level in enumerate(levels):
        source = ZarrSource(tmp_path / "a.ome.zarr", level=number)
        assert source.raster.dims == ("c", "y", "x")
        assert_reads(source, level)
    with pytest.raises(ConfigError, match=r"levels 0 \.\. 1"):
        ZarrSource(tmp_path / "a.ome.zarr", level=2)


def test_an_ome_zarr_cannot_name_files_outside_itself(tmp_path):
    make(tmp_path / "secret", np.zeros((4, 4)))
    ome(tmp_path / "a", "0.5", [pixels((2, 8, 8))], "cyx")
    for path in ("../secret", str(tmp_path / "secret"), "nothing"):
        metadata = json.loads((tmp_path / "a/zarr.json").read_text())
        metadata["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = path
        (tmp_path / "a/zarr.json").write_text(json.dumps(metadata))
        with pytest.raises(InputError, match="level 0"):
            ZarrSource(tmp_path / "a")


def test_a_group_names_the_arrays_in_it(tmp_path):
    group = zarr.open_group(str(tmp_path / "g"), mode="w")
    with pytest.raises(InputError, match="it is empty"):
        ZarrSource(tmp_path / "g")
    group.create_array("first", shape=(2, 2), dtype="u1")
    group.create_array("second", shape=(2, 2), dtype="u1")
    with pytest.raises(InputError, match="first, second"):
        ZarrSource(tmp_path / "g")


# Absent chunks.


@pytest.mark.parametrize("shards", [None, (20, 20)])
@pytest.mark.parametrize("version", [2, 3])
def test_absent_chunks_are_the_fill_value_and_counted_once(tmp_path, version, shards):
    if version == 2 and shards:
        pytest.skip("Zarr v2 has no shards")
    options = {"shards": shards} if shards else {}
    array = np.full((40, 30), 9, "u1")
    array[10:20, 20:30] = 5  # one chunk
    array[20:, :20] = 5  # four chunks, and one whole shard
    make(tmp_path / "a", array, chunks=(10, 10), zarr_format=version, fill_value=5, **options)
    source = ZarrSource(tmp_path / "a")
    assert_reads(source, array)
    assert_reads(source, array)
    assert source.absent.count == 5
    assert source.absent.chunks == 12
    assert "(1, 2)" in source.absent.first[0]
    assert str(tmp_path / "a") in source.absent.first[0]


def test_an_array_through_zarr_counts_absent_chunks_too(tmp_path):
    stored = zarr.create_array(
        store=zarr.storage.MemoryStore(), shape=(40, 30), chunks=(10, 10), dtype="f4", fill_value=7
    )
    stored[:10] = 1
    source = ZarrSource(stored)
    assert_reads(source, np.asarray(stored[...]))
    assert source.absent.count == 9


def test_absent_chunks_can_be_refused(tmp_path):
    stored = make(tmp_path / "a", np.ones((40, 30), "u1"), chunks=(10, 10))
    shutil.rmtree(tmp_path / "a/c/2")
    source = ZarrSource(tmp_path / "a", missing=Missing.ERROR)
    source.read(0, Region((0, 0), (20, 30)), np.empty((20, 30, 1)))
    with pytest.raises(InputError, match=r"chunk \(2, 1\) \(c/2/1\) is absent.*--missing fill"):
        source.read(0, Region((15, 12), (25, 15)), np.empty((10, 3, 1)))
    assert stored.shape == (40, 30)


def test_a_null_fill_value_is_zero(tmp_path):
    make(tmp_path / "a", np.zeros((4, 4), "f4"), zarr_format=2)
    metadata = json.loads((tmp_path / "a/.zarray").read_text())
    (tmp_path / "a/.zarray").write_text(json.dumps(metadata | {"fill_value": None}))
    assert_reads(ZarrSource(tmp_path / "a"), np.zeros((4, 4), "f4"))


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_that_was_never_written_can_be_refused(tmp_path, version):
    path = tmp_path / "a"
    stored = zarr.create_array(store=str(path), shape=(40, 30), dtype="u1", zarr_format=version)
    with pytest.raises(InputError, match="every one of its"):
        ZarrSource(path).require_chunks()
    with pytest.raises(InputError, match="every one of its"):
        ZarrSource(zarr.zeros((5, 5), store=zarr.storage.MemoryStore())).require_chunks()
    stored[0, 0] = 1
    ZarrSource(path).require_chunks()


# Corrupt and hostile input.

CORRUPTIONS = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "noise": lambda data: bytes(255 - byte for byte in data),
    "much too long": lambda data: data + bytes(1 << 20),
}


@pytest.mark.parametrize("how", sorted(CORRUPTIONS))
@pytest.mark.parametrize(
    "options",
    [
        {"compressors": None},
        {"compressors": ZstdCodec()},
        {"compressors": GzipCodec()},
        {"compressors": BloscCodec(typesize=1)},
        {"compressors": Crc32cCodec()},
        {"zarr_format": 2, "compressors": numcodecs.LZ4()},
        {"zarr_format": 2, "compressors": numcodecs.BZ2()},
        {"zarr_format": 2, "compressors": numcodecs.LZMA()},
        {"zarr_format": 2, "compressors": numcodecs.Zlib()},
        {"chunks": (5, 5), "shards": (10, 10)},
    ],
    ids=str,
)
def test_a_corrupt_chunk_is_an_error_that_names_it(tmp_path, options, how):
    if options == {"compressors": None} and how == "noise":
        pytest.skip("raw pixels carry no checksum")
    make(tmp_path / "a", pixels((20, 20), "u1"), **({"chunks": (10, 10)} | options))
    name = "1.0" if options.get("zarr_format") == 2 else "c/1/0"
    path = tmp_path / "a" / name
    path.write_bytes(CORRUPTIONS[how](path.read_bytes()))
    source = ZarrSource(tmp_path / "a")
    source.read(0, Region((0, 0), (10, 20)), np.empty((10, 20, 1)))
    with pytest.raises(InputError) as caught:
        source.read(0, Region((8, 3), (20, 5)), np.empty((12, 2, 1)))
    message = str(caught.value)
    assert str(tmp_path / "a") in message
    assert name in message
    assert "corrupt" in message
    assert "\n" not in message


@pytest.mark.parametrize("how", sorted(CORRUPTIONS))
@pytest.mark.parametrize("local", [True, False])
def test_bad_chunks_are_filled_on_request_and_are_not_absent(tmp_path, local, how):
    array = pixels((20, 20), "u1")
    stored = make(tmp_path / "a", array, chunks=(10, 10), fill_value=7)
    path = tmp_path / "a/c/1/0"
    path.write_bytes(CORRUPTIONS[how](path.read_bytes()))
    opened = tmp_path / "a" if local else _in_memory(stored)
    with pytest.raises(BadChunkError, match=r"chunk \(1, 0\)"):
        planes(ZarrSource(opened))
    source = ZarrSource(opened, bad=Bad.FILL, missing=Missing.ERROR)
    array[10:, :10] = 7
    for _ in range(2):
        assert_reads(source, array)
    assert (source.bad.count, source.bad.chunks, source.absent.count) == (1, 4, 0)
    assert source.bad.first[0].endswith("chunk (1, 0) (c/1/0)")
    assert source.bad.news().numbers.tolist() == [2]
    if local:
        assert pickle.loads(pickle.dumps(source)).bad.bad is Bad.FILL
        shutil.rmtree(tmp_path / "a/c/0")
        with pytest.raises(BadChunkError, match="--missing fill"):
            planes(ZarrSource(opened, bad=Bad.FILL, missing=Missing.ERROR))


def _in_memory(array: zarr.Array) -> zarr.Array:
    """The same keys and bytes in a store that is no folder."""
    from zarr.core.buffer import cpu

    root = Path(str(array.store.root))
    files = [path for path in root.rglob("*") if path.is_file()]
    stored = {
        str(path.relative_to(root)): cpu.Buffer.from_bytes(path.read_bytes()) for path in files
    }
    return zarr.open_array(zarr.storage.MemoryStore(stored), mode="r")


@pytest.mark.parametrize(
    "compressor",
    [numcodecs.Zlib(9), numcodecs.GZip(9), numcodecs.BZ2(9), numcodecs.LZMA(), numcodecs.Zstd(9),
     numcodecs.LZ4(), numcodecs.Blosc()],
    ids=lambda compressor: compressor.codec_id,
)  # fmt: skip
def test_a_chunk_that_decodes_to_more_than_it_should_is_refused(tmp_path, compressor):
    make(tmp_path / "a", pixels((20, 20), "u1"), zarr_format=2, compressors=compressor)
    (tmp_path / "a" / "0.0").write_bytes(bytes(compressor.encode(bytes(1 << 24))))
    with pytest.raises(InputError, match="corrupt"):
        planes(ZarrSource(tmp_path / "a"))


def test_a_shard_that_points_beyond_itself_is_refused(tmp_path):
    make(
        tmp_path / "a",
        pixels((8, 8), "u1"),
        chunks=(8, 8),
        compressors=None,
        serializer=ShardingCodec(
            chunk_shape=(4, 4), codecs=[BytesCodec()], index_codecs=[BytesCodec()]
        ),
    )
    path = tmp_path / "a/c/0/0"
    data = bytearray(path.read_bytes())
    index = np.frombuffer(data, "<u8", 8, len(data) - 64).copy().reshape(4, 2)
    index[0, 0] = 1 << 60
    data[-64:] = index.tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError, match="the shard's index puts it at"):
        planes(ZarrSource(tmp_path / "a"))


@pytest.mark.parametrize(
    "change",
    [
        {"filters": [{"id": "pickle"}]},
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "json2"}]},
        {"filters": [{"id": "vlen-bytes"}]},
    ],
    ids=str,
)
def test_codecs_that_make_objects_are_refused(tmp_path, change):
    make(tmp_path / "a", np.ones((4, 4), "f8"), zarr_format=2, filters=None)
    metadata = json.loads((tmp_path / "a/.zarray").read_text())
    (tmp_path / "a/.zarray").write_text(json.dumps(metadata | change))
    with pytest.raises(InputError, match="encoded with|not a Zarr"):
        ZarrSource(tmp_path / "a")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["<U5", [("r", "u1"), ("g", "u1")], "M8[s]", "S3"])
def test_what_is_not_made_of_numbers_is_refused(tmp_path, dtype):
    zarr.create_array(store=str(tmp_path / "a"), shape=(4, 4), dtype=np.dtype(dtype), zarr_format=2)
    with pytest.raises(InputError, match="not numbers"):
        ZarrSource(tmp_path / "a")


def test_an_absurd_number_of_chunks_is_refused(tmp_path):
    zarr.create_array(
        store=str(tmp_path / "a"), shape=(1 << 40, 1 << 20), chunks=(1, 1), dtype="u1"
    )
    with pytest.raises(InputError, match="rechunk"):
        ZarrSource(tmp_path / "a")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("attributes", [5, True, "text", [1]], ids=repr)
def test_attributes_that_are_no_object_say_nothing_or_too_much(tmp_path, attributes, version):
    """Of zarr 3.4 on such an array is none."""
    array = pixels((20, 20))
    make(tmp_path / "a", array, zarr_format=version)
    name = "zarr.json" if version == 3 else ".zattrs"
    metadata = json.loads((tmp_path / "a" / name).read_text())
    document = metadata | {"attributes": attributes} if version == 3 else attributes
    (tmp_path / "a" / name).write_text(json.dumps(document))
    with contextlib.suppress(InputError):
        assert_reads(ZarrSource(tmp_path / "a"), array)


def test_an_array_in_a_zip_is_read_like_any_other(tmp_path):
    array = pixels((20, 30))
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        zarr.create_array(store=store, data=array, chunks=(5, 10), shards=(10, 20))
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="r") as store:
        assert_reads(ZarrSource(zarr.open_array(store, mode="r")), array)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"zarr_format": 3}',
        '{"zarr_format": 9, "node_type": "array"}',
        '{"zarr_format": 3, "node_type": "array", "shape": [-4, "x"]}',
    ],
)
def test_metadata_that_make_no_sense_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/zarr.json").write_text(text)
    with pytest.raises(InputError) as caught:
        ZarrSource(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [4]},
        {"data_type": "float1024"},
        {"codecs": []},
        {"codecs": [{"name": "bytes"}, {"name": "evil"}]},
        {"chunk_grid": {"name": "spiral"}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 0]}}},
        {"fill_value": "many"},
    ],
    ids=str,
)
def test_arrays_with_impossible_metadata_are_refused(tmp_path, change):
    make(tmp_path / "a", np.zeros((4, 4), "f4"))
    metadata = json.loads((tmp_path / "a/zarr.json").read_text())
    (tmp_path / "a/zarr.json").write_text(json.dumps(metadata | change))
    with pytest.raises(InputError):
        # zarr 3.4 mends a chunk of no pixels; then none of that size is stored.
        ZarrSource(tmp_path / "a").require_chunks()


def replaced(path: Path, how: str) -> None:
    """A file's name stands for something else."""
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to(path.parent / "nothing")


@pytest.mark.parametrize("how", ["folder", "pipe", "device", "loop"])
@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zattrs"])
def test_metadata_that_are_no_files_are_refused_before_they_are_read(tmp_path, name, how):
    version = 3 if name == "zarr.json" else 2
    make(tmp_path / "a", np.ones((4, 4)), zarr_format=version)
    replaced(tmp_path / "a" / name, how)
    with pytest.raises(InputError, match="no regular file|symbolic links"):
        ZarrSource(tmp_path / "a")


@pytest.mark.parametrize("how", ["pipe", "device"])
def test_metadata_of_a_level_are_refused_before_they_are_read(tmp_path, how):
    ome(tmp_path / "a", "0.5", [pixels((2, 8, 8))], "cyx")
    replaced(tmp_path / "a/s0/zarr.json", how)
    with pytest.raises(InputError, match="no regular file"):
        ZarrSource(tmp_path / "a")


def test_a_group_is_listed_without_reading_what_is_in_it(tmp_path):
    zarr.open_group(str(tmp_path / "g"), mode="w").create_array("first", shape=(2, 2), dtype="u1")
    replaced(tmp_path / "g/first/zarr.json", "pipe")
    with pytest.raises(InputError, match="it holds first"):
        ZarrSource(tmp_path / "g")


def test_metadata_of_absurd_size_are_refused_before_they_are_read(tmp_path):
    make(tmp_path / "a", np.ones((4, 4)))
    with (tmp_path / "a/zarr.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="has 1099511627776 bytes, more than"):
        ZarrSource(tmp_path / "a")


@pytest.mark.parametrize("filters", [[], [numcodecs.Delta("<u2")]], ids=["plain", "filtered"])
@pytest.mark.parametrize("how", ["folder", "pipe", "device", "loop", "dangling"])
def test_a_chunk_that_is_no_file_is_bad(tmp_path, how, filters):
    make(tmp_path / "a", pixels((20, 20)), zarr_format=2, filters=filters)
    replaced(tmp_path / "a/1.0", how)
    with pytest.raises(BadChunkError, match=r"chunk \(1, 0\) \(1\.0\)"):
        planes(ZarrSource(tmp_path / "a"))


def test_shards_without_a_single_chunk_are_an_array_that_was_never_written(tmp_path):
    make(tmp_path / "a", pixels((8, 8)), chunks=(4, 4), shards=(8, 8), compressors=None)
    shard = tmp_path / "a/c/0/0"
    index = b"\xff" * 64
    shard.write_bytes(index + google_crc32c.value(index).to_bytes(4, "little"))
    source = ZarrSource(tmp_path / "a")
    assert_reads(source, np.zeros((8, 8), "u2"))
    assert source.absent.count == 4
    for opened in (source, ZarrSource(_in_memory(zarr.open_array(str(tmp_path / "a"))))):
        with pytest.raises(InputError, match="every one of its 4 chunks"):
            opened.require_chunks()


def test_absent_chunks_in_the_shards_of_any_store_are_counted(tmp_path):
    array = np.zeros((16, 16), "u1")
    array[:4, :4] = 1
    stored = make(tmp_path / "a", array, chunks=(4, 4), shards=(8, 8))
    source = ZarrSource(_in_memory(stored))
    assert_reads(source, array)
    assert source.absent.count == 15


def test_a_chunk_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    make(tmp_path / "a", pixels((20, 20)))
    source = ZarrSource(tmp_path / "a")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(InputError, match="Permission denied"):
        planes(source)


def test_a_shard_with_an_index_of_another_kind_is_refused(tmp_path):
    """Its chunks would be looked for in files that are not theirs."""
    array = pixels((40, 50))
    make(tmp_path / "a.zarr", array, chunks=(10, 10), shards=(20, 20))
    path = tmp_path / "a.zarr" / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["codecs"][0]["configuration"]["index_codecs"][0]["configuration"]["endian"] = "big"
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="a shard's index"):
        ZarrSource(tmp_path / "a.zarr")
