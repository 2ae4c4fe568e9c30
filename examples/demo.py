"""The main job from end to end: make a raster up, convolve it, check it, draw it.

``make demo`` runs this. Everything goes through the commands a user would type; the
check reads back sampled windows and computes them again with scipy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
from scipy import ndimage

import tileconv

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "quickstart.toml"
RASTER = ROOT / "out" / "quickstart.tif"
PICTURE = ROOT / "out" / "before-after.png"
SIDE, SIGMA, WINDOW = 16384, 3.0, 512
RADIUS = int(4 * SIGMA + 0.5)


def main() -> None:
    """Run the demo; leave with an error when a pixel is wrong."""
    started = time.perf_counter()
    say(f"Making up a {SIDE} x {SIDE} raster: {RASTER.relative_to(ROOT)}")
    tileconv_command("sample", RASTER, "--shape", f"{SIDE}x{SIDE}", "--overwrite", "--quiet")

    say(f"tileconv run {CONFIG.relative_to(ROOT)}")
    report = json.loads(tileconv_command("run", CONFIG, "--json"))
    output = Path(report["output"])

    before, after = tileconv.open(RASTER), tileconv.open(output)
    windows, differing = check(before, after)
    draw(before, after)

    memory = report["memory"]
    rows = {
        "size": " x ".join(map(str, report["shape"])) + f" {report['dtype']}",
        "method": f"{report['method']}, {report['tiles']} tiles, {report['workers']} workers",
        "time": f"{report['elapsed_s']:.1f} s, {report['pixels_per_s'] / 1e6:.0f} Mpx/s",
        "peak memory": f"{memory['peak_bytes'] >> 20} MiB of a cap of "
        f"{memory['cap_bytes'] >> 20} MiB (planned: {memory['planned_bytes'] >> 20} MiB)",
        "checked": f"{windows} windows of {WINDOW} x {WINDOW} against scipy, corners and edges "
        f"among them: {differing} pixels off by rounding, 0 wrong",
        "output": str(output.resolve().relative_to(ROOT)),
        "picture": str(PICTURE.relative_to(ROOT)),
        "in all": f"{time.perf_counter() - started:.1f} s",
    }
    for name, text in rows.items():
        print(f"  {name:<12} {text}")


def say(text: str) -> None:
    """One step of the demo."""
    print(f"== {text}", flush=True)


def tileconv_command(*arguments: object) -> str:
    """Run ``tileconv`` as a process of its own; return what it printed."""
    command = [sys.executable, "-m", "tileconv", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def check(before: object, after: object) -> tuple[int, int]:
    """Compare corners, edges and random windows with scipy on the same pixels.

    Returns the number of windows, and of pixels that differ by one because a value lay on
    the border between two integers, nearer than the bound of float32 sums.
    """
    rng = np.random.default_rng(0)
    edges = [0, SIDE // 2 - WINDOW // 3, SIDE - WINDOW]
    places = [(y, x) for y in edges for x in edges]
    places += [tuple(rng.integers(0, SIDE - WINDOW, 2)) for _ in range(7)]
    differing = 0
    for y, x in places:
        # Wide enough that the window's own edges do not show, except at the raster's.
        y0, x0 = max(0, y - RADIUS), max(0, x - RADIUS)
        y1, x1 = min(SIDE, y + WINDOW + RADIUS), min(SIDE, x + WINDOW + RADIUS)
        source = np.asarray(before[y0:y1, x0:x1], dtype=np.float64)
        exact = ndimage.gaussian_filter(source, SIGMA, mode="reflect", truncate=4.0)
        exact = exact[y - y0 : y - y0 + WINDOW, x - x0 : x - x0 + WINDOW]
        got = np.asarray(after[y : y + WINDOW, x : x + WINDOW])
        bound = 64 * np.finfo(np.float32).eps * 255
        wrong = np.abs(got - exact) > 0.5 + bound
        if wrong.any():
            raise SystemExit(f"{wrong.sum()} pixels are wrong near row {y}, column {x}")
        differing += int((got != np.rint(exact)).sum())
    return len(places), differing


def draw(before: object, after: object) -> None:
    """A detail before and after, side by side, as a PNG."""
    detail = np.s_[SIDE // 2 : SIDE // 2 + 320, SIDE // 2 : SIDE // 2 + 320]
    gap = np.full((640, 16), 255, dtype=np.uint8)
    left, right = (np.asarray(a[detail]).repeat(2, 0).repeat(2, 1) for a in (before, after))
    PICTURE.write_bytes(imagecodecs.png_encode(np.hstack([left, gap, right])))


if __name__ == "__main__":
    main()
