"""How a compute-bound job scales from one worker process to two, on a LocalCluster.

    python benchmarks/cluster_scaling.py [--side 24576] [--rounds 3] [--json FILE]

A 25 x 25 dense kernel, summed directly, over a made-up slide in a tiled TIFF, into a Zarr. One
process and two take turns; what is compared are medians of the seconds of the run itself, without
the start of the processes, and then with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import tileconv

WEIGHTS = np.random.default_rng(0).normal(size=(25, 25)).tolist()


def timed(folder: Path, cluster: str | None, workers: int) -> tuple[float, float]:
    """Seconds of the run alone, and with the start of its processes."""
    began = time.perf_counter()
    report = tileconv.run(
        {
            "input": {"path": str(folder / "slide.tif")},
            "kernel": {"weights": WEIGHTS},
            "convolution": {"method": "direct"},
            "output": {"path": str(folder / "out.zarr"), "dtype": "uint8", "overwrite": True},
            "run": {"memory": "1GiB", "workers": workers}
            | ({"cluster": cluster} if cluster else {}),
        }
    )
    return report.elapsed_s, time.perf_counter() - began


def main() -> None:
    """Print seconds of each way, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=24576)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = {
        "1 process": ("local:1", 1),
        "2 processes": ("local:2", 1),
        "1 thread": (None, 1),
        "2 threads": (None, 2),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tileconv.run(
            {
                "input": {"sample": "slide", "shape": [options.side, options.side]},
                "kernel": {"name": "identity"},
                "output": {"path": str(folder / "slide.tif"), "dtype": "input"},
            }
        )
        for _ in range(options.rounds):
            for name, way in ways.items():
                taken[name].append(timed(folder, *way))
    found: dict[str, object] = {"side": options.side, "rounds": options.rounds}
    for name, seconds in taken.items():
        run, whole = (statistics.median(column) for column in zip(*seconds, strict=True))
        found[name] = {"run_s": round(run, 2), "whole_s": round(whole, 2)}
        print(f"{name:<12} {run:7.2f} s, with the start of its processes {whole:7.2f} s")
    for one, two in (("1 process", "2 processes"), ("1 thread", "2 threads")):
        ratios = [a[0] / b[0] for a, b in zip(taken[one], taken[two], strict=True)]
        found[f"{two} over {one}"] = round(statistics.median(ratios), 2)
        print(f"{two} over {one}: {statistics.median(ratios):.2f} times as fast")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
