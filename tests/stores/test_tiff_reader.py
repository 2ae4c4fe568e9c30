"""Reading TIFF: shapes and axes as tifffile's, strict about everything a file can lack."""

import logging
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tileconv.core.grid import Region
from tileconv.errors import BadChunkError, ConfigError, InputError
from tileconv.stores.absent import Bad, Missing
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.tiff import pages as tiff_pages
from tileconv.stores.tiff.reader import TiffSource

DATA = next(
    (
        folder
        for folder in (
            Path(os.environ.get("TILECONV_TEST_DATA", "/nonexistent")),
            Path(__file__).parents[2].parent / "shared" / "data",
        )
        if folder.is_dir()
    ),
    None,
)


def whole(source):
    """The raster, read plane by plane."""
    raster = source.raster
    out = np.zeros((raster.planes, *raster.spatial, raster.samples), raster.dtype)
    for plane in range(raster.planes):
        source.read(plane, Region.of_shape(raster.spatial), out[plane])
    return out.reshape(raster.shape)


def assert_same(path, level=0, expected=None):
    """The source equals imread in shape, dtype and pixels, whole and in an odd window."""
    expected = tifffile.imread(path) if expected is None else expected
    with TiffSource(path, level=level) as source:
        got = whole(source)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(got, expected)
        raster = source.raster
        rows, columns = raster.spatial
        region = Region((rows // 3, columns // 5), (rows - rows // 4, columns))
        plane = raster.planes - 1
        out = np.zeros((*region.shape, raster.samples), raster.dtype)
        source.read(plane, region, out)
        planes = expected.reshape(raster.planes, rows, columns, raster.samples)
        np.testing.assert_array_equal(out, planes[plane][region.slices])
        return raster


def pixels(shape, dtype="uint16", seed=0):
    """Values that are all but unique, so that nothing can change places unnoticed."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype) == bool:
        return rng.integers(0, 2, shape).astype(bool)
    if np.dtype(dtype).kind == "c":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


# ------------------------------------------------------------------- shapes and axes

STACKS = {
    "one page": ((40, 50), {}, ("y", "x")),
    "pages": ((4, 40, 50), {"photometric": "minisblack"}, ("q", "y", "x")),
    "pages of rgb": ((4, 40, 50, 3), {"photometric": "rgb"}, ("q", "y", "x", "s")),
    "pages of planar rgb": (
        (4, 3, 40, 50),
        {"photometric": "rgb", "planarconfig": "separate"},
        ("q", "s", "y", "x"),
    ),
    "two axes of pages": ((2, 5, 40, 50), {}, ("q", "q2", "y", "x")),
    "named axes": ((2, 5, 40, 50), {"metadata": {"axes": "TZYX"}}, ("t", "z", "y", "x")),
    "an axis of one": ((1, 40, 50), {}, ("q", "y", "x")),
    "one sample": ((40, 50, 1), {}, ("y", "x", "s")),
    "no metadata": ((3, 40, 50), {"metadata": None, "photometric": "minisblack"}, None),
    "volumes": (
        (2, 5, 40, 50),
        {"photometric": "minisblack", "volumetric": True, "tile": (2, 16, 32)},
        None,
    ),
    "imagej": ((2, 3, 4, 40, 50), {"imagej": True, "metadata": {"axes": "TZCYX"}}, tuple("tzcyx")),
    "ome": (
        (2, 3, 40, 50),
        {"ome": True, "metadata": {"axes": "CZYX"}, "photometric": "minisblack"},
        tuple("czyx"),
    ),
    "ome rgb": (
        (2, 40, 50, 3),
        {"ome": True, "metadata": {"axes": "ZYXS"}, "photometric": "rgb"},
        tuple("zyxs"),
    ),
    "one row": ((1, 50), {}, ("y", "x")),
    "one column": ((50, 1), {}, ("y", "x")),
    "one pixel": ((1, 1), {}, ("y", "x")),
}


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["raw", "deflate"])
@pytest.mark.parametrize("stack", STACKS)
def test_stacks(path, stack, options):
    shape, writing, dims = STACKS[stack]
    tifffile.imwrite(path, pixels(shape), **writing, **options)
    raster = assert_same(path)
    if dims is not None:
        assert raster.dims == dims


def test_generic_pages_are_a_leading_axis(path):
    with tifffile.TiffWriter(path) as writer:
        for seed in range(3):
            writer.write(pixels((40, 50), seed=seed), metadata=None, tile=(16, 16))
    assert assert_same(path).shape == (3, 40, 50)


def test_a_stack_described_by_one_page(path):
    tifffile.imwrite(path, pixels((5, 40, 50)), truncate=True)
    raster = assert_same(path)
    assert raster.shape == (5, 40, 50)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint32", "int32", "uint64", "int64"),
        *("float16", "float64", "complex64", "complex128"),
    ],
)
def test_dtypes(path, dtype, byteorder):
    for options in ({}, {"tile": (16, 32)}, {"compression": "zlib"}, {"rowsperstrip": 7}):
        tifffile.imwrite(path, pixels((40, 56), dtype), byteorder=byteorder, **options)
        assert_same(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_packed_samples(path, bits):
    """Written by hand: rows of packed big-endian fields, each padded to a byte."""
    rows, columns = 9, 21
    values = pixels((rows, columns)) % (1 << bits)
    lines = []
    for row in values.tolist():
        field = "".join(format(value, f"0{bits}b") for value in row)
        field += "0" * (-len(field) % 8)
        lines.append(int(field, 2).to_bytes(len(field) // 8, "big"))
    data = b"".join(lines)
    tags = [(256, 4, columns), (257, 4, rows), (258, 3, bits), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, rows), (279, 4, len(data))]
    entries = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags)
    path.write_bytes(
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )
    np.testing.assert_array_equal(tifffile.imread(path), values)
    assert_same(path)


# ------------------------------------------------------------------- chunks


def test_small_strips_are_read_together(path):
    tifffile.imwrite(path, pixels((3000, 512), "uint8"), rowsperstrip=1, compression="zlib")
    cache = ChunkCache(1 << 25)
    with TiffSource(path, cache=cache) as source:
        assert source.raster.chunk == (2048, 512)
        whole(source)
    assert cache.loads == 2
    assert cache.load_bytes == 3000 * 512


def test_a_giant_raw_strip_is_read_in_parts(path):
    image = pixels((1500, 1000))
    tifffile.imwrite(path, image, rowsperstrip=1500, byteorder=">")
    with TiffSource(path) as source:
        assert source.raster.chunk == ((1 << 20) // 2000, 1000)
        assert source.raster.chunk_bytes <= 1 << 20
        np.testing.assert_array_equal(whole(source), image)


@pytest.mark.parametrize("options", [{"rowsperstrip": 3}, {"rowsperstrip": 40}, {}])
@pytest.mark.parametrize("samples", [1, 3])
def test_rows_wider_than_a_chunk_are_cut(path, monkeypatch, options, samples):
    monkeypatch.setattr(tiff_pages, "CHUNK_BYTES", 64)
    image = pixels((40, 70, 3) if samples == 3 else (40, 70), "uint16")
    tifffile.imwrite(path, image, photometric="rgb" if samples == 3 else None, **options)
    raster = assert_same(path)
    assert raster.chunk[0] == 1
    assert 0 < raster.chunk_bytes <= 64


def test_a_chunk_may_lie_in_two_raw_strips(path, monkeypatch):
    monkeypatch.setattr(tiff_pages, "CHUNK_BYTES", 50 * 2 * 5)
    tifffile.imwrite(path, pixels((41, 50)), rowsperstrip=8)
    assert assert_same(path).chunk == (5, 50)


def test_a_tile_is_decoded_once(path):
    tifffile.imwrite(path, pixels((64, 64)), tile=(16, 16), compression="zlib")
    cache = ChunkCache(1 << 20)
    with TiffSource(path, cache=cache) as source:
        out = np.zeros((20, 20, 1), np.uint16)
        for y in range(0, 44, 4):
            for x in range(0, 44, 4):
                source.read(0, Region((y, x), (y + 20, x + 20)), out)
    assert cache.loads == 16


def test_sources_share_a_cache_without_mixing(tmp_path):
    cache = ChunkCache(1 << 20)
    images = [pixels((40, 50), seed=seed) for seed in range(3)]
    for seed, image in enumerate(images):
        tifffile.imwrite(tmp_path / f"{seed}.tif", image, tile=(16, 16))
    for seed, image in enumerate(images):
        with TiffSource(tmp_path / f"{seed}.tif", cache=cache) as source:
            np.testing.assert_array_equal(whole(source), image)


def test_many_threads(path):
    image = pixels((200, 300, 3), "uint8")
    tifffile.imwrite(path, image, tile=(32, 48), photometric="rgb", compression="zlib")
    with TiffSource(path, cache=ChunkCache(20_000)) as source:

        def read(seed):
            rng = np.random.default_rng(seed)
            for _ in range(20):
                y0, x0 = rng.integers(0, (150, 250))
                y1, x1 = y0 + rng.integers(1, 50), x0 + rng.integers(1, 50)
                out = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
                source.read(0, Region((int(y0), int(x0)), (int(y1), int(x1))), out)
                np.testing.assert_array_equal(out, image[y0:y1, x0:x1])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(16)))


def test_pickle_carries_path_and_options(path):
    image = pixels((40, 50))
    tifffile.imwrite(path, np.stack([image, image]), tile=(16, 16), photometric="minisblack")
    with TiffSource(path, missing=Missing.ERROR) as source:
        data = pickle.dumps(source)
    assert len(data) < 1000
    with pickle.loads(data) as again:
        assert again.raster == source.raster
        assert again.absent.missing is Missing.ERROR
        np.testing.assert_array_equal(whole(again)[1], image)


def test_close_twice_and_reading_afterwards(path):
    tifffile.imwrite(path, pixels((40, 50)))
    source = TiffSource(path)
    source.close()
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.read(0, Region((0, 0), (1, 1)), np.zeros((1, 1, 1)))


# ------------------------------------------------------------------- levels


def write_pyramid(path, subifds):
    """Three levels, full size first, in SubIFDs or chained one after the other."""
    levels = [pixels((128 >> n, 96 >> n), "uint8", seed=n) for n in range(3)]
    options = {"tile": (16, 16), "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], subifds=2 if subifds else 0, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
        writer.write(pixels((30, 41), "uint8"), **options)
    return levels


@pytest.mark.parametrize("subifds", [True, False])
def test_levels(path, subifds):
    levels = write_pyramid(path, subifds)
    for number, level in enumerate(levels):
        assert_same(path, number, level)


@pytest.mark.parametrize("level", [-1, 3])
def test_a_level_that_is_not_there_names_those_that_are(path, level):
    write_pyramid(path, subifds=True)
    with pytest.raises(ConfigError, match=r"0 \(128 x 96\), 1 \(64 x 48\), 2 \(32 x 24\)"):
        TiffSource(path, level=level)


def test_cog_overviews(path):
    rasterio = pytest.importorskip("rasterio")
    image = np.add.outer(np.arange(1100), np.arange(900)).astype("uint16")
    profile = {"width": 900, "height": 1100, "count": 1, "dtype": "uint16", "driver": "COG"}
    transform = rasterio.Affine(30, 0, 500_000, 0, -30, 4_000_000)
    with rasterio.open(
        path, "w", **profile, blocksize=256, crs="EPSG:32618", transform=transform
    ) as target:
        target.write(image, 1)
    assert_same(path, 0, image)
    with rasterio.open(path) as opened:
        factors = opened.overviews(1)
    for level, _ in enumerate(factors):
        with rasterio.open(path, overview_level=level) as opened:
            assert_same(path, level + 1, opened.read(1))


# ------------------------------------------------------------------- absent segments


def edit_tag(path, code, change):
    """Change the values of a tag in place."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tag = tif.pages[0].tags[code]
        tag.overwrite(change(list(tag.value)))


@pytest.mark.parametrize("nodata", [None, "7"])
@pytest.mark.parametrize("offsets", ["kept", "zero"])
def test_sparse_tiles_are_filled_and_counted(path, offsets, nodata):
    """What makes a tile sparse is its length of 0; slide scanners leave the offset in place."""
    image = pixels((40, 50))
    extratags = [] if nodata is None else [(42113, 2, 2, nodata, True)]
    tifffile.imwrite(path, image, tile=(16, 16), extratags=extratags)
    for code in (325,) if offsets == "kept" else (324, 325):
        edit_tag(path, code, lambda values: [*values[:5], 0, 0, *values[7:]])
    expected = image.copy()
    expected[16:32, 16:48] = int(nodata or 0)
    assert_same(path, 0, expected)
    with TiffSource(path) as source:
        for _ in range(2):
            whole(source)
        assert source.absent.count == 2
        assert source.bad.count == 0
        assert "page 0, tile 5 (row 1, column 1)" in source.absent.first[0]
        assert source.absent.chunks == 12


def test_sparse_tiles_are_refused_on_request(path):
    tifffile.imwrite(path, pixels((40, 50)), tile=(16, 16))
    edit_tag(path, 325, lambda values: [0, *values[1:]])
    with (
        TiffSource(path, missing=Missing.ERROR) as source,
        pytest.raises(InputError, match="tile 0 .*--missing fill"),
    ):
        whole(source)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sparse_strips(path, compression):
    image = pixels((40, 50))
    tifffile.imwrite(path, image, rowsperstrip=4, compression=compression)
    edit_tag(path, 279, lambda values: [*values[:3], 0, *values[4:8], 0, values[9]])
    image[12:16] = image[32:36] = 0
    assert_same(path, 0, image)
    with TiffSource(path) as source:
        whole(source)
        assert source.absent.count == 2


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_strips_around_an_absent_one_may_adjoin_in_the_file(path, compression):
    image = pixels((40, 50))
    tifffile.imwrite(path, image, rowsperstrip=4, compression=compression)
    for code in (273, 279):
        edit_tag(path, code, lambda values: [*values[:3], 0, *values[3:9]])
    expected = np.concatenate([image[:12], np.zeros((4, 50), "uint16"), image[12:36]])
    assert_same(path, 0, expected)


def test_a_page_that_an_ome_file_does_not_hold_is_absent(tmp_path):
    path = tmp_path / "a.ome.tif"
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
        'SizeX="50" SizeY="40" SizeZ="3" SizeC="1" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        '<TiffData IFD="0" FirstZ="0" PlaneCount="1"/><TiffData IFD="1" FirstZ="2" PlaneCount="1"/>'
        "</Pixels></Image></OME>"
    )
    with tifffile.TiffWriter(path) as writer:
        for seed in range(2):
            description = xml if seed == 0 else None
            image = pixels((40, 50), seed=seed)
            writer.write(image, description=description, metadata=None, contiguous=False)
    raster = assert_same(path)
    assert raster.dims == ("z", "y", "x")
    with TiffSource(path) as source:
        got = whole(source)
        assert source.absent.count == 1
    np.testing.assert_array_equal(got[1], 0)
    np.testing.assert_array_equal(got[2], pixels((40, 50), seed=1))


# ------------------------------------------------------------------- damage


def refused(path, match):
    """Opening or reading raises, in one line that names the file."""
    with pytest.raises(InputError, match=match) as caught, TiffSource(path) as source:
        whole(source)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_no_such_file(path):
    with pytest.raises(ConfigError, match="does not exist"):
        TiffSource(path)


def test_a_directory_and_a_pipe_are_refused(tmp_path):
    refused(tmp_path, "directory")
    pipe = tmp_path / "pipe.tif"
    os.mkfifo(pipe)
    refused(pipe, "not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(path):
    tifffile.imwrite(path, pixels((4, 5)))
    path.chmod(0)
    refused(path, "Permission denied")


@pytest.mark.parametrize(
    "data", [b"", b"II", b"II*\0", b"GIF89a..........", b"II*\0\0\0\0\0", b"MM\0*" + bytes(4)]
)
def test_what_is_no_tiff(path, data):
    path.write_bytes(data)
    refused(path, "TIFF")


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"rowsperstrip": 5}, {}])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_short_names_the_first_segment_that_is_gone(path, options, compression):
    tifffile.imwrite(path, pixels((64, 64)), compression=compression, **options)
    size = path.stat().st_size
    os.truncate(path, size - 100)
    message = refused(path, "cut short")
    assert "page 0, " in message
    assert f"the file's {size - 100} bytes" in message


