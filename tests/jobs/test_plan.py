"""Plans: pure arithmetic over descriptions, whatever the size; the cap kept or refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError, MemoryCapError
from tileconv.jobs.config import Job
from tileconv.jobs.describe import plan_dict, plan_table
from tileconv.jobs.plan import make_plan
from tileconv.jobs.work import resolve

MIB = 1 << 20
BASE = 150 * MIB


def raster(shape=(32768, 32768), dtype="uint8", chunk=(512, 512), dims=None, **more):
    dims = dims or ("c", "y", "x")[-len(shape) :]
    return Raster(tuple(shape), np.dtype(dtype), dims, chunk, compression="deflate", **more)


def job(kernel=None, convolution=None, **output):
    tables = {
        "input": {"path": "in.tif"},
        "kernel": kernel or {"name": "gaussian", "sigma": 3.0},
        "output": {"path": "out.tif"} | output,
        "convolution": convolution or {},
    }
    return Job.of(tables)


def planned(source, a_job=None, cap=512 * MIB, workers=2):
    work = resolve(a_job or job(), source)
    return make_plan(work, cap_bytes=cap, workers=workers, baseline_bytes=BASE)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 70000), st.integers(1, 70000)),
    st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    st.sampled_from([(512, 512), (240, 240), (1, 70000), (37, 4000)]),
    st.integers(1, 9),
    st.sampled_from([400, 512, 2048]),
    st.sampled_from(["out.tif", "out.zarr"]),
)
def test_a_plan_keeps_its_cap_and_covers_its_raster(shape, dtype, chunk, workers, cap, path):
    source = raster(shape, dtype, tuple(min(c, n) for c, n in zip(chunk, shape, strict=True)))
    try:
        plan = planned(source, job(path=path), cap * MIB, workers)
    except MemoryCapError:
        return
    assert plan.memory.peak_bytes <= plan.cap_bytes
    assert sum(plan.memory.parts.values()) == plan.memory.peak_bytes
    assert plan.read_amplification >= 1 - 1e-9
    assert all(t % u == 0 for t, u in zip(plan.grid.tile, plan.work.layout.unit, strict=True))
    last = plan.grid[len(plan.grid) - 1].region
    assert last.stop == shape


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("path", ["out.tif", "out.zarr"])
def test_a_refused_cap_names_the_smallest_that_works(workers, path):
    source = raster()
    with pytest.raises(MemoryCapError, match="the smallest that can is") as caught:
        planned(source, job(path=path), 151 * MIB, workers)
    least = int(str(caught.value).split("the smallest that can is ")[1].split()[0])
    assert planned(source, job(path=path), least * MIB, workers).memory.peak_bytes <= least * MIB
    with pytest.raises(MemoryCapError):
        planned(source, job(path=path), (least - 1) * MIB, workers)


def test_chunks_are_decoded_once_where_the_cap_allows():
    assert planned(raster(), cap=512 * MIB).read_amplification <= 1.05
    assert planned(raster(), cap=300 * MIB).read_amplification <= 1.5
    wide = planned(raster((20000, 500000)), cap=512 * MIB)
    assert wide.read_amplification <= 1.1
    assert wide.grid.panel is not None


@pytest.mark.parametrize("compression", ["none", "deflate"])
def test_memory_does_not_grow_with_the_raster(compression):
    one, four = (
        planned(
            replace(raster((side, side)), compression=compression),
            job(dtype="uint8"),
            cap=512 * MIB,
        )
        for side in (32768, 65536)
    )
    assert four.memory.peak_bytes <= 1.05 * one.memory.peak_bytes
    assert four.read_amplification <= 1.05
    strips = planned(raster((65536, 65536), chunk=(8, 65536)), cap=512 * MIB)
    assert strips.read_amplification <= 1.05


def test_amplification_is_what_reading_every_window_of_a_panel_decodes():
    """Against brute force over chunks, where the cache keeps a panel and nothing else."""
    source = raster((3000, 4100), chunk=(256, 256))
    plan = planned(source, job(tile=256))
    decoded = 0
    panels = {}
    for tile in plan.grid:
        width = (plan.grid.panel or 10**9) * plan.grid.tile[1]
        window = plan.work.window(tile.region).intersect(Region.of_shape((3000, 4100)))
        chunks = window.align_out((256, 256)).intersect(Region.of_shape((3000, 4100)))
        key = tile.region.start[1] // width
        panels.setdefault(key, set()).update(
            (y, x)
            for y in range(chunks.start[0], chunks.stop[0], 256)
            for x in range(chunks.start[1], chunks.stop[1], 256)
        )
    for chunks in panels.values():
        decoded += 256 * 256 * len(chunks)  # Whole chunks, also at the far edges.
    assert plan.read_amplification == pytest.approx(decoded / (3000 * 4100))


def test_a_petapixel_raster_is_planned_like_a_thumbnail():
    source = raster((1 << 25, 1 << 25), table_bytes=0)
    plan = planned(source, job(path="out.zarr"), cap=4096 * MIB)
    assert plan.memory.peak_bytes <= 4096 * MIB
    assert len(plan.grid) > 1 << 24


def test_pixels_do_not_depend_on_cap_or_workers():
    """Everything a value depends on is in the work, which knows of neither."""
    works = [planned(raster(), cap=c, workers=w).work for c, w in ((512 * MIB, 2), (300 * MIB, 1))]
    first, second = works
    assert first.choice == second.choice
    assert first.layout == second.layout


@pytest.mark.parametrize("path", ["out.tif", "out.zarr"])
def test_samples_and_planes_are_carried(path):
    interleaved = raster((1000, 900, 3), dims=("y", "x", "s"))
    plan = planned(interleaved, job(None, {"mode": "full"}, path=path))
    assert plan.work.layout.raster.shape == (1024, 924, 3)
    stack = Raster((4, 5, 300, 200), np.dtype("int16"), ("c", "z", "y", "x"), (1, 200))
    plan = planned(stack, job(path=path))
    assert plan.work.layout.raster.shape == stack.shape
    assert plan.grid.planes == 20


def test_a_fill_value_the_input_cannot_hold_widens_the_block():
    fill = {"boundary": "fill", "fill_value": 0.5}
    assert resolve(job(convolution=fill), raster()).block_dtype == np.float32
    assert resolve(job(convolution=fill | {"fill_value": 7}), raster()).block_dtype == np.uint8
    assert resolve(job(), raster()).block_dtype == np.uint8


def test_what_cannot_be_is_refused_before_it_is_planned():
    with pytest.raises(ConfigError, match="leaves no pixel"):
        resolve(job(convolution={"mode": "valid"}), raster((20, 2000)))
    with pytest.raises(ConfigError, match="complex"):
        resolve(job(dtype="float32"), raster(dtype="complex64"))
    with pytest.raises(InputError, match="cannot be convolved"):
        resolve(job(), raster(dtype="S4"))


def test_a_plan_tells_itself():
    plan = planned(raster())
    told = plan_dict(plan)
    assert told["memory"]["peak_bytes"] == sum(told["memory"]["parts"].values())
    assert told["tiles"]["count"] == len(plan.grid)
    assert told["method"] in plan_table(plan, 10**12)
    assert str(told["tiles"]["count"]) in plan_table(plan, 10**12)
