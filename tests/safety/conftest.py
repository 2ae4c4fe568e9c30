"""A driver of processes for each pytest process, small jobs, and a small cluster."""

import logging

import distributed
import numpy as np
import pytest
from harness import jobs
from harness.driver import Driver


@pytest.fixture(scope="session")
def driver():
    """Starts runs in processes of their own."""
    with Driver() as started:
        yield started


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of one write unit here, as in the driver's processes."""
    monkeypatch.setattr("tileconv.jobs.plan.MAX_TILE_PIXELS", 1)
    monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 1)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """An input of 20 tiles, the last of a row and a column smaller than the others."""
    path = tmp_path_factory.mktemp("input") / "in.npy"
    np.save(path, jobs.make_pixels(120, 150))
    return path


@pytest.fixture(scope="module")
def cluster():
    """A client of two processes of one thread; those that die are started again."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit="2GiB",
            silence_logs=logging.CRITICAL,
        ) as started,
        distributed.Client(started, set_as_default=False) as client,
    ):
        yield client
