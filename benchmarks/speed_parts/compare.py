"""How far two rasters are apart: `python compare.py OURS PEERS`, TIFF or Zarr.

8 x 8 windows of 512 pixels, spread evenly from corner to corner, so that corners, edges and
places where tiles meet are among them; up to 4096 x 4096 pixels that is every pixel. Prints the
largest difference, where it is, the mean one, and the range of our values.
"""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import tifffile
import zarr

WINDOW, WINDOWS = 512, 8


def opened(path: str) -> zarr.Array:
    """A TIFF or a Zarr, to be read by windows."""
    store = path if path.endswith(".zarr") else tifffile.imread(path, aszarr=True)
    return zarr.open_array(store, mode="r")


def starts(size: int) -> list[int]:
    """Where windows begin along one axis."""
    count = min(WINDOWS, -(-size // WINDOW))
    return np.linspace(0, max(0, size - WINDOW), count).round().astype(int).tolist()


def compared(ours: zarr.Array, peers: zarr.Array) -> dict[str, object]:
    """Differences over all windows."""
    largest, place, total, count = -1.0, (0, 0), 0.0, 0
    low, high = np.inf, -np.inf
    for top, left in itertools.product(*map(starts, ours.shape)):
        window = (slice(top, top + WINDOW), slice(left, left + WINDOW))
        mine, other = (np.asarray(array[window], np.float64) for array in (ours, peers))
        apart = np.abs(mine - other)
        # A NaN is no agreement.
        apart[np.isnan(apart)] = np.inf
        if apart.max() > largest:
            largest = float(apart.max())
            y, x = np.unravel_index(apart.argmax(), apart.shape)
            place = (top + int(y), left + int(x))
        total, count = total + float(apart.sum()), count + apart.size
        low, high = min(low, float(mine.min())), max(high, float(mine.max()))
    return {
        "largest": largest,
        "at": place,
        "mean": total / count,
        "pixels": count,
        "range": high - low,
        "dtype": str(ours.dtype),
    }


def main() -> None:
    """Compare two files."""
    ours, peers = (opened(path) for path in sys.argv[1:3])
    if ours.shape != peers.shape:
        sys.exit(f"shapes differ: ours {ours.shape}, the peer's {peers.shape}")
    print(json.dumps(compared(ours, peers)))


if __name__ == "__main__":
    main()
