from __future__ import annotations

import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tileconv.stores.tiff.codec import encoder, fill_tile


@given(
    block=hnp.arrays(
        st.sampled_from([np.uint8, np.dtype(">i2"), np.float32, np.complex64]),
        st.tuples(st.integers(1, 16), st.integers(1, 32), st.integers(1, 3)),
        elements=st.integers(0, 100),
    )
)
@settings(deadline=None, max_examples=50)
def test_a_tile_is_the_block_and_its_edge_repeated(block):
    rows, columns, samples = block.shape
    tile = np.full((16, 32, samples), 7, block.dtype.newbyteorder("<"))
    fill_tile(tile, block)
    wanted = np.pad(block, ((0, 16 - rows), (0, 32 - columns), (0, 0)), mode="edge")
    np.testing.assert_array_equal(tile, wanted)
    if block.dtype.kind in "iu":
        fill_tile(tile, block, differences=True)
        wanted[:, 1:] -= wanted[:, :-1].copy()
        np.testing.assert_array_equal(tile, wanted)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
def test_differences_are_libtiffs(samples, dtype):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    pixels = rng.integers(info.min, info.max, (16, 32, samples), dtype, endpoint=True)
    tile = np.empty_like(pixels)
    fill_tile(tile, pixels, differences=True)
    np.testing.assert_array_equal(imagecodecs.delta_decode(tile, axis=-2), pixels)


def test_floats_are_split_into_planes_of_bytes_and_differenced():
    # Adobe Photoshop TIFF Technical Note 3: most significant bytes first, then differences.
    pixels = np.random.default_rng(0).normal(size=(4, 16, 2)).astype("<f4")
    rows = pixels.astype(">f4").view(np.uint8).reshape(4, 32, 4)
    planes = np.moveaxis(rows, -1, 1).reshape(4, 128)
    wanted = planes.copy()
    wanted[:, 2:] -= planes[:, :-2]
    assert zlib.decompress(encoder("deflate", 1, 3)(pixels)) == wanted.tobytes()


@pytest.mark.parametrize(
    ("compression", "level", "decode"),
    [
        ("none", None, bytes),
        ("deflate", 12, zlib.decompress),
        ("lzw", None, imagecodecs.lzw_decode),
        ("zstd", 19, imagecodecs.zstd_decode),
    ],
)
def test_compressions_keep_every_byte(compression, level, decode):
    pixels = np.random.default_rng(0).normal(size=(16, 16, 1)).astype(np.complex64)
    wanted = pixels.tobytes()
    stored = encoder(compression, level, 1)(pixels)
    assert (stored.format, stored.ndim) == ("B", 1)
    assert bytes(decode(bytes(stored))) == wanted


def test_an_unknown_compression_has_no_encoder():
    with pytest.raises(ValueError, match="jpeg"):
        encoder("jpeg", None, 1)