def test_a_file_cut_short_after_opening(path):
    tifffile.imwrite(path, pixels((64, 64)), tile=(16, 16))
    with TiffSource(path) as source:
        os.truncate(path, path.stat().st_size - 10)
        with pytest.raises(InputError, match="tile 15 .*beyond the end of the file"):
            whole(source)


@pytest.mark.parametrize("cut", [9, 30, 100])
def test_a_file_cut_in_its_tags(path, cut):
    tifffile.imwrite(path, pixels((64, 64)))
    os.truncate(path, cut)
    refused(path, "a.tif")


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lzma", "packbits"])
def test_a_corrupt_tile_is_named(path, compression):
    image = np.arange(64 * 64, dtype="uint16").reshape(64, 64)
    tifffile.imwrite(path, image, tile=(16, 16), compression=compression)
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[6], tif.pages[0].databytecounts[6]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x07" * count
    path.write_bytes(data)
    message = refused(path, r"page 0, tile 6 \(row 1, column 2\)")
    assert f"bytes {offset} to {offset + count}" in message
    with TiffSource(path) as source:
        out = np.zeros((16, 16, 1), "uint16")
        source.read(0, Region((0, 0), (16, 16)), out)
        np.testing.assert_array_equal(out[..., 0], image[:16, :16])


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg", "jpeg2000", "png"])
@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"rowsperstrip": 16}])
def test_a_byte_count_too_small(path, compression, options):
    image = np.add.outer(np.arange(64), np.arange(64)).astype("uint8")
    tifffile.imwrite(path, image, compression=compression, **options)
    edit_tag(path, 325 if "tile" in options else 279, lambda v: [v[0], v[1] // 2, *v[2:]])
    refused(path, "page 0, (tile|strip) 1")


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_an_encoded_image_that_stops_halfway(path, compression):
    """Codecs fill the rest with grey and say nothing."""
    tifffile.imwrite(path, pixels((64, 64), "uint8"), tile=(64, 64), compression=compression)
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(data)
    refused(path, "page 0, tile 0 .* is cut off")


def test_an_encoded_image_larger_than_its_tile(path):
    """A PNG of 20000 x 20000 in a tile of 16 x 16 is refused by its header."""
    tifffile.imwrite(path, pixels((16, 16), "uint8"), tile=(16, 16), compression="png")
    data = bytearray(path.read_bytes())
    at = data.index(b"IHDR") + 4
    data[at : at + 8] = struct.pack(">II", 20_000, 20_000)
    path.write_bytes(data)
    refused(path, "declares 20000 x 20000 pixels in a tile of 16 x 16")


def test_a_strip_that_cannot_be_that_small(path):
    tifffile.imwrite(path, pixels((16, 16), "uint8"), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for code in (256, 257, 278):
            tif.pages[0].tags[code].overwrite(2**20)
    with TiffSource(path) as source, pytest.raises(InputError, match="in so few bytes"):
        source.read(0, Region((0, 0), (9, 9)), np.zeros((9, 9, 1)))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"rowsperstrip": 1}])
