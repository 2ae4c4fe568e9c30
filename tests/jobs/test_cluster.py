"""Jobs on a dask cluster: pixels and counts of a threaded run, small messages, planned memory."""

import threading
import time

import cloudpickle
import distributed
import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage, signal

import tileconv
from tileconv.jobs.cluster.backend import ClusterBackend
from tileconv.jobs.cluster.executor import ClusterExecutor
from tileconv.jobs.cluster.worker import HeldTask
from tileconv.jobs.progress import Listener
from tileconv.jobs.tile_task import TileTask

pytestmark = pytest.mark.usefixtures("small_tiles")


def read(path):
    return tifffile.imread(path) if path.suffix == ".tif" else zarr.open_array(path, mode="r")[...]


def make_input(folder, kind):
    """A raster of some kind, and its pixels with spatial axes last; None for one made up."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 255, (300, 390), np.uint8)
    if kind == "tif":
        tifffile.imwrite(folder / "in.tif", pixels, tile=(64, 64), compression="deflate")
    elif kind == "rgb.tif":
        pixels = rng.integers(0, 255, (200, 260, 3), np.uint8)
        tifffile.imwrite(folder / "in.rgb.tif", pixels, photometric="rgb", tile=(64, 64))
        pixels = np.moveaxis(pixels, -1, 0)
    elif kind == "zarr":
        pixels = rng.normal(size=(3, 200, 260)).astype(np.float32)
        zarr.create_array(folder / "in.zarr", data=pixels, chunks=(1, 64, 96))
    elif kind == "npy":
        pixels = rng.integers(0, 60000, (300, 390), np.uint16)
        np.save(folder / "in.npy", pixels)
    else:
        return {"sample": "slide", "shape": "300x390", "dtype": "uint8", "seed": 3}, None
    return {"path": str(folder / f"in.{kind}")}, pixels


def scipys(plane, weights, mode="same", boundary="symm", **_):
    fill = "fill" if mode == "valid" else boundary
    return signal.convolve2d(plane.astype(np.float64), weights, mode, fill)


CASES = {
    "tiff to tiff": ("tif", "tif", (6, 9), {}),
    "tiff to zarr, full": ("tif", "zarr", (4, 7), {"mode": "full", "boundary": "fill"}),
    "fft": ("tif", "tif", (6, 9), {"method": "fft"}),
    "rgb, wrap": ("rgb.tif", "tif", (2, 8), {"boundary": "wrap"}),
    "rgb to zarr, valid": ("rgb.tif", "zarr", (5, 4), {"mode": "valid"}),
    "planes to tiff": ("zarr", "tif", (3, 6), {}),
    "planes to zarr, fft": ("zarr", "zarr", (8, 5), {"method": "fft", "boundary": "wrap"}),
    "npy to tiff": ("npy", "tif", (10, 3), {"boundary": "fill"}),
    "npy to zarr": ("npy", "zarr", (6, 6), {}),
    "made up": ("sample", "tif", (4, 5), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_those_of_a_threaded_run_and_scipys(tmp_path, cluster, name):
    kind, suffix, shape, convolution = CASES[name]
    source, pixels = make_input(tmp_path, kind)
    weights = np.random.default_rng(6).normal(size=shape)
    output, threaded = tmp_path / f"out.{suffix}", tmp_path / f"threaded.{suffix}"
    report = cluster.run(source, output, weights, convolution=convolution)
    assert report.tiles == len(report.plan.grid) > 10
    tileconv.run(
        {
            "input": source,
            "kernel": {"weights": weights.tolist()},
            "convolution": convolution,
            "output": {"path": str(threaded), "tile": 64},
        }
    )
    got = read(output)
    assert np.array_equal(got, read(threaded))
    if pixels is None:
        return
    bands = got[None] if got.ndim == 2 else np.moveaxis(got, -1, 0) if kind == "rgb.tif" else got
    planes = pixels[None] if pixels.ndim == 2 else pixels
    bound = 64 * np.finfo(np.float32).eps * np.abs(weights).sum() * np.abs(pixels).max()
    for band, plane in zip(bands, planes, strict=True):
        np.testing.assert_allclose(band, scipys(plane, weights, **convolution), rtol=0, atol=bound)


def test_an_origin_moves_the_kernel(tmp_path, cluster):
    source, pixels = make_input(tmp_path, "tif")
    weights = np.random.default_rng(7).normal(size=(5, 7))
    cluster.run(
        *(source, tmp_path / "out.tif", weights),
        convolution={"origin": [1, -2], "operation": "correlate"},
    )
    want = ndimage.correlate(pixels.astype(float), weights, mode="reflect", origin=(1, -2))
    np.testing.assert_allclose(read(tmp_path / "out.tif"), want, rtol=0, atol=0.05)


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_both_workers_take_part(tmp_path, cluster, suffix):
    source, _ = make_input(tmp_path, "tif")
    with cluster.slow(0.03):
        report = cluster.run(source, tmp_path / f"out.{suffix}")
    assert len(report.peaks) == report.plan.processes == 2
    assert report.tiles == report.plan.grid.grid_shape[0] * report.plan.grid.grid_shape[1] == 35
    assert report.pixels == 300 * 390
    assert 1 <= report.read_amplification <= report.plan.read_amplification


def test_a_config_can_name_a_cluster(tmp_path):
    source, _ = make_input(tmp_path, "tif")
    before = distributed.client._get_global_client()
    run = {"cluster": "local:2", "workers": 1, "memory": "400MiB"}
    weights = [[1.0, 2], [0, 3]]
    job = {
        "input": source,
        "kernel": {"weights": weights},
        "output": {"path": str(tmp_path / "out.zarr"), "tile": 64},
        "run": run,
    }
    links, clients = [], []
    listener = Listener()
    listener.connected = links.append
    # Other threads of this process may use dask for something else meanwhile.
    listener.started = lambda _: clients.append(distributed.client._get_global_client())
    report = tileconv.run(job, listener=listener)
    assert (report.plan.processes, report.plan.workers) == (2, 1)
    assert report.plan.total_bytes == 2 * report.plan.memory.peak_bytes
    assert [link.startswith("http://127.0.0.1:") for link in links] == [True]
    assert clients == [before]
    tileconv.run(job | {"run": {}, "output": {"path": str(tmp_path / "t.zarr"), "tile": 64}})
    assert np.array_equal(read(tmp_path / "out.zarr"), read(tmp_path / "t.zarr"))


def test_small_tiles_go_in_batches_of_which_few_are_in_flight(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("tileconv.jobs.cluster.backend.IN_FLIGHT_MIN", 3)
    monkeypatch.setattr("tileconv.jobs.cluster.backend.IN_FLIGHT_PER_LANE", 2)
    monkeypatch.setattr(ClusterBackend, "batch_s", 0.1)
    batches, flying, most = [], 0, 0
    lock = threading.Lock()
    submit = ClusterExecutor.submit

    def landed(_):
        nonlocal flying
        with lock:
            flying -= 1

    def counted(executor, call, batch):
        nonlocal flying, most
        batches.append(batch)
        with lock:
            flying += 1
            most = max(most, flying)
        future = submit(executor, call, batch)
        future.add_done_callback(landed)
        return future

    monkeypatch.setattr(ClusterExecutor, "submit", counted)
    shape = {"sample": "step", "shape": "900x1000", "dtype": "uint8"}
    with cluster.slow(0.01):
        report = cluster.run(shape, tmp_path / "out.zarr")
    assert sorted(index for batch in batches for index in batch) == list(range(report.tiles))
    assert report.tiles > 200
    # About 0.1 s is 10 tiles; the first are sent before that is known, the last are few.
    assert len(batches) < report.tiles / 2
    assert 2 <= most <= 4


def test_the_task_is_sent_once_and_then_numbers(tmp_path, cluster, monkeypatch):
    source, _ = make_input(tmp_path, "tif")
    weights = np.random.default_rng(0).normal(size=(255, 255))
    sizes = []
    send = cluster.client._send_to_scheduler

    def weighed(message):
        if message["op"] == "update-graph":
            sizes.append(len(cloudpickle.dumps(message)))
        send(message)

    monkeypatch.setattr(cluster.client, "_send_to_scheduler", weighed)
    report = cluster.run(source, tmp_path / "out.tif", weights, convolution={"method": "fft"})
    large = [size for size in sizes if size > 4096]
    assert len(large) == 1
    assert large[0] > 255 * 255 * 4
    # The others are numbers, and several tasks go together: this is for all of them.
    assert len(sizes) >= 3
    assert report.tiles == 35
    assert sum(sizes) - large[0] < 4096


def watch_openings(dask_worker):
    dask_worker.openings = []
    usual = HeldTask._opened

    def noted(held):
        task = usual(held)
        dask_worker.openings.append(task.task.source.cache.capacity_bytes)
        return task

    HeldTask._opened = noted
    dask_worker.usual_opened = usual


def openings(dask_worker):
    HeldTask._opened = dask_worker.usual_opened
    return dask_worker.openings


def test_each_worker_opens_the_input_once_with_the_planned_cache(tmp_path, cluster):
    source, _ = make_input(tmp_path, "tif")
    by_value(cluster, watch_openings)
    with cluster.slow(0.02):
        report = cluster.run(source, tmp_path / "out.tif")
    found = by_value(cluster, openings)
    assert len(report.peaks) == 2
    assert list(found.values()) == [[report.plan.cache_bytes]] * 2
    assert report.plan.cache_bytes > 0


def by_value(cluster, function):
    """Call a function of this module on every worker; they cannot import it."""
    text = cloudpickle.loads(cloudpickle.dumps(function))
    text.__module__ = "__main__"
    return cluster.client.run(text)


def test_a_worker_with_more_threads_than_planned_works_on_no_more_tiles(tmp_path, monkeypatch):
    source, _ = make_input(tmp_path, "tif")
    opened, running, most = [], 0, 0
    lock = threading.Lock()
    usual_open, usual_call = HeldTask._opened, TileTask.__call__

    def open_noted(held):
        opened.append(threading.get_ident())
        time.sleep(0.05)
        return usual_open(held)

    def call_noted(task, tile):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        try:
            return usual_call(task, tile)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(HeldTask, "_opened", open_noted)
    monkeypatch.setattr(TileTask, "__call__", call_noted)
    with (
        distributed.LocalCluster(
            processes=False, n_workers=1, threads_per_worker=4, dashboard_address="127.0.0.1:0"
        ) as threads,
        distributed.Client(threads, set_as_default=False) as client,
    ):
        job = {
            "input": source,
            "kernel": {"name": "box"},
            "output": {"path": str(tmp_path / "out.tif"), "tile": 64},
            "run": {"workers": 2},
        }
        report = tileconv.run(job, client=client)
    assert report.plan.workers == most == 2
    assert len(opened) <= 2


def test_relative_paths_are_the_clients(tmp_path, cluster, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, pixels = make_input(tmp_path, "tif")
    cluster.run("in.tif", "sub/out.tif", [[0, 2.0]])
    want = signal.convolve2d(pixels.astype(float), [[0, 2.0]], "same", "symm")
    assert np.array_equal(read(tmp_path / "sub" / "out.tif"), want)


def test_what_is_counted_is_counted_once(tmp_path, cluster):
    pixels = np.full((320, 384), 100, np.float32)
    pixels[100, 200] = np.nan
    array = zarr.create_array(
        tmp_path / "in.zarr", shape=pixels.shape, dtype="f4", chunks=(64, 64), fill_value=0
    )
    array[...] = pixels
    missing = [(0, 0), (2, 3), (4, 5)]
    for row, column in missing:
        (tmp_path / "in.zarr" / "c" / str(row) / str(column)).unlink()
        pixels[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = 0
    weights = np.ones((3, 2))
    with cluster.slow(0.02):
        report = cluster.run(
            tmp_path / "in.zarr", tmp_path / "out.tif", weights,
            output={"dtype": "uint8", "nan_fill": 7},
        )  # fmt: skip
    with np.errstate(invalid="ignore"):
        want = signal.convolve2d(pixels.astype(float), weights, "same", "symm")
    assert len(report.peaks) == 2
    assert report.nans == np.isnan(want).sum() == 6
    assert report.clipped == (want > 255).sum() > 0
    assert report.absent.count == 3
    assert sorted(set(report.absent.first)) == sorted(report.absent.first)
    assert len(report.absent.first) == 3
    got = read(tmp_path / "out.tif")
    assert np.array_equal(got, np.where(np.isnan(want), 7, np.minimum(want, 255)))


def test_each_worker_keeps_to_the_planned_memory(tmp_path, cluster, monkeypatch):
    # More of them than threads, so that dask gives some to each worker.
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 1 << 20)
    pixels = np.random.default_rng(0).normal(size=(4096, 4096)).astype(np.float32)
    tifffile.imwrite(tmp_path / "in.tif", pixels, tile=(256, 256))
    weights = np.random.default_rng(1).normal(size=(6, 9))
    output = {"tile": 256, "compression": "none"}
    # A process's peak is that of all jobs it has ever done: these are new ones.
    cluster.client.restart(timeout=60)
    with cluster.slow(0.1):
        report = cluster.run(tmp_path / "in.tif", tmp_path / "out.tif", weights, output=output)
    assert len(report.peaks) == 2
    assert report.plan.memory.peak_bytes <= report.plan.cap_bytes == 400 << 20
    assert max(report.peaks.values()) <= report.plan.memory.peak_bytes
    assert report.peak_memory_bytes == max(report.peaks.values())
