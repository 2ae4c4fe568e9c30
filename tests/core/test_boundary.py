"""Edge rules against numpy.pad; every pixel of the raster read at most once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.core.boundary import (
    Boundary,
    boundary_named,
    ndimage_boundary,
    plan_axis,
    read_extended,
    signal_boundary,
)
from tileconv.core.grid import Region
from tileconv.errors import ConfigError

NUMPY = {
    Boundary.WRAP: "wrap",
    Boundary.SYMM: "symmetric",
    Boundary.NEAREST: "edge",
    Boundary.MIRROR: "reflect",
    Boundary.FILL: "constant",
}
PAD = 60
spans = st.tuples(st.integers(-30, 30), st.integers(1, 30))


@settings(deadline=None, max_examples=300)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), spans, spans, st.sampled_from(Boundary))
def test_extended_blocks_equal_numpy_pad(shape, rows, columns, boundary):
    raster = np.random.default_rng(0).integers(1, 99, (*shape, 2))
    options = {"constant_values": 7} if boundary is Boundary.FILL else {}
    padded = np.pad(raster, ((PAD, PAD), (PAD, PAD), (0, 0)), NUMPY[boundary], **options)
    window = Region((rows[0], columns[0]), (rows[0] + rows[1], columns[0] + columns[1]))
    reads = np.zeros(shape, dtype=int)

    def read(region, out):
        out[...] = raster[region.slices]
        reads[region.slices] += 1

    block = np.full((*window.shape, 2), -99)
    read_extended(read, window, shape, boundary, 7, block)
    assert np.array_equal(block, padded[window.shift((PAD, PAD)).slices])
    assert reads.max() <= 1


@pytest.mark.parametrize("boundary", Boundary)
def test_a_window_inside_is_one_read(boundary):
    plan = plan_axis(3, 8, 20, boundary)
    assert len(plan.reads) == 1
    assert not plan.copies
    assert not plan.fills


def test_a_small_halo_at_an_edge_is_one_read_and_one_copy():
    plan = plan_axis(-3, 50, 1000, Boundary.SYMM)
    assert (len(plan.reads), len(plan.copies)) == (1, 1)
    assert (plan.reads[0].start, plan.reads[0].stop) == (0, 50)


@pytest.mark.parametrize(
    ("name", "rule"),
    [("symm", "symm"), ("grid-mirror", "symm"), ("constant", "fill"), ("mirror", "mirror")],
)
def test_jobs_take_names_that_mean_the_same_everywhere(name, rule):
    assert boundary_named(name) == rule


@pytest.mark.parametrize("name", ["reflect", "symmetric", "edge", ""])
def test_jobs_refuse_names_that_mean_the_opposite_elsewhere(name):
    with pytest.raises(ConfigError, match="boundary"):
        boundary_named(name)


def test_each_family_has_its_own_names():
    assert ndimage_boundary("reflect") is Boundary.SYMM
    assert signal_boundary("symmetric") is Boundary.SYMM
    with pytest.raises(ValueError, match="Acceptable boundary flags"):
        signal_boundary("reflect-ish")
    with pytest.raises(RuntimeError, match="not supported"):
        ndimage_boundary("symmetric")
