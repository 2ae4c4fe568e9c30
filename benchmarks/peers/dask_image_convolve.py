"""A peer of the speed benchmark: dask-image, from a TIFF or a Zarr into a Zarr of float32.

python dask_image_convolve.py INPUT OUTPUT --kernel FILE [--threads N] [--block N] ...
"""

from __future__ import annotations

import argparse

import numpy as np
from dask_files import computed, opened
from dask_image import ndfilters


def main() -> None:
    """Convolve one file into another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--kernel", required=True, help="a .npy of weights")
    parser.add_argument("--threads", type=int, default=2)
    # At 8192 x 8192, one run each, 4096 was within 2 % and took nearly twice the memory.
    parser.add_argument("--block", type=int, default=2048, help="side of dask's blocks")
    parser.add_argument("--compression", choices=("none", "zstd"), default="none")
    given = parser.parse_args()
    # It computes in the dtype it is given, and uint8 would cut its results off.
    image = opened(given.input, given.block).astype(np.float32)
    result = ndfilters.convolve(image, np.load(given.kernel), mode="nearest")
    computed(result, given.output, compression=given.compression, threads=given.threads)


if __name__ == "__main__":
    main()
