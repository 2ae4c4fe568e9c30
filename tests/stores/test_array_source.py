"""numpy arrays and .npy files, in any order and of any size."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tileconv.core.grid import Region
from tileconv.errors import ConfigError, InputError
from tileconv.stores import array_source
from tileconv.stores.array_source import NpySource, NumpySource


def read(source, plane: int, region: Region) -> np.ndarray:
    out = np.empty((*region.shape, source.raster.samples), source.raster.dtype)
    source.read(plane, region, out)
    return out


@settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_window_of_any_npy_however_small_its_bands(tmp_path_factory, data):
    """Bands of a few elements cut every axis, in C and in Fortran order."""
    before = data.draw(st.lists(st.integers(1, 3), max_size=2))
    after = data.draw(st.lists(st.integers(1, 3), max_size=2))
    shape = (*before, data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12)), *after)
    dtype = data.draw(st.sampled_from(["u1", "<u2", ">f4", ">c8", "?"]))
    order = data.draw(st.sampled_from("CF"))
    array = np.asarray(np.random.default_rng(1).integers(0, 200, shape).astype(dtype), order=order)
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, array)
    names = (
        [f"p{i}" for i in range(len(before))] + ["y", "x"] + [f"s{i}" for i in range(len(after))]
    )
    source = NpySource(path, dims=names)
    raster = source.raster
    y0, x0 = (data.draw(st.integers(0, size)) for size in raster.spatial)
    y1 = data.draw(st.integers(y0, raster.spatial[0]))
    x1 = data.draw(st.integers(x0, raster.spatial[1]))
    plane = data.draw(st.integers(0, raster.planes - 1))
    region = Region((y0, x0), (y1, x1))
    expected = array.reshape(raster.planes, *raster.spatial, raster.samples)[plane][region.slices]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_source, "BAND_BYTES", data.draw(st.sampled_from([1, 7, 64, 1 << 20])))
        found = read(source, plane, region)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("window", [((0, 0), (5, 9)), ((3, 2), (5, 4)), ((4, 8), (5, 9))])
@pytest.mark.parametrize("limit", [1, 2, 3, 10, 10**6])
def test_bands_cover_a_box_once_and_span_no_more_than_they_may(window, limit):
    (y0, x0), (y1, x1) = window
    seen = np.zeros((5, 9), int)
    for (a, b), (c, d) in array_source._bands([(y0, y1), (x0, x1)], [9, 1], limit):
        seen[a:b, c:d] += 1
        assert (b - a - 1) * 9 + (d - c) <= limit
    assert seen[y0:y1, x0:x1].all()
    assert seen.sum() == (y1 - y0) * (x1 - x0)


def test_views_of_any_strides_are_looked_at_not_copied():
    array = np.arange(4 * 60 * 50 * 3).reshape(4, 60, 50, 3)[::2, ::-1, 5::3]
    source = NumpySource(array, dims="zyxs")
    np.testing.assert_array_equal(read(source, 1, Region((2, 3), (40, 11))), array[1, 2:40, 3:11])
    array[1, 2, 3, 0] = -5
    assert read(source, 1, Region((2, 3), (3, 4)))[0, 0, 0] == -5


def test_a_big_endian_array_is_described_as_native():
    source = NumpySource(np.arange(12, dtype=">u2").reshape(3, 4))
    assert source.raster.dtype == np.dtype("u2")
    assert source.raster.chunk is None
    assert read(source, 0, Region((1, 1), (2, 3))).ravel().tolist() == [5, 6]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(read(copy, 0, Region((0, 0), (3, 4)))[..., 0].ravel(), range(12))


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((40, 50, 3), "yxs"), ((3, 40, 50), ("d0", "y", "x")), ((3, 50, 4), ("d0", "y", "x"))],
)
def test_the_axes_are_the_usual_ones(shape, dims):
    assert NumpySource(np.zeros(shape)).raster.dims == tuple(dims)


@pytest.mark.parametrize("dtype", ["O", "U3", "M8[s]", "V4", [("a", "u1")]])
def test_what_is_not_made_of_numbers_is_refused(dtype, tmp_path):
    with pytest.raises(InputError, match="not numbers"):
        NumpySource(np.zeros((3, 3), dtype))
    np.save(tmp_path / "a.npy", np.zeros((3, 3), dtype), allow_pickle=True)
    with pytest.raises(InputError, match="not numbers"):
        NpySource(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(), (5,)])
def test_an_array_of_fewer_than_two_axes_is_no_raster(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(InputError, match="two axes"):
        NpySource(tmp_path / "a.npy")
    with pytest.raises(ConfigError, match="axes"):
        NumpySource(np.zeros((3, 4)), dims="zyx")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 4)])
def test_an_empty_array_is_a_raster_of_no_pixels(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    source = NpySource(tmp_path / "a.npy")
    assert source.raster.shape == shape
    for plane in range(source.raster.planes):
        read(source, plane, Region.of_shape(source.raster.spatial))


def test_a_truncated_file_is_refused_when_opened_and_when_read(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((40, 50)))
    source = NpySource(path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match="truncated"):
        NpySource(path)
    with pytest.raises(InputError, match="truncated"):
        read(source, 0, Region((0, 0), (4, 4)))
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        read(source, 0, Region((0, 0), (4, 4)))


def test_a_header_that_runs_code_or_lies_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    for header in (
        "__import__('os').system('true')",
        "{'descr': 'u1', 'fortran_order': False, 'shape': (1000000, 1000000)}",
        "{'descr': 'u1', 'fortran_order': False, 'shape': (-2, -2)}",
        "{'descr': 'u1', 'fortran_order': 3, 'shape': (2, 2)}",
        "{'descr': 'u1', 'shape': (2, 2)}",
        "(" * 5000,
    ):
        text = header.encode() + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
        with pytest.raises(InputError):
            NpySource(path)


def test_reading_a_large_file_does_not_hold_it_in_memory(tmp_path):
    """Of 256 MiB, mapped and read once, little stays: and no page of a band that was let go."""
    path = tmp_path / "a.npy"
    out = np.lib.format.open_memmap(path, "w+", "u1", (1 << 14, 1 << 14))
    out[::64] = 1
    out.flush()
    del out
    code = (
        "import sys, resource, numpy as np\n"
        "from tileconv.core.grid import Region\n"
        "from tileconv.stores.array_source import NpySource\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "source, block = NpySource(sys.argv[1]), np.zeros((512, 1 << 14, 1), 'u1')\n"
        "narrow = np.zeros((1 << 14, 16, 1), 'u1')\n"
        "before = peak()\n"
        "for y in range(0, 1 << 14, 512):\n"
        "    source.read(0, Region((y, 0), (y + 512, 1 << 14)), block)\n"
        "source.read(0, Region((0, 100), (1 << 14, 116)), narrow)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 8 << 10  # KiB
