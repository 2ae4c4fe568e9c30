"""A peer of the speed benchmark: dask's map_overlap around scipy.signal.oaconvolve.

    python overlap_oaconvolve.py INPUT OUTPUT --kernel FILE [--threads N] [--block N] ...

What one writes by hand for a large kernel: overlap-add FFTs, into a Zarr of float32.
"""

from __future__ import annotations

import argparse

import numpy as np
from dask_files import computed, opened
from scipy.signal import oaconvolve


def main() -> None:
    """Convolve one file into another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--kernel", required=True, help="a .npy of weights, odd sizes")
    parser.add_argument("--threads", type=int, default=2)
    # At 8192 x 8192, one run each, 4096 was within 1 % for 31x31, slower for 255x255.
    parser.add_argument("--block", type=int, default=2048, help="side of dask's blocks")
    parser.add_argument("--compression", choices=("none", "zstd"), default="none")
    given = parser.parse_args()
    weights = np.load(given.kernel).astype(np.float32)

    def valid_part(block: np.ndarray) -> np.ndarray:
        # Nothing is computed that would be trimmed.
        return oaconvolve(block.astype(np.float32), weights, mode="valid")

    image = opened(given.input, given.block)
    depth = tuple(size // 2 for size in weights.shape)
    chunks = image.chunks
    result = image.map_overlap(
        valid_part, depth=depth, boundary="nearest", trim=False, dtype=np.float32, chunks=chunks
    )
    computed(result, given.output, compression=given.compression, threads=given.threads)


if __name__ == "__main__":
    main()
