"""Other readers' windows are the rasters' own; what they cannot read, tileconv's reader does."""

import gzip

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

import tileconv
from tileconv.core.grid import Region
from tileconv.errors import InputError, MemoryCapError, VerificationError
from tileconv.stores.absent import Missing
from tileconv.stores.formats import open_source
from tileconv.verification.reading import Kept, KeptChunks, reading_of

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (70, 90), np.uint8)
COLOUR = RNG.integers(0, 255, (70, 90, 3), np.uint8)
STACK = RNG.integers(0, 60000, (4, 70, 90), np.uint16)
GREY_16 = STACK[0]
FLOATS = RNG.random((70, 90)).astype(np.float32)


def windows_of(raster):
    rows, columns = raster.spatial
    yield Region((0, 0), (rows, columns))
    yield Region((13, 17), (min(50, rows - 2), min(71, columns - 1)))
    yield Region((rows - 1, columns - 1), (rows, columns))


def check(path, expected, name, level=0, **options):
    """Every window of every plane is numpy's slice of what was written."""
    with open_source(path, level=level, cache=KeptChunks(), **options) as source:
        reading = reading_of(source, level)
        reading.keep(1 << 20)
        raster = source.raster
        whole = expected.reshape(raster.planes, *raster.spatial, raster.samples)
        for plane in range(raster.planes):
            for window in windows_of(raster):
                out = np.empty((*window.shape, raster.samples), raster.dtype)
                reading.read(plane, window, out)
                assert np.array_equal(out, whole[plane][window.slices])
        reading.close_other()
        assert reading.name == name
        return reading


