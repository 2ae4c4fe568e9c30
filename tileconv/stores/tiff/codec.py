"""Pixels of one tile to the bytes a TIFF stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np


def fill_tile(tile: np.ndarray, block: np.ndarray, *, differences: bool = False) -> None:
    """Make a tile of a block: it begins with it and repeats its last row and column.

    Readers drop what lies beyond the raster; repeated pixels take less room than zeros.

    Parameters
    ----------
    tile : ndarray, shape (tile rows, tile columns, samples)
        Written.
    block : ndarray, shape (rows, columns, samples)
        At most the tile in size, at least one pixel; integers, for differences.
    differences : bool
        Whether each pixel of a row but the first becomes its difference to the one before:
        the TIFF predictor 2, taken on the way.
    """
    rows, columns, _ = block.shape
    part = tile[:rows]
    if differences:
        part[:, 0] = block[:, 0]
        np.subtract(block[:, 1:], block[:, :-1], out=part[:, 1:columns])
        part[:, columns:] = 0
    else:
        part[:, :columns] = block
        part[:, columns:] = block[:, columns - 1 : columns]
    tile[rows:] = tile[rows - 1]


def encoder(
    compression: str, level: int | None, predictor: int
) -> Callable[[np.ndarray], memoryview]:
    """What turns a tile, its differences taken, into the bytes to be stored.

    Without compression these are the tile's own memory.
    """
    compress = _compressor(compression, level)
    if predictor != 3:
        return compress
    return lambda tile: compress(imagecodecs.floatpred_encode(tile, axis=-2))


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
