"""What a run of ten million tiles costs before its first tile, and what it adds up to.

    python benchmarks/ten_million_tiles.py [--tiles N] [--tasks N] [--json FILE]

A made-up raster and a sink that drops pixels, so that nothing is measured but tileconv. Each
line is a process of its own:

plan            from the job to its plan, and on to the first finished tile, on threads
resume          from a journal in which all tiles but a few are finished to the next one
plan, resume    the same into a real TIFF of as many tiles, whose tables are counted too
cluster         the same on a LocalCluster of two processes, then `--tasks` tasks of one tile
                each: memory of the process that holds client and scheduler, all along
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tileconv.core.bitmap import Bitmap
from tileconv.core.grid import Region, TileGrid
from tileconv.jobs.backends import Backend
from tileconv.jobs.batches import BatchResult
from tileconv.jobs.config import as_job
from tileconv.jobs.fingerprint import settings_of
from tileconv.jobs.journal import Journal, Totals
from tileconv.jobs.limits import peak_resident_bytes, resident_bytes
from tileconv.jobs.opening import open_input
from tileconv.jobs.plan import Plan, plan_on
from tileconv.jobs.progress import Listener
from tileconv.jobs.report import Report
from tileconv.jobs.resuming import recorded_tiles
from tileconv.jobs.run import backend_of, convolve_tiles, plan_within
from tileconv.jobs.work import resolve
from tileconv.stores.formats import open_sink
from tileconv.stores.layout import Layout
from tileconv.stores.sink import Receipt, Sink, unit_grid
from tileconv.stores.source import Source

TILE = 64
MIB = 1 << 20


class DropWriter:
    """Takes tiles for stored."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def write(self, plane: int, region: Region, block: np.ndarray) -> Receipt:
        """Store nothing."""
        return Receipt.of(self.layout, plane, region, [(0, block.nbytes, 0)])

    def close(self) -> None:
        """Nothing is open."""


class DropSink:
    """An output that nobody wants."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.writer = DropWriter(layout)
        self.written = Bitmap(len(unit_grid(layout)))

    def record(self, receipt: Receipt) -> None:
        """Take units for written."""
        self.written.set(receipt.units[:, 0].astype(np.int64))

    def holds(self, receipt: Receipt) -> bool:
        """All is where it was dropped."""
        del receipt
        return True

    def intact(self, receipt: Receipt, check: Callable[[], None]) -> bool:
        """Nobody could tell."""
        del receipt, check
        return True

    def finish(self) -> None:
        """Nothing to make whole."""

    def close(self) -> None:
        """Nothing is open."""


class EnoughError(Exception):
    """What was to be measured has been."""


@contextlib.contextmanager
def planned(tiles: int, cluster: str | None) -> Iterator[tuple[Plan, Source, Backend]]:
    """A plan of that many tiles of 64 x 64 pixels."""
    side = int(np.ceil(np.sqrt(tiles))) * TILE
    job = as_job(
        {
            "input": {"sample": "zoneplate", "shape": f"{side}x{side}"},
            "kernel": {"weights": [[1, 2, 3], [0, -1, 2]]},
            "output": {"path": "unused.tif", "dtype": "uint8", "tile": TILE},
            "run": {"memory": "512MiB", "workers": 1 if cluster else 2}
            | ({"cluster": cluster} if cluster else {}),
        }
    )
    with open_input(job) as source, backend_of(job.run) as backend:
        plan = plan_within(resolve(job, source.raster), job.run, backend)
        yield plan_on(plan, TileGrid(plan.grid.shape, (TILE, TILE))), source, backend


def start(tiles: int, folder: Path, *, kind: str, cluster: str | None, tasks: int) -> dict:
    """From nothing, or from a journal, to the first finished tile, and `tasks` more."""
    began = time.perf_counter()
    seen: list[int] = []
    said: dict[str, object] = {}
    done_tiles = 0

    def heard(result: BatchResult) -> None:
        nonlocal done_tiles
        journal.add(result)
        report.add(result)
        if not done_tiles:
            said["first_tile_s"] = round(time.perf_counter() - began, 2)
            said["first_tile_peak_mib"] = peak_resident_bytes() // MIB
        done_tiles += len(result.tiles)
        if tasks and done_tiles % max(1, tasks // 20) == 0:
            seen.append(resident_bytes() // MIB)
        if done_tiles >= max(1, tasks):
            raise EnoughError

    with planned(tiles, cluster) as (plan, source, backend):
        said["tiles"] = len(plan.grid)
        said["planned_s"] = round(time.perf_counter() - began, 2)
        journal = Journal(folder, settings_of(plan.work, source), plan.grid)
        sink: Sink = (
            open_sink(plan.work.layout, folder / "out.tif", resume=journal.resumed)
            if kind == "tiff"
            else DropSink(plan.work.layout)
        )
        report = Report(plan, "unused", 0)
        done = recorded_tiles(journal, sink, report, Listener())
        said["resumed_tiles"] = report.resumed_tiles
        if tasks:
            backend.batch_s = 0.0  # type: ignore[misc]
        with contextlib.suppress(EnoughError):
            convolve_tiles(plan, source, sink, done, backend=backend, folder=folder, heard=heard)
    if tasks:
        said["tasks"] = done_tiles
        said["tasks_s"] = round(time.perf_counter() - began, 1)
        said["memory_mib"] = seen
    return said


def record_all_but_a_few(tiles: int, folder: Path) -> None:
    """A journal as a run leaves it that is killed at its end."""
    with planned(tiles, None) as (plan, source, _):
        count = len(plan.grid)
        journal = Journal(folder, settings_of(plan.work, source), plan.grid)
        for first in range(0, count - 100, 2000):
            indices = np.arange(first, min(first + 2000, count - 100), dtype=np.uint64)
            length, value = np.full_like(indices, 4096), np.full_like(indices, 2**31)
            units = np.stack([indices, indices * 4096 + 2**33, length, value], 1)
            totals = Totals(pixels=4096 * len(indices))
            journal.record(np.stack([indices, value], 1), Receipt(units), totals)
    # The file those tiles are in; it holds nothing, and takes no room.
    with (folder / "out.tif").open("wb") as file:
        file.truncate(2**33 + 4096 * count)


CASES = {
    "plan": {"kind": "drop"},
    "resume": {"kind": "drop", "recorded": True},
    "plan, TIFF": {"kind": "tiff"},
    "resume, TIFF": {"kind": "tiff", "recorded": True},
    "cluster": {"kind": "drop", "cluster": "local:2"},
    "cluster, resume": {"kind": "drop", "cluster": "local:2", "recorded": True},
    "cluster, tasks": {"kind": "drop", "cluster": "local:2", "tasks": True},
}


def main() -> None:
    """Run every case in a process of its own, or one of them in this."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=10_000_000)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        case = dict(CASES[options.case[0]])
        case.pop("recorded", None)
        tasks = options.tasks if case.pop("tasks", False) else 0
        cluster = case.pop("cluster", None)
        print(json.dumps(start(options.tiles, options.here, cluster=cluster, tasks=tasks, **case)))
        return
    found = {}
    for name in options.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            if CASES[name].get("recorded"):
                record_all_but_a_few(options.tiles, Path(folder))
            command = [sys.executable, __file__, "--case", name, "--here", folder]
            command += ["--tiles", str(options.tiles), "--tasks", str(options.tasks)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(said.stdout)
        print(f"{name:<16} {json.dumps(found[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