def test_absurd_dimensions(path, compression, options):
    tifffile.imwrite(path, pixels((16, 16), "uint8"), compression=compression, **options)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for code in (256, 257):
            tif.pages[0].tags[code].overwrite(2**31)
    refused(path, "geometry cannot be right")


def test_an_absurd_stack(path):
    tifffile.imwrite(path, pixels((5, 40, 50)), truncate=True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"[5, 40", b"[9, 40"))
    refused(path, "a.tif")


@pytest.mark.parametrize("pages", [2, 150])
def test_a_loop_in_the_chain_of_pages(path, pages):
    with tifffile.TiffWriter(path) as writer:
        for _ in range(pages):
            writer.write(pixels((4, 5)), metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as tif:
        starts = [page.offset for page in tif.pages]
        tags = len(tif.pages[-1].tags)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, starts[-1] + 2 + 12 * tags, starts[pages // 2])
    path.write_bytes(data)
    refused(path, f"page {pages} leads back .* loop")


def test_a_chain_that_leaves_the_file(path):
    tifffile.imwrite(path, pixels((4, 5)))
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].offset + 2 + 12 * len(tif.pages[0].tags)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, at, 10**9)
    path.write_bytes(data)
    refused(path, "page 1 is at offset 1000000000, outside")


def test_a_broken_layout_tag_is_an_error_and_a_broken_private_one_is_not(path, capfd):
    def with_broken(code):
        tags = [(65000, 12, 8, tuple(range(8)), True)]
        tifffile.imwrite(path, pixels((4, 5)), extratags=tags, rowsperstrip=1)
        with tifffile.TiffFile(path) as tif:
            at = tif.pages[0].tags[code].offset
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, at + 8, 10**9)
        path.write_bytes(data)

    with_broken(273)
    refused(path, "273")
    with_broken(65000)
    with TiffSource(path) as source:
        np.testing.assert_array_equal(whole(source), pixels((4, 5)))
    assert capfd.readouterr().err == ""


