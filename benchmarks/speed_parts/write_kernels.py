"""Write the kernels of the speed benchmark: `python write_kernels.py FOLDER`.

``dense-N.npy`` are random positive weights on two axes, ``gaussian-31.npy`` (sigma 3.75, the 31
taps that ``gaussian:sigma=3.75`` has) and ``box-101.npy`` are taps of one axis. All add up to 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SIZES = (3, 7, 31, 127, 255)


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1])
    for size in SIZES:
        weights = np.random.default_rng(size).random((size, size))
        np.save(folder / f"dense-{size}.npy", weights / weights.sum())
    taps = np.exp(-0.5 * (np.arange(-15, 16) / 3.75) ** 2)
    np.save(folder / "gaussian-31.npy", taps / taps.sum())
    np.save(folder / "box-101.npy", np.full(101, 1 / 101))


if __name__ == "__main__":
    main()
