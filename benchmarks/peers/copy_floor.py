"""A floor of the speed benchmark: every raw tile of a TIFF read once and written once.

    python copy_floor.py INPUT OUTPUT [--threads N]

No pixel is looked at. The output is a plain file of tiles, with no directory.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tifffile


def main() -> None:
    """Copy the tiles of one file into another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    with tifffile.TiffFile(given.input) as tiff:
        page = tiff.pages[0]
        tiles = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with Path(given.input).open("rb") as source, Path(given.output).open("wb") as target:

        def copy(tile: tuple[int, int]) -> None:
            offset, size = tile
            os.pwrite(target.fileno(), os.pread(source.fileno(), size, offset), offset)

        with ThreadPoolExecutor(given.threads) as pool:
            for _ in pool.map(copy, tiles):
                pass


if __name__ == "__main__":
    main()