def test_a_stale_description_is_passed_over(path):
    """Programs that crop an image copy tifffile's description of its shape along."""
    tifffile.imwrite(path, pixels((16, 16)), description='{"shape": [100, 200]}', metadata=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("tifffile"), "disabled", True)
        expected = tifffile.imread(path)
    assert_same(path, 0, expected)


def test_unknown_compressions_and_samples_are_refused_at_opening(path):
    tifffile.imwrite(path, pixels((16, 16), "int16"))
    for code, value, match in ((259, 12345, "12345"), (258, 13, ""), (339, 7, "")):
        with tifffile.TiffFile(path, mode="r+b") as tif:
            tag = tif.pages[0].tags[code]
            before = tag.value
            tag.overwrite(value)
        if match:
            with pytest.raises(InputError, match=match):
                TiffSource(path)
        else:
            refused(path, "a.tif")
        with tifffile.TiffFile(path, mode="r+b") as tif:
            tif.pages[0].tags[code].overwrite(int(before))
    assert_same(path)


def test_other_files_are_never_read(tmp_path):
    """OME-XML that spreads an image over two files is refused, not read in half."""
    names = ("one.ome.tif", "two.ome.tif")
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
        'SizeX="50" SizeY="40" SizeZ="2" SizeC="1" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        + "".join(
            f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1">'
            f'<UUID FileName="{name}">urn:uuid:{z}{"0" * 7}-0000-0000-0000-000000000000</UUID>'
            "</TiffData>"
            for z, name in enumerate(names)
        )
        + "</Pixels></Image></OME>"
    )
    for name in names:
        tifffile.imwrite(tmp_path / name, pixels((40, 50)), description=xml, metadata=None)
    refused(tmp_path / names[0], "two.ome.tif.*as one file")


