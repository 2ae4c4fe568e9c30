"""Small jobs of many tiles, what they must give, and how they are run and looked at."""

import os
from pathlib import Path

import numpy as np
import tifffile
import zarr
from scipy.ndimage import convolve

import tileconv
from tileconv.jobs.progress import Listener

KERNEL = [[1.0, 2.0, 0.5, -1.0], [0.25, 3.0, -2.0, 1.0]]
NAMES = ("out.tif", "out.zarr")
TILE = 32


def make_pixels(rows: int, columns: int) -> np.ndarray:
    """Small integers, so that sums are exact and every path to them gives the same bits."""
    return np.random.default_rng(0).integers(0, 255, (rows, columns)).astype(np.float32)


def expected(pixels: np.ndarray) -> np.ndarray:
    """What scipy makes of the whole array."""
    whole = convolve(pixels.astype(float), np.array(KERNEL), mode="nearest", origin=-1)
    return whole.astype(np.float32)


def make_job(source: Path, output: Path, **options) -> dict:
    """A job that convolves `source` in tiles of one write unit, once `small_tiles` are made."""
    run = {
        "workers": options.get("workers", 2),
        "memory": options.get("memory", "4GiB"),
        "durability": options.get("durability", "process"),
    }
    if "cluster" in options:
        run |= {"cluster": options["cluster"], "memory": "500MiB"}
    return {
        "input": {"path": str(source)},
        "kernel": {"weights": options.get("weights", KERNEL)},
        "convolution": {"boundary": "nearest"},
        "output": {
            "path": str(output),
            "tile": TILE,
            "compression": options.get("compression", "none"),
            "overwrite": options.get("overwrite", False),
        },
        "run": run,
    }


def command(job: dict, *more: str) -> list[str]:
    """The same job as arguments of the command line; its kernel comes from a file."""
    weights = Path(job["input"]["path"]).with_name("weights.csv")
    rows = (",".join(map(str, row)) for row in job["kernel"]["weights"])
    weights.write_text("\n".join(rows) + "\n")
    output, run = job["output"], job["run"]
    return [
        "convolve",
        job["input"]["path"],
        output["path"],
        f"--kernel={weights}",
        "--boundary=nearest",
        f"--tile={output['tile']}",
        f"--compression={output['compression']}",
        f"--workers={run['workers']}",
        f"--memory={run['memory']}",
        f"--durability={run['durability']}",
        *(["--overwrite"] if output["overwrite"] else []),
        *more,
    ]


def small_tiles() -> None:
    """Let planners choose tiles of one write unit, which they never would for such rasters."""
    from tileconv.jobs import plan
    from tileconv.stores.zarr import layout

    plan.MAX_TILE_PIXELS = layout.SHARD_BYTES_MAX = 1


def read(path: str | Path) -> np.ndarray:
    """An output's pixels, read by other programs than ours."""
    path = Path(path)
    if path.is_dir():
        return np.asarray(zarr.open_array(path, mode="r")[...])
    return tifffile.imread(path)


class Ear(Listener):
    """Remembers what a run has gone on with, and its warnings."""

    def __init__(self) -> None:
        self.found = self.tiles = 0
        self.warnings: list[str] = []

    def warned(self, text) -> None:
        self.warnings.append(text)

    def resumed(self, report) -> None:
        self.found, self.tiles = report.resumed_tiles, len(report.plan.grid)


def go_on(job: dict, wanted: np.ndarray, *, restart: bool = False) -> Ear:
    """Run a job to its end, here, and look at all that it leaves.

    Its pixels are those of a whole, and nothing but them lies in the output's folder.
    """
    ear, output = Ear(), Path(job["output"]["path"])
    report = tileconv.run(job, listener=ear, restart=restart)
    assert report.tiles == len(report.plan.grid)
    assert report.pixels == wanted.size
    np.testing.assert_array_equal(read(output), wanted)
    assert os.listdir(output.parent) == [output.name]
    return ear
