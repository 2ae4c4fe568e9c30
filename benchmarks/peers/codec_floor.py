"""A floor of the speed benchmark: every tile decoded once, every tile of the result encoded once.

    python codec_floor.py INPUT OUTPUT --result RAW [--threads N] [--level N]

INPUT is a deflate TIFF with the horizontal predictor, RAW what becomes of it, uncompressed:
what a result looks like decides how long it takes to encode. Both have tiles of the same size
and uint8. There is no convolution, and the output is a plain file of tiles, with no directory.
"""

from __future__ import annotations

import argparse
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile


def tiles_of(path: str) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """(offset, bytes) of every tile of a TIFF, and the shape of a tile."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tiles = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        return tiles, (page.tilelength, page.tilewidth)


def main() -> None:
    """Decode one file, and encode another into a third."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--result", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", type=int, default=6)
    given = parser.parse_args()
    (coded, shape), (raw, raw_shape) = tiles_of(given.input), tiles_of(given.result)
    assert shape == raw_shape
    size = shape[0] * shape[1]
    appending = threading.Lock()
    with (
        Path(given.input).open("rb") as source,
        Path(given.result).open("rb") as result,
        Path(given.output).open("wb") as target,
    ):

        def recode(tile: tuple[tuple[int, int], tuple[int, int]]) -> None:
            (offset, length), (place, _) = tile
            packed = os.pread(source.fileno(), length, offset)
            differences = imagecodecs.deflate_decode(packed, out=size)
            pixels = np.frombuffer(differences, np.uint8).reshape(shape)
            imagecodecs.delta_decode(pixels, axis=1)
            pixels = np.frombuffer(os.pread(result.fileno(), size, place), np.uint8)
            differences = imagecodecs.delta_encode(pixels.reshape(shape), axis=1)
            packed = imagecodecs.deflate_encode(differences, level=given.level)
            with appending:
                target.write(packed)

        with ThreadPoolExecutor(given.threads) as pool:
            for _ in pool.map(recode, zip(coded, raw, strict=True)):
                pass


if __name__ == "__main__":
    main()
