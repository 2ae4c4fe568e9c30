"""Jobs as verification's tests write them."""

import numpy as np
import pytest
import zarr


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Write units of one chunk, so that small rasters have many."""
    monkeypatch.setattr("tileconv.stores.zarr.layout.SHARD_BYTES_MAX", 1)


@pytest.fixture
def job_of(tmp_path):
    """Makes jobs over pixels that lie in a .npy."""

    def make(pixels, weights, *, suffix=".zarr", **tables):
        np.save(tmp_path / "in.npy", pixels)
        kernel = weights if isinstance(weights, dict) else _kernel(tmp_path, weights)
        return {
            "input": {"path": str(tmp_path / "in.npy")} | tables.get("input", {}),
            "kernel": kernel,
            "convolution": tables.get("convolution", {}),
            "output": {"path": str(tmp_path / f"out{suffix}"), "tile": 32, "overwrite": True}
            | tables.get("output", {}),
            "run": {"memory": "1GiB", "workers": 1} | tables.get("run", {}),
        }

    return make


def _kernel(folder, weights):
    np.save(folder / "kernel.npy", np.asarray(weights))
    return {"file": str(folder / "kernel.npy")}


@pytest.fixture
def changed(tmp_path):
    """Changes one pixel of the output."""

    def change(at, to):
        stored = zarr.open_array(tmp_path / "out.zarr", mode="r+")
        before = stored[at]
        stored[at] = to(before) if callable(to) else to
        return before

    return change
