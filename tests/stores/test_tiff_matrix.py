"""Every combination tifffile can write, read whole and by windows, against tifffile.imread."""

import itertools
import zlib

import numpy as np
import pytest
import tifffile

from tileconv.core.grid import Region
from tileconv.stores.tiff.reader import TiffSource

ROWS, COLUMNS = 61, 83

LAYOUTS = {
    "tiles": {"tile": (32, 48)},
    "one-row strips": {"rowsperstrip": 1},
    "37-row strips": {"rowsperstrip": 37},
    "one strip": {"rowsperstrip": ROWS},
}
COLOURS = {
    "grey": ((ROWS, COLUMNS), {"photometric": "minisblack"}),
    "interleaved": ((ROWS, COLUMNS, 3), {"photometric": "rgb", "planarconfig": "contig"}),
    "planar": ((3, ROWS, COLUMNS), {"photometric": "rgb", "planarconfig": "separate"}),
}
DTYPES = ("uint8", "uint16", "int16", "float32")

# Fewest combinations of a layout that must have been written and read, for each compression:
# a reader that skips what it cannot do, or a writer that refuses all, turns this red.
FEWEST = {
    "none": 48,
    "adobe_deflate": 96,
    "lzw": 96,
    "packbits": 96,
    "zstd": 96,
    "lzma": 96,
    "jpeg": 18,
    "jpeg2000": 24,
    "jpegxl": 24,
    "webp": 4,
    "png": 18,
    "lerc": 60,
    "jpegxr": 24,
}


def whole(source):
    """The raster, read plane by plane."""
    raster = source.raster
    out = np.zeros((raster.planes, *raster.spatial, raster.samples), raster.dtype)
    for plane in range(raster.planes):
        source.read(plane, Region.of_shape(raster.spatial), out[plane])
    return out.reshape(raster.shape)


def check_windows(source, expected, rng, count=2):
    """Random windows, into arrays of another dtype and with uneven strides."""
    raster = source.raster
    planes = expected.reshape(raster.planes, *raster.spatial, raster.samples)
    for _ in range(count):
        y0, y1 = sorted(rng.choice(raster.spatial[0] + 1, 2, replace=False).tolist())
        x0, x1 = sorted(rng.choice(raster.spatial[1] + 1, 2, replace=False).tolist())
        plane = int(rng.integers(raster.planes))
        out = np.full((y1 - y0, raster.samples, x1 - x0), 77, np.float64).transpose(0, 2, 1)
        source.read(plane, Region((y0, x0), (y1, x1)), out)
        np.testing.assert_array_equal(out, planes[plane, y0:y1, x0:x1])


def written(path, pixels, **options):
    """Whether tifffile writes this combination, and reads what it has written."""
    try:
        tifffile.imwrite(path, pixels, **options)
        return tifffile.imread(path)
    except Exception:  # noqa: BLE001  whatever it says no with
        return None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", FEWEST)
def test_equals_imread(tmp_path, compression, layout):
    rng = np.random.default_rng(zlib.crc32(f"{compression} {layout}".encode()))
    path = tmp_path / "a.tif"
    ran = 0
    for dtype, colour, predictor, byteorder, bigtiff in itertools.product(
        DTYPES, COLOURS, (False, True), "<>", (False, True)
    ):
        shape, options = COLOURS[colour]
        # Smooth with noise: what a lossy codec is made for, with every value different.
        pixels = rng.integers(0, 100, shape).astype(dtype)
        pixels += np.arange(COLUMNS).reshape(COLUMNS, *(1,) * (shape[-1] == 3)).astype(dtype)
        if dtype == "int16":
            pixels -= 90
        expected = written(
            path,
            pixels,
            compression=compression,
            predictor=predictor,
            byteorder=byteorder,
            bigtiff=bigtiff,
            metadata=None,
            **options,
            **LAYOUTS[layout],
        )
        if expected is None:
            continue
        ran += 1
        with TiffSource(path) as source:
            got = whole(source)
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            case = (dtype, colour, predictor, byteorder, bigtiff)
            np.testing.assert_array_equal(got, expected, err_msg=str(case))
            check_windows(source, expected, rng)
    assert ran >= FEWEST[compression]
