"""Pixels of one tile to the bytes a TIFF stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np

from tileconv.core.grid import Shape


def tile_pixels(block: np.ndarray, tile: Shape, dtype: np.dtype) -> np.ndarray:
    """A new little-endian tile that begins with `block` and repeats its last row and column.

    Readers drop what lies beyond the raster; repeated pixels take less room than zeros.

    Parameters
    ----------
    block : ndarray, shape (rows, columns, samples)
        At most `tile` in size, at least one pixel.
    tile : (int, int)
    dtype : numpy.dtype

    Returns
    -------
    ndarray, shape tile + (samples,), C order
    """
    rows, columns, samples = block.shape
    out = np.empty((*tile, samples), dtype.newbyteorder("<"))
    out[:rows, :columns] = block
    out[:rows, columns:] = out[:rows, columns - 1 : columns]
    out[rows:] = out[rows - 1]
    return out


def encoder(
    compression: str, level: int | None, predictor: int
) -> Callable[[np.ndarray], memoryview]:
    """What turns the pixels of a tile, which it may overwrite, into the bytes to be stored."""
    compress = _compressor(compression, level)

    def encode(pixels: np.ndarray) -> memoryview:
        if predictor == 2:
            pixels = imagecodecs.delta_encode(pixels, axis=-2, out=pixels)
        elif predictor == 3:
            pixels = imagecodecs.floatpred_encode(pixels, axis=-2)
        return compress(pixels)

    return encode


def _compressor(compression: str, level: int | None) -> Callable[[Any], memoryview]:
    """The codec itself; Any, because imagecodecs takes every buffer, but its stubs say bytes."""
    match compression:
        case "none":
            return lambda pixels: pixels.reshape(-1).view(np.uint8).data
        case "deflate":
            # libdeflate: three times as fast as zlib at the same level and ratio.
            return lambda pixels: memoryview(imagecodecs.deflate_encode(pixels, level=level))
        case "lzw":
            return lambda pixels: memoryview(imagecodecs.lzw_encode(pixels))
        case "zstd":
            return lambda pixels: memoryview(imagecodecs.zstd_encode(pixels, level=level))
    raise ValueError(f"no encoder for compression {compression!r}")
