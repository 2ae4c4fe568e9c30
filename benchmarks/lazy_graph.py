"""What graphs of many blocks cost: tileconv's lazy functions beside dask's map_overlap.

    python benchmarks/lazy_graph.py [--blocks 16384] [--json FILE] [--distributed]

The same convolution, a 5 x 4 kernel over float32 blocks of 64 x 64 pixels, is done three
ways: by tileconv over a Zarr on disk, by tileconv over a dask array, and by map_overlap
with scipy over the same dask array. Blocks are so small that graphs are what is measured.
Each way has a process of its own, which has compiled and imported everything before.

build, optimise and run are seconds and MiB: by how much the resident memory of the process
grew at its highest. Run is dask's threaded scheduler on the optimised graph, its memory
with all resulting blocks, which are kept. With --distributed it is a cluster of
two processes on 127.0.0.1, whose workers' memory is not counted, and `sent` is what workers
sent to each other. Bytes are those of a task as a scheduler sends it, pickled by itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from scipy import ndimage

import tileconv
from tileconv.lazy import inputs

BLOCK = 64
KERNEL = np.arange(1.0, 21.0).reshape(5, 4) / 210
WAYS = ("tileconv, Zarr", "tileconv, dask", "map_overlap, dask")
SAMPLE = 4096
STATUS = Path("/proc/self/status")


def pixel_values(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Made-up pixels; cheap, and different everywhere."""
    # dask hands over positions as the floats that the result will be.
    return ((y.astype(np.int64) * 7919 + x.astype(np.int64) * 104729) % 251).astype(np.float32)


def raster(side: int) -> da.Array:
    """The input as a dask array: one task a block."""
    return da.fromfunction(pixel_values, shape=(side, side), chunks=BLOCK, dtype=np.float32)


def write_zarr(path: Path, side: int) -> None:
    """The input as a Zarr, a chunk for each block, uncompressed."""
    shard = math.gcd(side, 16 * BLOCK)
    array = zarr.create_array(
        path,
        shape=(side, side),
        chunks=(BLOCK, BLOCK),
        shards=(shard, shard),
        dtype=np.float32,
        compressors=None,
    )
    columns = np.arange(side)
    for top in range(0, side, shard):
        rows = np.arange(top, top + shard)
        array[top : top + shard] = pixel_values(rows[:, np.newaxis], columns)


def build(way: str, path: Path, side: int) -> da.Array:
    """The lazy result, one of the three ways."""
    if way == "tileconv, Zarr":
        return tileconv.convolve(path, KERNEL)
    given = raster(side)
    if way == "tileconv, dask":
        return tileconv.convolve(given, KERNEL)
    # What dask calls reflect is scipy's.
    return given.map_overlap(
        ndimage.convolve, depth=(2, 2), boundary="reflect", dtype=np.float32, weights=KERNEL
    )


def peak_mib() -> float:
    """Highest resident memory since `measured` began (Linux), or of the process."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measured(step: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a step returns, its seconds, and by how many MiB memory grew."""
    gc.collect()
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")
    before, start = peak_mib(), time.perf_counter()
    value = step()
    seconds = time.perf_counter() - start
    return value, {"seconds": round(seconds, 3), "mib": round(peak_mib() - before, 1)}


def task_bytes(graph: dict[Any, Any]) -> float:
    """Mean size of a pickled task, the shared nodes left out."""
    from dask._task_spec import Task
    from distributed.protocol.pickle import dumps

    tasks = [node for node in graph.values() if isinstance(node, Task)]
    some = tasks[:: max(1, len(tasks) // SAMPLE)]
    return sum(len(dumps(task)) for task in some) / len(some)


def run_threads(result: da.Array, graph: Any) -> tuple[float, dict[str, float]]:
    """Sum of the result's pixels, and what it took."""
    blocks, cost = measured(lambda: dask.threaded.get(graph, list(result.__dask_keys__())))
    return sum(float(block.sum(dtype=np.float64)) for row in blocks for block in row), cost


def run_distributed(result: da.Array, graph: Any) -> tuple[float, dict[str, float]]:
    """The same, under two processes, from the graph as it was built."""
    del graph
    from distributed import Client, LocalCluster, wait

    def received(dask_worker: Any) -> int:
        return sum(entry["total"] for entry in dask_worker.transfer_incoming_log)

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options, host="127.0.0.1") as cluster, Client(cluster) as client:
        done, cost = measured(lambda: wait(client.persist(result)).done)
        cost["sent_mib"] = round(sum(client.run(received).values()) / 2**20, 1)
        assert len(done) == result.npartitions
        total = client.persist(result).sum(dtype=np.float64).compute()
    return float(total), cost


def child(way: str, path: Path, side: int, *, distributed: bool) -> dict[str, Any]:
    """Measure one way, in a process that does nothing else."""
    # The blocks a file is read by are of 32 MiB otherwise.
    inputs.BLOCK_BYTES = BLOCK * BLOCK * 4
    small = build(way, path, 2 * BLOCK)
    small.blocks[:2, :2].compute()
    given = 0 if way == "tileconv, Zarr" else len(dict(raster(side).dask))

    result, building = measured(lambda: build(way, path, side))
    tasks = len(dict(result.dask))
    (optimised,), optimising = measured(lambda: dask.optimize(result))
    graph = dict(optimised.dask)
    run = run_distributed if distributed else run_threads
    total, running = run(result, graph)
    return {
        "way": way,
        "blocks": result.npartitions,
        "tasks_a_block": round((tasks - given) / result.npartitions, 2),
        "bytes_a_task": round(task_bytes(graph)),
        "build": building,
        "optimise": optimising,
        "run": running,
        "sum": total,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The measurements, for reading."""
    lines = [f"{'way':20}{'tasks':>8}{'bytes':>8}{'build':>16}{'optimise':>16}{'run':>18}"]
    for row in rows:
        costs = [
            f"{row[k]['seconds']:.2f} s {row[k]['mib']:.0f} MiB" for k in ("build", "optimise")
        ]
        run = f"{row['run']['seconds']:.1f} s {row['run']['mib']:.0f} MiB"
        sent = f"  sent {row['run']['sent_mib']} MiB" if "sent_mib" in row["run"] else ""
        counts = f"{row['tasks_a_block']:>8}{row['bytes_a_task']:>8}"
        lines.append(f"{row['way']:20}{counts}{costs[0]:>16}{costs[1]:>16}{run:>18}{sent}")
    return "\n".join(lines)


def main() -> int:
    """Measure the three ways one after another, and check that their sums agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=16384, help="a square number; 16384")
    parser.add_argument("--json", type=Path, help="file to write the measurements to")
    parser.add_argument("--distributed", action="store_true", help="run on a local cluster")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "ZARR"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    side = math.isqrt(given.blocks) * BLOCK
    if given.child:
        way, path = given.child
        print(json.dumps(child(way, Path(path), side, distributed=given.distributed)))
        return 0

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.zarr"
        write_zarr(path, side)
        for way in WAYS:
            command = [sys.executable, __file__, "--child", way, str(path)]
            command += ["--blocks", str(given.blocks)] + ["--distributed"] * given.distributed
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{rows[0]['blocks']} blocks of {BLOCK} x {BLOCK} float32, kernel 5 x 4")
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not np.allclose([row["sum"] for row in rows], rows[0]["sum"], rtol=1e-9):
        print("the sums differ:", [row["sum"] for row in rows])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