# ------------------------------------------------------------------- bad segments, filled


def shorten_tables(path, codes, length):
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for code in codes:
            tag = tif.pages[0].tags[code]
            tag.overwrite(list(tag.value)[:length])


def refused_or_filled(path, expected, names, match):
    """An error that is about a chunk, or, if asked for, pixels with the bad ones filled."""
    with pytest.raises(BadChunkError, match=match), TiffSource(path) as source:
        whole(source)
    with TiffSource(path, bad=Bad.FILL, missing=Missing.ERROR) as source:
        for _ in range(2):
            np.testing.assert_array_equal(whole(source), expected)
        assert source.absent.count == 0
        assert source.bad.count == len(names)
        assert [name.split(", ", 1)[1] for name in sorted(source.bad.first)] == names
        found = source.bad.news()
        assert sorted(found.names) == sorted(source.bad.first)
        assert len(found.numbers) == len(names)
        with pickle.loads(pickle.dumps(source)) as again:
            assert again.bad.bad is Bad.FILL


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["raw", "deflate"])
def test_a_missing_last_row_of_tiles(path, options):
    image = pixels((48, 50))
    tifffile.imwrite(path, image, tile=(16, 16), **options)
    shorten_tables(path, (324, 325), 8)
    image[32:] = 0
    names = ["tile 10 (row 2, column 2)", "tile 11 (row 2, column 3)", "tile 8 (row 2, column 0)",
             "tile 9 (row 2, column 1)"]  # fmt: skip
    refused_or_filled(path, image, names, r"tile 8 \(row 2, column 0\) is not listed.*4 tiles")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["raw", "deflate"])
