"""How fast tileconv is beside other programs that do the same work, and beside the floors.

    python benchmarks/speed.py [--side 32768] [--rounds 3] [--threads 2] [--job NAME ...]
                               [--peers GROUP ...] [--folder DIR] [--json FILE] [--chart FILE]

Each contender is a whole process, start included, and they take turns: tileconv, peer, peer,
floor, then the next round. Slow peers have fewer rounds, which the table says. What is compared
are medians of wall time, CPU time and peak memory, and ratios of wall times round by round.
Inputs come from `tileconv sample` and are in the page cache; before each process its output is
removed and everything written is flushed. Everything has run once on something small before.

Peers run at their best settings and do the same work: same input, edge rule, kind of output,
codec, level and threads; those on dask write a Zarr of float32. The first output of each is
compared with ours, and one that differs, or fails, has no figure. Floors do less than any
convolution: a copy of raw tiles, and the codec alone. The job `memory` is one array in memory,
one thread, without files.

Files take 11 times the raster's bytes at most. Peers need the extra `bench`; those that are not
installed are skipped with a line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from speed_parts import chart, memory
from speed_parts.jobs import EXTRAS, GROUPS, JOBS, MEMORY_JOB, Job
from speed_parts.processes import RunError, installed
from speed_parts.reports import machine, tables
from speed_parts.rounds import Bench


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=32768, help="rows and columns; 32768")
    parser.add_argument("--rounds", type=int, default=3, help="3")
    parser.add_argument("--threads", type=int, default=2, help="of every contender; 2")
    parser.add_argument(
        "--job", nargs="+", choices=[*(job.name for job in JOBS), MEMORY_JOB], help="all"
    )
    parser.add_argument("--peers", nargs="+", choices=GROUPS, default=GROUPS, help="all")
    parser.add_argument("--quick", action="store_true", help="only what takes little time")
    parser.add_argument("--folder", type=Path, help="for inputs, which stay; a temporary one")
    parser.add_argument("--json", type=Path, help="file to write all rounds to")
    parser.add_argument("--chart", type=Path, help="file to draw the ratios to, a .png")
    return parser.parse_args()


def said(text: str) -> None:
    """Progress, on stderr: stdout is for the tables."""
    print(text, file=sys.stderr, flush=True)


def run_jobs(bench: Bench, jobs: list[Job]) -> list[dict[str, Any]]:
    """Every job, one after another; one that fails is told and the others go on."""
    found = []
    for job in jobs:
        said(f"{job.name}: {job.title}")
        try:
            found.append(bench.job(job))
        except RunError as error:
            said(f"failed: {error}")
            failed = {"name": job.name, "title": job.title, "failed": f"tileconv: {error}"}
            found.append(failed | {"peers": []})
    return found


def run_memory(bench: Bench, *, quick: bool) -> list[dict[str, Any]]:
    """The part in memory, if there is somebody to compare with."""
    if not installed("cv2"):
        bench.skipped["the part in memory"] = f"{EXTRAS['cv2']} is not installed"
        return []
    side = min(memory.SIDE, max(512, bench.side // 2))
    rounds = 3 if quick else max(5, bench.rounds)
    found = []
    for kind, size, dtype in memory.cases(quick=quick):
        said(f"{MEMORY_JOB}: {size}x{size} {kind}, {dtype}")
        found.append(memory.measure(kind, size, dtype, side, rounds))
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """The chart, if it can be drawn."""
    if not installed("matplotlib"):
        said("no chart: matplotlib is not installed")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not chart.draw(found, path):
        said("no chart: there is no ratio to draw")


def main() -> int:
    """Run, print and save; 1 if a job or a peer failed."""
    given = arguments()
    names = given.job or [job.name for job in JOBS if job.quick or not given.quick] + [MEMORY_JOB]
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder.resolve(), given.side, given.rounds, given.threads, tuple(given.peers))
        found: dict[str, Any] = {"side": given.side, "rounds": given.rounds}
        found |= {"threads": given.threads, "machine": machine()}
        found["jobs"] = run_jobs(bench, [job for job in JOBS if job.name in names])
        in_memory = MEMORY_JOB in names and "opencv" in given.peers
        found["memory"] = run_memory(bench, quick=given.quick) if in_memory else []
        found["skipped"] = bench.skipped
    print(tables(found))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.chart:
        draw(found, given.chart)
    peers = [peer for job in found["jobs"] for peer in job["peers"]]
    return int(any(part.get("failed") for part in (*found["jobs"], *peers, *found["memory"])))


if __name__ == "__main__":
    sys.exit(main())
