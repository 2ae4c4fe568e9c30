"""One array in memory, one thread: OpenCV, scipy and tileconv in turn, in one process.

    python in_memory.py dense|separable SIZE float32|uint8 [--side N] [--rounds N]

Prints seconds of each round as JSON. OpenCV and tileconv's engine give the image's dtype,
tileconv's public door and oaconvolve float32; oaconvolve is handed an image that is float32
already. An engine is handed an image that is extended already, as a tile of a job is.
OpenCV or scipy, where it takes three times as long as the other, is not asked again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import cv2
import numpy as np
from scipy.signal import oaconvolve

import tileconv
from tileconv.core.engines import engine_for
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast

Way = Callable[[], np.ndarray]
PEERS = ("opencv", "scipy")


def factors(kind: str, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights on two axes, and what they are the product of if they are separable."""
    rng = np.random.default_rng(size)
    column, row = (taps / taps.sum() for taps in rng.random((2, size)))
    weights = np.outer(column, row)
    if kind == "dense":
        weights = rng.random((size, size))
        weights /= weights.sum()
    return weights.astype(np.float32), column, row


def ways_of(image: np.ndarray, kind: str, size: int) -> dict[str, Way]:
    """What takes turns, by name."""
    weights, column, row = factors(kind, size)
    floats, radius = image.astype(np.float32), size // 2
    edges = {"borderType": cv2.BORDER_REFLECT}
    flipped = np.ascontiguousarray(weights[::-1, ::-1])
    cast = Cast(image.dtype)
    # A Kernel is correlation weights: a convolution's, flipped.
    kernel = Kernel(flipped.astype(np.float64), (radius, radius))
    engine = engine_for(kernel, image.dtype, np.dtype(np.float32), cast)
    extended = np.pad(image, radius, mode="symmetric")[..., np.newaxis]
    stored = np.empty((*image.shape, 1), image.dtype)

    def by_opencv() -> np.ndarray:
        if kind == "dense":
            return cv2.filter2D(image, -1, flipped, **edges)
        return cv2.sepFilter2D(image, -1, row[::-1].copy(), column[::-1].copy(), **edges)

    def by_engine() -> np.ndarray:
        engine.apply(extended, stored, cast)
        return stored[..., 0]

    def by_public_door() -> np.ndarray:
        lazy = tileconv.convolve2d(image, weights, mode="same", boundary="symm")
        return lazy.compute(scheduler="synchronous")

    return {
        "opencv": by_opencv,
        "scipy": lambda: oaconvolve(floats, weights, mode="same"),
        "public": by_public_door,
        "engine": by_engine,
    }


def differences(ways: dict[str, Way], size: int) -> dict[str, float]:
    """Largest difference of each way from scipy, where no edge rule shows."""
    inside = (slice(size, -size), slice(size, -size))
    results = {name: way()[inside].astype(np.float32) for name, way in ways.items()}
    return {
        name: float(np.abs(result - results["scipy"]).max()) for name, result in results.items()
    }


def timed(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, round by round; a peer that cannot be the best has one round only."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        best = min(seconds[peer][0] for peer in PEERS) if turn else 0.0
        for name, way in ways.items():
            if turn and name in PEERS and seconds[name][0] > 3 * best:
                continue
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Time one kernel and dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("dense", "separable"))
    parser.add_argument("size", type=int)
    parser.add_argument("dtype", choices=("float32", "uint8"))
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    shape = (given.side, given.side)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8).astype(given.dtype)
    ways = ways_of(image, given.kind, given.size)
    found = {"difference": differences(ways, given.size)}
    print(json.dumps(found | {"seconds": timed(ways, given.rounds)}))


if __name__ == "__main__":
    main()