def test_a_missing_last_strip(path, options):
    image = pixels((48, 50))
    tifffile.imwrite(path, image, rowsperstrip=10, **options)
    shorten_tables(path, (273, 279), 4)
    image[40:] = 0
    refused_or_filled(path, image, ["strip 4"], "strip 4 is not listed")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["raw", "deflate"])
@pytest.mark.parametrize("offset", [0, 7, 2**32 - 1])
def test_offsets_where_no_pixels_can_be(path, options, offset):
    image = pixels((40, 50))
    tags = [(42113, 2, 2, "7", True)]
    tifffile.imwrite(path, image, tile=(16, 16), extratags=tags, **options)
    edit_tag(path, 324, lambda values: [*values[:5], offset, *values[6:]])
    image[16:32, 16:32] = 7
    match = rf"tile 5 \(row 1, column 1\), bytes {offset} to .* (header|beyond)"
    refused_or_filled(path, image, ["tile 5 (row 1, column 1)"], match)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["raw", "deflate"])
def test_a_file_that_is_cut_short_keeps_the_rest(path, options):
    image = pixels((48, 50))
    tifffile.imwrite(path, image, rowsperstrip=10, **options)
    os.truncate(path, path.stat().st_size - 10)
    image[40:] = 0
    refused_or_filled(path, image, ["strip 4"], "strip 4, .*cut short")


