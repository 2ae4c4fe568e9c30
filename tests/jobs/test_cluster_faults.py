"""Clusters that cannot do a job, or no longer: told before the start, or in bounded time."""

import dataclasses
import os
import signal
from pathlib import Path

import distributed
import numpy as np
import pytest
import tifffile
import zarr

import tileconv
from tileconv.core.processor import this_processor
from tileconv.errors import ClusterError, ConfigError, InputError, MemoryCapError
from tileconv.jobs.cluster.backend import ClusterBackend
from tileconv.jobs.cluster.executor import ClusterExecutor
from tileconv.jobs.cluster.worker import HeldTask, Surroundings
from tileconv.jobs.progress import Listener
from tileconv.stores.formats import open_source

pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.fixture
def slide(tmp_path):
    """30 tiles of a TIFF."""
    path = tmp_path / "in.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (310, 380), np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="deflate")
    return path


def fails(error, says, cluster, *arguments, **options):
    """A run ends with one line, and the output's name stays free."""
    with pytest.raises(error, match=says) as caught:
        cluster.run(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert not Path(arguments[1]).exists()
    return caught.value


class Ear(Listener):
    """Does something once, when a run starts or when some tiles are done."""

    def __init__(self, act, tiles=None):
        self.act = act
        self.tiles = tiles

    def started(self, plan):
        if self.tiles is None:
            self.act()

    def advanced(self, report):
        if self.tiles is not None and report.tiles >= self.tiles:
            self.tiles = None
            self.act()


# Before the start


def test_other_versions_are_refused(slide, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("tileconv.jobs.cluster.backend.__version__", "9.9")
    says = rf"worker tcp://\S+ has tileconv {tileconv.__version__}, this is 9.9; install"
    assert fails(ClusterError, says, cluster, slide, tmp_path / "out.tif").exit_code == 8
    assert os.listdir(tmp_path) == ["in.tif"]


def test_a_late_worker_of_another_version_is_refused(slide, tmp_path):
    with open_source(slide) as source:
        held = HeldTask(b"", 1, Surroundings("9.9", source.raster, "", None, tmp_path, ""))
    with pytest.raises(ClusterError, match=r"has tileconv \S+, the client 9.9; install"):
        held.open()


def test_an_input_that_workers_do_not_see_is_refused(slide, tmp_path, cluster, monkeypatch):
    usual = Surroundings.here

    def seen_by_the_client_alone(*arguments):
        found = usual(*arguments)
        slide.unlink()
        return found

    monkeypatch.setattr(Surroundings, "here", seen_by_the_client_alone)
    says = r"worker \S+:\d+ cannot read the input: .*in\.tif"
    fails(ClusterError, says, cluster, slide, tmp_path / "out.tif")
    assert os.listdir(tmp_path) == []


def test_another_input_under_the_same_name_is_refused(slide, tmp_path, cluster):
    def replace():
        slide.unlink()
        tifffile.imwrite(slide, np.zeros((310, 381), np.uint8), tile=(64, 64))

    says = r"worker \S+:\d+ sees another raster as the input"
    fails(ClusterError, says, cluster, slide, tmp_path / "out.zarr", listener=Ear(replace))
    assert os.listdir(tmp_path) == ["in.tif"]


def test_a_stale_copy_of_the_input_is_refused(slide, tmp_path, cluster, monkeypatch):
    """Of the same shape; its length and date tell. It is the client that sees another here."""
    usual = Surroundings.here

    def longer(*arguments):
        return dataclasses.replace(usual(*arguments), input_state="another")

    monkeypatch.setattr(Surroundings, "here", longer)
    size = slide.stat().st_size
    says = (
        rf"worker \S+:\d+ sees another state of a file as the input, {size} bytes of \d+, "
        "than the client, another"
    )
    fails(ClusterError, says, cluster, slide, tmp_path / "out.zarr")
    assert os.listdir(tmp_path) == ["in.tif"]


def test_other_processors_are_refused_where_last_bits_depend_on_them(
    slide, tmp_path, cluster, monkeypatch
):
    mine = this_processor()._replace(vector_bytes=8)
    monkeypatch.setattr("tileconv.jobs.cluster.worker.this_processor", lambda: mine)
    says = r"worker \S+:\d+ computes with vectors of \d+ bytes, the client with 8, and last bits"
    options = {"convolution": {"method": "fft"}}
    fails(ClusterError, says, cluster, slide, tmp_path / "out.tif", **options)
    assert os.listdir(tmp_path) == ["in.tif"]
    cluster.run(slide, tmp_path / "out.tif", convolution={"method": "direct"})
    same_as_threads(slide, tmp_path / "out.tif")


def test_a_folder_that_workers_do_not_see_is_refused(slide, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("tileconv.jobs.cluster.backend.TOKEN_NAME", "workers-do-not-look-for-this")
    says = rf"worker \S+:\d+ does not see the folder {tmp_path}/\.out\.tif\.tileconv"
    fails(ClusterError, says, cluster, slide, tmp_path / "out.tif")
    assert os.listdir(tmp_path) == ["in.tif"]


def test_a_folder_of_another_machine_is_refused(slide, tmp_path, cluster, monkeypatch):
    """A folder of that name, with a file of that name, that is not the client's."""
    monkeypatch.setattr("tileconv.jobs.cluster.backend.TOKEN_NAME", "mine")
    # What workers look at is there too, and says something else.
    path = tmp_path / ".out.tif.tileconv" / "workers-look-for-this"
    listener = Ear(lambda: path.write_text("another machine's"))
    says = r"does not see the folder"
    fails(ClusterError, says, cluster, slide, tmp_path / "out.tif", listener=listener)


def test_caps_that_do_not_fit_the_workers_are_refused(slide, tmp_path, cluster):
    # Of their 2 GiB dask spills what they hold at 70 %.
    says = r"cap of 1500 MiB .* worker tcp://\S+ may use, 1433 MiB of its limit of 2048"
    run = {"memory": "1500MiB"}
    error = fails(MemoryCapError, says, cluster, slide, tmp_path / "out.tif", run=run)
    assert error.exit_code == 7
    run = {"memory": "90MiB"}
    says = "the smallest that can is"
    fails(MemoryCapError, says, cluster, slide, tmp_path / "out.tif", run=run)
    assert os.listdir(tmp_path) == ["in.tif"]


def test_an_asynchronous_client_is_refused(slide, tmp_path, cluster):
    async def attempt():
        address = cluster.client.scheduler.address
        async with distributed.Client(address, asynchronous=True, set_as_default=False) as client:
            job = {"input": {"path": str(slide)}, "kernel": {"name": "box"}}
            tileconv.run(job | {"output": {"path": str(tmp_path / "out.tif")}}, client=client)

    with pytest.raises(ConfigError, match="client is asynchronous"):
        cluster.client.sync(attempt)
    assert os.listdir(tmp_path) == ["in.tif"]


def test_a_closed_client_is_told(slide, tmp_path, cluster):
    client = distributed.Client(cluster.client.scheduler.address, set_as_default=False)
    client.close()
    job = {"input": {"path": str(slide)}, "kernel": {"name": "box"}}
    with pytest.raises(ClusterError, match="does not answer"):
        tileconv.run(job | {"output": {"path": str(tmp_path / "out.tif")}}, client=client)


# Errors of tiles


def test_a_corrupt_chunk_is_named_and_repairing_it_resumes(slide, tmp_path, cluster):
    whole = slide.read_bytes()
    with tifffile.TiffFile(slide) as tif:
        at = tif.pages[0].dataoffsets[29]  # Of the last tile.
    before = slide.stat()
    slide.write_bytes(whole[:at] + b"\xff" * 40 + whole[at + 40 :])
    os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns))
    with cluster.slow(0.02):
        fails(InputError, r"in\.tif", cluster, slide, tmp_path / "out.tif")
    slide.write_bytes(whole)
    os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = cluster.run(slide, tmp_path / "out.tif")
    assert 0 < report.resumed_tiles < report.tiles == len(report.plan.grid)
    same_as_threads(slide, tmp_path / "out.tif")


def test_what_others_have_begun_when_a_tile_fails_is_kept(tmp_path, cluster, monkeypatch):
    """The first tile fails as soon as it can; the other worker is in the midst of another then."""
    source, output = tmp_path / "in.npy", tmp_path / "out.tif"
    pixels = np.ones((300, 310), np.float32)
    np.save(source, pixels)
    before = source.stat()
    pixels[10, 10] = np.nan
    np.save(source, pixels)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    cluster.settle(2)
    monkeypatch.setattr(ClusterBackend, "batch_s", 0)
    options = {"output": {"dtype": "uint8"}, "weights": np.ones((1, 1))}
    with cluster.slow(0.3):
        fails(InputError, "NaN in tile 0, ", cluster, source, output, **options)
    np.save(source, np.ones_like(pixels))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = cluster.run(source, output, **options)
    # Not more either: what nobody had begun was dropped.
    assert 1 <= report.resumed_tiles < 12
    assert np.array_equal(tifffile.imread(output), np.ones((300, 310)))


def test_nan_into_integers_is_an_error_of_the_input(tmp_path, cluster):
    pixels = np.ones((300, 310), np.float32)
    pixels[200, 70] = np.nan
    np.save(tmp_path / "in.npy", pixels)
    fails(
        *(
            InputError,
            r"NaN in tile \d+, plane 0, rows \d+:\d+, columns 64:128 cannot become uint8",
        ),
        *(cluster, tmp_path / "in.npy", tmp_path / "out.tif"),
        output={"dtype": "uint8"},
    )


def same_as_threads(source, output, weights=((1.0, 2, 0), (0, -1, 3))):
    other = output.with_name(f"threads{output.suffix}")
    tileconv.run(
        {
            "input": {"path": str(source)},
            "kernel": {"weights": [list(row) for row in weights]},
            "output": {"path": str(other), "tile": 64},
        }
    )
    if output.suffix == ".tif":
        assert np.array_equal(tifffile.imread(output), tifffile.imread(other))
    else:
        first, second = (zarr.open_array(path, mode="r")[...] for path in (output, other))
        assert np.array_equal(first, second)


# Deaths


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_a_worker_that_dies_costs_only_time(slide, tmp_path, cluster, suffix):
    cluster.settle(2)
    pids = list(cluster.client.run(os.getpid).values())
    listener = Ear(lambda: os.kill(pids[0], signal.SIGKILL), tiles=4)
    output = tmp_path / f"out.{suffix}"
    with cluster.slow(0.05):
        report = cluster.run(slide, output, listener=listener)
    assert listener.tiles is None
    assert report.tiles == len(report.plan.grid)
    same_as_threads(slide, output)


def test_a_tile_that_kills_every_worker_is_named(slide, tmp_path, cluster, monkeypatch):
    cluster.settle(2)
    monkeypatch.setattr(cluster.client.cluster.scheduler, "allowed_failures", 1)
    with cluster.slow(0, deadly=17):
        says = (
            r"4 workers died that worked on tile 17, plane 0, rows 128:192, columns 192:256, and "
            r"nothing else; the last was tcp://\S+; see its log"
        )
        fails(ClusterError, says, cluster, slide, tmp_path / "out.tif")
    cluster.settle(2)
    report = cluster.run(slide, tmp_path / "out.tif")
    assert report.resumed_tiles > 0
    same_as_threads(slide, tmp_path / "out.tif")


def test_a_client_that_restarts_its_workers_has_dropped_the_run(slide, tmp_path, cluster):
    cluster.settle(2)
    with cluster.slow(0.05):
        listener = Ear(lambda: cluster.client.restart(timeout=60), tiles=3)
        says = "has dropped the run; see its log, and run the same command again"
        fails(ClusterError, says, cluster, slide, tmp_path / "out.tif", listener=listener)


def test_when_every_tile_kills_few_workers_die(slide, tmp_path, cluster, monkeypatch):
    cluster.settle(2)
    scheduler = cluster.client.cluster.scheduler
    monkeypatch.setattr(scheduler, "allowed_failures", 1)
    before = scheduler._workers_removed_total
    with cluster.slow(0, deadly="all"):
        says = (
            r"4 workers died that worked on tile \d+, plane 0, rows \d+:\d+, columns \d+:\d+, and"
        )
        fails(ClusterError, says, cluster, slide, tmp_path / "out.tif")
    # 2 for each of the two tasks that each of two workers has at once, at most, and 4 for one
    # tile alone; there are 30 tiles.
    assert scheduler._workers_removed_total - before <= 2 * 4 + 4
    cluster.settle(2)


def test_tiles_that_are_only_suspected_are_done_and_the_run_goes_on(
    slide, tmp_path, cluster, monkeypatch
):
    """A worker is killed from outside, and one death is enough for dask to give up its tasks."""
    cluster.settle(2)
    monkeypatch.setattr(cluster.client.cluster.scheduler, "allowed_failures", 0)
    tried = []
    usual = ClusterExecutor._one_by_one

    async def noted(executor, batch):
        tried.extend(batch)
        return await usual(executor, batch)

    monkeypatch.setattr(ClusterExecutor, "_one_by_one", noted)
    pids = list(cluster.client.run(os.getpid).values())
    listener = Ear(lambda: os.kill(pids[0], signal.SIGKILL), tiles=4)
    with cluster.slow(0.2):
        report = cluster.run(slide, tmp_path / "out.tif", listener=listener)
    assert tried
    assert report.tiles == len(report.plan.grid)
    same_as_threads(slide, tmp_path / "out.tif")


def test_a_scheduler_that_dies_ends_the_run_in_bounded_time(slide, tmp_path, remote):
    with remote() as (cluster, scheduler, _):
        assert cluster.run(slide, tmp_path / "whole.tif").tiles > 20
        same_as_threads(slide, tmp_path / "whole.tif")
        cluster.client.register_plugin(cluster.slowness(0.05))
        says = r"the scheduler at tcp://\S+ is gone, or has dropped the run"
        listener = Ear(scheduler.kill, tiles=3)
        fails(ClusterError, says, cluster, slide, tmp_path / "out.tif", listener=listener)


# Workers that come and go


def test_a_cluster_without_workers_is_told(slide, tmp_path, elastic, monkeypatch):
    monkeypatch.setattr("tileconv.jobs.cluster.watch.WAIT_S", 0.5)
    says = r"the cluster at tcp://127\.0\.0\.1:\d+ has had no worker that runs for 0 s; start"
    fails(ClusterError, says, elastic, slide, tmp_path / "out.tif")
    assert os.listdir(tmp_path) == ["in.tif"]


def test_a_worker_that_comes_late_works_and_is_counted(slide, tmp_path, elastic):
    elastic.settle(1)
    gate = tmp_path / "gate"

    def join():
        elastic.client.cluster.scale(2)
        elastic.client.wait_for_workers(2, timeout=60)
        gate.touch()

    listener = Ear(join, tiles=3)
    with elastic.slow(0.05, gate=str(gate)):
        report = elastic.run(slide, tmp_path / "out.tif", listener=listener)
    assert report.plan.processes == 1
    assert len(report.peaks) == 2
    same_as_threads(slide, tmp_path / "out.tif")


def test_workers_that_all_leave_end_the_run_in_bounded_time(slide, tmp_path, elastic, monkeypatch):
    elastic.settle(1)
    monkeypatch.setattr("tileconv.jobs.executors._LOOK_S", 0.2)
    monkeypatch.setattr("tileconv.jobs.cluster.watch.LOOK_S", 0.2)

    def leave():
        # Not before: a worker that is slow to start is another matter.
        monkeypatch.setattr("tileconv.jobs.cluster.watch.WAIT_S", 1)
        elastic.client.cluster.scale(0)

    with elastic.slow(0.05):
        listener = Ear(leave, tiles=3)
        fails(ClusterError, "no worker", elastic, slide, tmp_path / "out.tif", listener=listener)
    assert listener.tiles is None, "it has failed before they left"


def test_a_local_worker_that_dask_has_given_up_is_started_again(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("tileconv.jobs.cluster.watch.LOOK_S", 0.2)
    monkeypatch.setattr("tileconv.jobs.executors._LOOK_S", 0.2)
    usual, clusters = distributed.LocalCluster, []

    def noted(**options):
        clusters.append(usual(**options))
        return clusters[0]

    async def give_up():
        await clusters[0].workers.pop(0).close()

    monkeypatch.setattr(distributed, "LocalCluster", noted)
    listener = Ear(lambda: clusters[0].sync(give_up))
    job = {
        "input": {"path": str(slide)},
        "kernel": {"weights": [[1.0, 2, 0], [0, -1, 3]]},
        "output": {"path": str(tmp_path / "out.tif"), "tile": 64},
        "run": {"cluster": "local:1", "memory": "400MiB"},
    }
    report = tileconv.run(job, listener=listener)
    assert report.tiles == len(report.plan.grid)
    same_as_threads(slide, tmp_path / "out.tif")


def test_an_adaptive_cluster_grows_for_a_run(slide, tmp_path, elastic):
    cluster = elastic.client.cluster
    elastic.settle(0)
    cluster.adapt(minimum=0, maximum=2, interval="100ms")
    try:
        with elastic.slow(0.1):
            report = elastic.run(slide, tmp_path / "out.zarr")
    finally:
        cluster.adapt(minimum=0, maximum=0)
        cluster._adaptive.stop()
    assert report.tiles == len(report.plan.grid)
    same_as_threads(slide, tmp_path / "out.zarr")
