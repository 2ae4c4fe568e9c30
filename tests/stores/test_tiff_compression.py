from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.stores.tiff.codec import encoder, fill_tile
from tileconv.stores.tiff.compression import CODECS, checked_codec, predictor


@pytest.mark.parametrize(
    ("dtype", "compression", "wanted"),
    [
        ("uint8", "deflate", 2),
        ("int32", "lzw", 2),
        ("uint64", "deflate", 1),
        ("float16", "deflate", 3),
        ("float64", "zstd", 3),
        ("complex64", "deflate", 1),
        ("uint8", "none", 1),
        ("float32", "none", 1),
    ],
)
def test_the_predictor_is_one_that_readers_know(dtype, compression, wanted):
    assert predictor(np.dtype(dtype), compression) == wanted


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_no_encoding_is_longer_than_its_bound(compression, dtype, data):
    # Noise and pairs of bytes are the worst that codes of variable length meet.
    rows, columns = (16 * data.draw(st.integers(1, 8)) for _ in "yx")
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    raw = rng.integers(0, data.draw(st.sampled_from([2, 17, 256])), (rows, columns, 4), np.uint8)
    block = raw.view(dtype)[..., : 4 // np.dtype(dtype).itemsize]
    codec, level = checked_codec(compression, None)
    before = predictor(block.dtype, compression)
    tile = np.empty_like(block)
    fill_tile(tile, block, differences=before == 2)
    encoded = encoder(compression, level, before)(tile)
    assert len(encoded) <= codec.bound(block.nbytes)