def test_a_strip_that_cannot_be_decoded_does_not_take_its_neighbours_along(path):
    """Strips that adjoin in the file are read at once."""
    image = np.arange(48 * 50, dtype="uint16").reshape(48, 50)
    tifffile.imwrite(path, image, rowsperstrip=10, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[2]
    data = bytearray(path.read_bytes())
    data[offset : offset + 9] = b"\x07" * 9
    path.write_bytes(data)
    image[20:30] = 0
    refused_or_filled(path, image, ["strip 2"], "strip 2, .*cannot be decoded")


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}], ids=["raw", "deflate"])
def test_an_input_error_of_the_disk_is_a_bad_segment(path, options, tiled, monkeypatch):
    image = pixels((48, 50))
    cut = {"tile": (16, 64)} if tiled else {"rowsperstrip": 16}
    tifffile.imwrite(path, image, **cut, **options)
    with tifffile.TiffFile(path) as tif:
        first = tif.pages[0].dataoffsets[1]
        last = first + tif.pages[0].databytecounts[1]
    pread = os.pread

    def failing(descriptor, count, offset):
        if offset < last and offset + count > first:
            raise OSError(5, "Input/output error")
        return pread(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", failing)
    image[16:32] = 0
    name = "tile 1 (row 1, column 0)" if tiled else "strip 1"
    refused_or_filled(path, image, [name], f"{name.split(' (')[0]}.*Input/output error")


OME = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
    'SizeX="50" SizeY="40" SizeZ="{}" SizeC="1" SizeT="{}">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="{}"/>'
    "</Pixels></Image></OME>"
)
MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="m" Namespace="x/modulo"><Value><Modulo>'
    '<ModuloAlongT Start="0" End="1" Step="1e-9"/></Modulo></Value></XMLAnnotation>'
    "</StructuredAnnotations>"
)


@pytest.mark.parametrize(
    ("description", "match"),
    [
        (OME.format("", 1, 10**9, 1), "1000000000 planes in Pixels"),
        (OME.format("", 10**6, 10**6, 1), "planes in Pixels"),
        (OME.format("", 1, 1, 10**9), "1000000000 planes in TiffData"),
        (OME.format("", "&#49;0000000", 1, 1), "10000000 planes in Pixels"),
        (OME.format(MODULO, 1, 1, 1), "planes in ModuloAlongT"),
        ("ImageJ=1.11a\nimages=1000000000\nslices=1000000000\n", "describes 1000000000 planes"),
    ],
    ids=["sizes", "product", "TiffData", "escaped", "modulo", "ImageJ"],
)
def test_descriptions_that_ask_for_millions_of_planes(path, description, match):
    """tifffile would make a list of them at once."""
    options = {"description": description, "metadata": None, "compression": "zlib"}
    tifffile.imwrite(path, pixels((40, 50)), **options)
    refused(path, match)


def test_a_stack_with_fewer_pages_than_it_describes(path):
    description = "ImageJ=1.11a\nimages=3\nslices=3\n"
    with tifffile.TiffWriter(path) as writer:
        for seed in range(2):
            options = {"description": description} if seed == 0 else {}
            image = pixels((40, 50), seed=seed)
            writer.write(image, metadata=None, compression="zlib", **options)
    refused(path, "its pages hold 2 planes")


def test_an_imagej_stack_that_is_cut_short(path):
    """One page describes it; without the rest it would be that page alone."""
    tifffile.imwrite(path, pixels((5, 40, 50)), imagej=True, truncate=True)
    os.truncate(path, path.stat().st_size - 5000)
    refused(path, "ImageJ series metadata invalid or corrupted")


