from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.stores.tiff.layout import (
    TILE_BYTES_MAX,
    tiff_layout,
    tiff_map,
    tiff_page,
    tiff_samples,
)
from tileconv.stores.tiff.tags import TiffTags


def raster_of(shape: tuple[int, ...], dims: str = "yx", dtype: str = "uint8") -> Raster:
    return Raster(shape, np.dtype(dtype), tuple(dims))


def test_deflate_6_in_tiles_of_512_is_the_default():
    layout = tiff_layout(raster_of((5000, 7000)))
    assert (layout.compression, layout.level) == ("deflate", 6)
    assert layout.unit == layout.raster.chunk == (512, 512)
    assert layout.raster.compression == "deflate"


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((1, 1), (16, 16)),
        ((16, 17), (16, 32)),
        ((511, 512), (512, 512)),
        ((10_000, 3), (512, 16)),
        ((3, 10_000), (16, 512)),
    ],
)
def test_small_rasters_get_smaller_tiles(shape, tile):
    assert tiff_layout(raster_of(shape)).unit == tile


@given(samples=st.integers(1, 65535), dtype=st.sampled_from(["uint8", "float32", "complex128"]))
@settings(deadline=None)
def test_tiles_of_many_samples_stay_small(samples, dtype):
    layout = tiff_layout(raster_of((5000, 5000, samples), "yxs", dtype))
    assert all(side % 16 == 0 for side in layout.unit)
    assert layout.unit == (16, 16) or layout.raster.chunk_bytes <= TILE_BYTES_MAX


@pytest.mark.parametrize("dtype", ["bool", "longdouble", "clongdouble", "U3", "M8[s]", "O", "V4"])
def test_a_dtype_without_a_sample_format_is_refused(dtype):
    with pytest.raises(ConfigError, match="convert to"):
        tiff_layout(raster_of((20, 20), dtype=dtype))


@pytest.mark.parametrize(
    ("compression", "level", "said"),
    [
        ("jpeg", None, "deflate, none, lzw, zstd"),
        ("Deflate", None, "deflate, none, lzw, zstd"),
        ("deflate", 0, "1 to 12"),
        ("deflate", 13, "1 to 12"),
        ("zstd", 20, "1 to 19"),
        ("none", 1, "no levels"),
        ("lzw", 6, "no levels"),
    ],
)
def test_compressions_and_levels_are_checked(compression, level, said):
    with pytest.raises(ConfigError, match=said):
        tiff_layout(raster_of((20, 20)), compression=compression, level=level)


@pytest.mark.parametrize(
    ("shape", "dims", "said"),
    [
        ((0, 20), "yx", "no empty raster"),
        ((20, 0), "yx", "no empty raster"),
        ((0, 20, 20), "zyx", "no empty raster"),
        ((20, 20, 0), "yxs", "no empty raster"),
        ((2**32, 1), "yx", "4294967296 rows"),
        ((1, 2**32), "yx", "4294967296 columns"),
        ((2**26, 2**26), "yx", "17179869184 tiles"),
        ((20, 20, 65536), "yxs", "65536 samples"),
        ((65536, 20, 20), "syx", "65536 samples"),
        ((20, 20, 2, 3), "yxcs", "one axis of samples"),
    ],
)
def test_what_tiff_cannot_count_is_refused(shape, dims, said):
    with pytest.raises(InputError, match=said):
        tiff_layout(raster_of(shape, dims))


def test_the_largest_raster_is_planned():
    layout = tiff_layout(raster_of((2**32 - 1, 2**17)))
    assert layout.table_bytes >= 16 * 2**23 * 2**8
    assert layout.max_bytes > 2**49


@pytest.mark.parametrize(
    ("shape", "dims", "dtype", "said", "photometric", "extra"),
    [
        # No tags: an axis of samples, 3 or 4, of the dtypes screens use, is a colour.
        ((9, 9), "yx", "uint8", None, 1, ()),
        ((9, 9, 3), "yxs", "uint8", None, 2, ()),
        ((9, 9, 4), "yxs", "uint16", None, 2, (2,)),
        ((9, 9, 4), "yxs", "float32", None, 1, (0, 0, 0)),
        ((9, 9, 3), "yxs", "int16", None, 1, (0, 0)),
        ((9, 9, 2), "yxs", "uint8", None, 1, (0,)),
        ((9, 9, 5), "yxs", "uint8", None, 1, (0, 0, 0, 0)),
        ((9, 9, 3), "yxc", "uint8", None, 1, (0, 0)),
        ((3, 9, 9), "syx", "uint8", None, 2, ()),
        ((3, 9, 9), "cyx", "uint8", None, 1, ()),
        # Tags: what they say, where it can still be true.
        ((9, 9, 3), "yxs", "float32", TiffTags(photometric=2), 2, ()),
        ((9, 9, 3), "yxs", "uint8", TiffTags(photometric=6), 2, ()),
        ((9, 9, 3), "yxs", "uint8", TiffTags(photometric=1), 1, (0, 0)),
        ((9, 9), "yx", "uint8", TiffTags(photometric=2), 1, ()),
        ((9, 9), "yx", "float32", TiffTags(photometric=0), 0, ()),
        ((9, 9), "yx", "uint8", TiffTags(photometric=3), 1, ()),
        ((9, 9, 4), "yxs", "uint8", TiffTags(photometric=5), 5, ()),
        ((9, 9, 4), "yxs", "float32", TiffTags(photometric=5), 1, (0, 0, 0)),
        ((9, 9, 3), "yxs", "uint8", TiffTags(photometric=8), 8, ()),
        ((9, 9, 3), "yxs", "uint8", TiffTags(photometric=32803), 1, (0, 0)),
        ((9, 9, 4), "yxs", "uint8", TiffTags(photometric=2, extrasamples=(1,)), 2, (1,)),
        ((9, 9, 4), "yxs", "uint8", TiffTags(photometric=2, extrasamples=(1, 0)), 2, (2,)),
        ((9, 9, 2), "yxs", "uint8", TiffTags(photometric=1, extrasamples=(2,)), 1, (2,)),
    ],
)
def test_what_the_samples_mean(shape, dims, dtype, said, photometric, extra):
    page = tiff_page(tiff_layout(raster_of(shape, dims, dtype), tags=said))
    assert (page.photometric, page.extra_samples) == (photometric, extra)


@pytest.mark.parametrize(
    ("shape", "dims", "pages", "tiles", "samples", "planar"),
    [
        ((600, 600), "yx", 1, 4, 1, False),
        ((600, 600, 3), "yxs", 1, 4, 3, False),
        ((3, 600, 600), "syx", 1, 12, 3, True),
        ((5, 3, 600, 600), "zsyx", 5, 12, 3, True),
        ((3, 600, 600), "cyx", 3, 4, 1, False),
        ((2, 5, 600, 600, 4), "tzyxs", 10, 4, 4, False),
        ((3, 600, 600, 2), "syxc", 3, 4, 2, False),
    ],
)
def test_planes_become_pages_or_planar_samples(shape, dims, pages, tiles, samples, planar):
    layout = tiff_layout(raster_of(shape, dims))
    page = tiff_page(layout)
    assert (page.pages, page.tiles, page.samples, page.planar) == (pages, tiles, samples, planar)
    assert tiff_map(layout).tiles == pages * tiles
    assert tiff_samples(layout.raster) == samples
