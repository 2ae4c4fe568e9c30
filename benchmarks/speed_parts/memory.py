"""The part of the benchmark that works on one array in memory, on one thread."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator
from typing import Any

from speed_parts.processes import RunError, answer
from speed_parts.rounds import FLOAT_BOUND, PEERS, ROUNDING

SIDE = 4096
SIZES = (3, 5, 7, 11, 15, 31, 63, 127)
QUICK_SIZES = (7, 31)
DOORS = {"public": "tileconv.convolve2d", "engine": "tileconv's engine alone"}


def target_of(kind: str, size: int) -> float | None:
    """Our time over the best peer's, at most."""
    if kind == "dense":
        return 1.15 if size < 7 else 1.0 if size < 31 else 0.7
    return None if size < 7 else 0.7 if size < 31 else 0.35


def cases(*, quick: bool) -> Iterator[tuple[str, int, str]]:
    """Kind, size and dtype of each process."""
    sizes, dtypes = (QUICK_SIZES, ("float32",)) if quick else (SIZES, ("float32", "uint8"))
    yield from itertools.product(("dense", "separable"), sizes, dtypes)


def measure(kind: str, size: int, dtype: str, side: int, rounds: int) -> dict[str, Any]:
    """One case: medians, and the ratios of both doors to the best peer, round by round."""
    found: dict[str, Any] = {"kind": kind, "size": size, "dtype": dtype, "side": side}
    found["target"] = target = target_of(kind, size)
    command = [sys.executable, str(PEERS / "in_memory.py"), kind, str(size), dtype]
    try:
        said = answer([*command, "--side", str(side), "--rounds", str(rounds)])
    except RunError as error:
        return found | {"failed": str(error)}
    for name, apart in said["difference"].items():
        # uint8 is rounded by OpenCV and the engine; pixels go up to 255.
        rounded = dtype == "uint8" and name in ("opencv", "engine")
        if not apart <= (ROUNDING if rounded else FLOAT_BOUND * 255):
            return found | {"failed": f"{name} differs from scipy by {apart:.6g}"}
    seconds = said["seconds"]
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    best = min(("opencv", "scipy"), key=medians.__getitem__)
    ratios = {}
    for door in DOORS:
        each = [a / b for a, b in zip(seconds[door], seconds[best], strict=False)]
        median = statistics.median(each)
        met = None if target is None else median <= target
        ratios[door] = {"median": median, "min": min(each), "max": max(each), "met": met}
    return found | {
        "failed": "",
        "seconds": seconds,
        "medians": medians,
        "best": best,
        "difference": said["difference"],
        "ratio": ratios,
    }