def test_a_file_of_an_ndtiff_set_is_refused(path, monkeypatch):
    """Its index is another file, which names others."""
    tifffile.imwrite(path, pixels((40, 50)))
    monkeypatch.setattr(tifffile.TiffFile, "is_ndtiff", True)
    refused(path, "NDTiff")


# ------------------------------------------------------------------- tags


def test_tags_to_carry_over(path):
    scale = (30.0, 30.0, 0.0)
    tifffile.imwrite(
        path,
        pixels((40, 50, 4), "uint8"),
        photometric="rgb",
        extrasamples=["unassalpha"],
        resolution=(300, 72.5),
        resolutionunit="INCH",
        byteorder=">",
        extratags=[(33550, 12, 3, scale, True), (42113, 2, 3, "-1", True)],
        iccprofile=b"profile\0!",
    )
    with TiffSource(path) as source:
        tags = source.tags
    assert tags == pickle.loads(pickle.dumps(tags))
    values = {code: (dtype, count, value) for code, dtype, count, value in tags.entries}
    assert values[33550] == (12, 3, scale)
    assert values[42113] == (2, 3, b"-1\0")
    assert values[34675] == (7, 9, b"profile\0!")
    assert values[282] == (5, 1, (300, 1))
    assert values[283][2][0] / values[283][2][1] == 72.5
    assert values[296] == (3, 1, (2,))
    assert (tags.photometric, tags.extrasamples) == (2, (2,))


def test_a_tag_of_absurd_size_is_not_carried_over(path):
    """In a file that is long enough, it would be read."""
    tifffile.imwrite(path, pixels((40, 50)), iccprofile=bytes(100), metadata=None)
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[34675].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, at + 4, 1 << 31)
    path.write_bytes(data)
    os.truncate(path, 1 << 32)
    refused(path, "tag 34675 has 2147483648 values")


def test_jpeg_that_is_decoded_to_rgb_says_rgb(path):
    tifffile.imwrite(path, pixels((32, 32, 3), "uint8"), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].photometric == 6
    with TiffSource(path) as source:
        assert source.tags.photometric == 2


@pytest.mark.parametrize("skewed", [False, True])
def test_moved_tags_leave_every_pixel_at_its_place_on_the_map(tmp_path, skewed):
    rasterio = pytest.importorskip("rasterio")
    affine = rasterio.Affine(30, 4, 500_000, -3, -20, 4e6) if skewed else None
    affine = affine or rasterio.Affine(30, 0, 500_000, 0, -20, 4e6)
    before, after = tmp_path / "before.tif", tmp_path / "after.tif"
    profile = {"width": 50, "height": 40, "count": 1, "dtype": "uint8", "driver": "GTiff"}
    with rasterio.open(before, "w", **profile, crs="EPSG:32618", transform=affine):
        pass
    with TiffSource(before) as source:
        moved = source.tags.moved((-2, 7))
        assert source.tags.moved((0, 0)) == source.tags
    extratags = [(*entry, True) for entry in moved.entries if entry[0] > 30000]
    tifffile.imwrite(after, pixels((40, 50), "uint8"), metadata=None, extratags=extratags)
    with rasterio.open(after) as opened:
        got = opened.transform @ (3, 5)
    assert got == pytest.approx(affine @ (3 + 7, 5 - 2), rel=1e-12)


# ------------------------------------------------------------------- real files


@pytest.mark.skipif(DATA is None, reason="no folder of real files")
@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("CMU-1-Small-Region.svs", ("y", "x", "s")),
        ("RGB.byte.tif", ("y", "x", "s")),
        ("multi-channel-z-series.ome.tif", ("c", "z", "y", "x")),
    ],
)
def test_real_files(name, dims):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not among the real files")
    raster = assert_same(DATA / name)
    assert raster.dims == dims
    with pytest.raises(ConfigError, match="no level 1"):
        TiffSource(DATA / name, level=1)


def test_silencing_the_library_does_not_silence_the_check(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((40, 50), np.uint8))
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].tags[262].offset
    data[at + 2 : at + 4] = b"\xff\x00"  # A data type that there is not.
    path.write_bytes(data)
    logger = logging.getLogger("tifffile")
    monkeypatch.setattr(logger, "disabled", True)
    monkeypatch.setattr(logger, "level", logging.CRITICAL)
    with pytest.raises(InputError):
        TiffSource(path)
    assert (logger.disabled, logger.level) == (True, logging.CRITICAL)