TIFFS = {
    "strips": (GREY, {"rowsperstrip": 7}),
    "one strip": (GREY, {}),
    "deflate strips": (GREY, {"rowsperstrip": 7, "compression": "deflate"}),
    "tiles": (GREY, {"tile": (32, 16)}),
    "predictor": (GREY, {"tile": (32, 32), "compression": "lzw", "predictor": True}),
    "floats": (FLOATS, {"tile": (32, 32), "compression": "zstd", "predictor": 3}),
    "big endian": (GREY_16, {"byteorder": ">", "rowsperstrip": 9}),
    "big endian deflate": (GREY_16, {"byteorder": ">", "tile": (16, 16), "compression": "lzw"}),
    "colour": (COLOUR, {"photometric": "rgb", "tile": (32, 32)}),
    "planar": (COLOUR.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
    "planar tiles": (
        COLOUR.transpose(2, 0, 1),
        {"photometric": "rgb", "planarconfig": "separate", "tile": (32, 32)},
    ),
    "pages": (STACK, {"photometric": "minisblack", "tile": (32, 32)}),
    "imagej": (STACK, {"imagej": True}),
    "volume": (STACK, {"volumetric": True, "tile": (2, 32, 32), "photometric": "minisblack"}),
    "png": (GREY, {"tile": (32, 32), "compression": "png"}),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiffs_are_read_by_tifffile(tmp_path, kind):
    pixels, options = TIFFS[kind]
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    check(tmp_path / "a.tif", pixels, "tifffile")


def test_jpegs_are_what_tileconvs_reader_makes_of_them(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", COLOUR, photometric="rgb", tile=(32, 32), compression="jpeg"
    )
    check(tmp_path / "a.tif", tifffile.imread(tmp_path / "a.tif"), "tifffile")


def test_levels_of_a_pyramid(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(GREY, subifds=1, tile=(32, 32))
        tif.write(GREY[::2, ::2], subfiletype=1, tile=(16, 16))
    check(tmp_path / "a.tif", GREY[::2, ::2], "tifffile", level=1)


ZARRS = {
    "zstd": {},
    "raw": {"compressors": None},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "blosc": {"compressors": zarr.codecs.BloscCodec()},
    "crc": {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    "shards": {"shards": (64, 64)},
    "v2": {"zarr_format": 2},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    "v2 order": {"zarr_format": 2, "order": "F", "compressors": None},
}


@pytest.mark.parametrize("kind", ZARRS)
@pytest.mark.parametrize("pixels", [GREY, FLOATS], ids=["bytes", "floats"])
def test_zarrs_are_read_by_zarr_python(tmp_path, kind, pixels):
    options = {"chunks": (32, 16)} | ZARRS[kind]
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=pixels.shape, dtype=pixels.dtype, **options)[...] = pixels
    check(path, pixels, "zarr-python")


def test_planes_and_samples_of_zarrs(tmp_path):
    both = RNG.integers(0, 255, (2, 3, 40, 50, 3), np.uint8)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=both.shape,
        dtype="u1",
        chunks=(1, 2, 16, 16, 2),
        dimension_names=["t", "z", "y", "x", "c"],
    )
    array[...] = both
    check(tmp_path / "a.zarr", both, "zarr-python")


def test_levels_of_an_ome_zarr(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    for level in (0, 1):
        part = GREY[:: 1 + level, :: 1 + level]
        group.create_array(str(level), shape=part.shape, dtype="u1", chunks=(32, 32))[...] = part
    axes = [{"name": name, "type": "space"} for name in "yx"]
    datasets = [{"path": "0"}, {"path": "1"}]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    check(tmp_path / "a.zarr", GREY[::2, ::2], "zarr-python", level=1)


def test_absent_chunks_are_the_fill_value(tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(70, 90), dtype="u1", chunks=(32, 32), fill_value=9
    )
    array[:20] = 3
    check(tmp_path / "a.zarr", array[...], "zarr-python", missing=Missing.FILL)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npys_are_read_by_numpy(tmp_path, order):
    np.save(tmp_path / "a.npy", np.array(STACK, order=order))
    check(tmp_path / "a.npy", STACK, "numpy")


@pytest.mark.parametrize(
    "compressors",
    [numcodecs.zarr3.LZMA(), numcodecs.zarr3.BZ2()] if hasattr(numcodecs, "zarr3") else [],
)
@pytest.mark.filterwarnings("ignore")
def test_chunks_that_cannot_be_looked_into_are_left_to_tileconv(tmp_path, compressors):
    zarr.create_array(
        tmp_path / "a.zarr", shape=GREY.shape, dtype="u1", chunks=(32, 32), compressors=compressors
    )[...] = GREY
    with open_source(tmp_path / "a.zarr", cache=KeptChunks()) as source:
        assert reading_of(source).name.startswith("tileconv: chunks encoded with")


def test_a_chunk_that_would_not_end_is_not_decoded_by_zarr_python(tmp_path, job_of):
    path = tmp_path / "a.zarr"
    gz = zarr.codecs.GzipCodec()
    zarr.create_array(path, shape=(64, 64), dtype="u1", chunks=(32, 32), compressors=gz)[...] = 1
    job = job_of(GREY, np.ones((3, 3))) | {"input": {"path": str(path)}}
    tileconv.run(job)
    assert tileconv.verify(job).passed
    (path / "c" / "1" / "1").write_bytes(gzip.compress(bytes(1 << 26)))
    with pytest.raises(InputError, match=r"chunk \(1, 1\)"):
        tileconv.verify(job)
    job["input"]["on_bad_tile"] = "fill"
    tileconv.run(job)
    found = tileconv.verify(job)
    assert found.passed
    assert "zarr-python, and" in found.input_reader
    assert "windows by tileconv" in found.input_reader


def test_bad_tiles_that_a_run_fills_are_no_fault(tmp_path, job_of):
    tifffile.imwrite(tmp_path / "a.tif", GREY, tile=(32, 32), compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        page = tif.pages[0]
        offset, count = page.dataoffsets[4], page.databytecounts[4]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[offset : offset + count] = bytes(count)
    (tmp_path / "a.tif").write_bytes(data)
    job = job_of(GREY, np.ones((3, 3)))
    job["input"] = {"path": str(tmp_path / "a.tif"), "on_bad_tile": "fill"}
    tileconv.run(job)
    found = tileconv.verify(job)
    assert found.passed
    assert "windows by tileconv" in found.input_reader


def test_sparse_tiles(tmp_path, job_of):
    tiles = (GREY[:32, :32] if n % 3 else None for n in range(1, 10))
    tifffile.imwrite(
        tmp_path / "a.tif", tiles, shape=(70, 90), dtype="u1", tile=(32, 32),
        photometric="minisblack",
    )  # fmt: skip
    job = job_of(GREY, np.ones((3, 3)))
    job["input"] = {"path": str(tmp_path / "a.tif"), "missing": "fill"}
    tileconv.run(job)
    found = tileconv.verify(job)
    assert found.passed
    assert found.input_reader == "tifffile"
    refused = job | {"input": job["input"] | {"missing": "error"}}
    with pytest.raises(InputError, match="is absent"):
        tileconv.verify(refused)


def test_an_absent_chunk_of_an_output_is_no_fill_value(tmp_path, job_of):
    job = job_of(np.zeros((70, 90), np.float32), np.ones((3, 3)))
    tileconv.run(job)
    assert tileconv.verify(job).passed
    (tmp_path / "out.zarr" / "c" / "1" / "1").unlink()
    with pytest.raises(VerificationError, match="is absent; run the job again"):
        tileconv.verify(job)


def test_a_strip_beyond_the_cap_is_tileconvs(tmp_path, job_of):
    """Two threads decoding three copies of 12 MB do not fit what is left; two copies do."""
    pixels = np.zeros((3000, 4000), np.uint8)
    pixels[::7, ::3] = 200
    tifffile.imwrite(tmp_path / "a.tif", pixels, rowsperstrip=3000, compression="deflate")
    job = job_of(GREY, np.ones((3, 3)), output={"tile": 512})
    job["input"] = {"path": str(tmp_path / "a.tif")}
    tileconv.run(job)
    assert tileconv.verify(job).input_reader == "tifffile"
    with pytest.raises(MemoryCapError) as error:
        tileconv.verify(job | {"run": {"memory": "20MiB", "workers": 1}})
    assert "the smallest that can is" in str(error.value)


def test_kept_pieces_stay_within_their_bytes():
    kept, loads = Kept(), []
    kept.capacity_bytes = 250

    def load(number):
        loads.append(number)
        return np.zeros(100, np.uint8)

    for number in (1, 2, 1, 3, 1, 2):
        kept.get(number, lambda number=number: load(number))
    assert loads == [1, 2, 3, 2]
    assert kept._held_bytes == 200
