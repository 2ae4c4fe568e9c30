"""Index maps and blocks against numpy.pad, windows anywhere, kernels larger than the raster."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileconv.core.grid import Region
from tileconv.verification.extending import extended, pixel_at

PAD = {"wrap": "wrap", "nearest": "edge", "symm": "symmetric", "mirror": "reflect"}


@pytest.mark.parametrize("rule", PAD)
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_every_position_has_the_pixel_that_numpy_pads_with(rule, length):
    positions = np.arange(-30, length + 30)
    expected = np.pad(np.arange(length), 30, mode=PAD[rule])
    assert np.array_equal(pixel_at(rule, positions, length), expected)


def test_fill_has_none_outside():
    assert pixel_at("fill", np.arange(-2, 5), 3).tolist() == [-1, -1, 0, 1, 2, -1, -1]


@given(
    rule=st.sampled_from(["fill", *PAD]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    start=st.tuples(st.integers(-25, 25), st.integers(-25, 25)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_blocks_are_windows_of_the_padded_raster(rule, shape, start, size):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 99, (*shape, 2))
    reads = []

    def read(box, out):
        reads.append(box)
        assert Region.of_shape(shape).contains(box)
        out[...] = pixels[box.slices]

    window = Region(start, (start[0] + size[0], start[1] + size[1]))
    block = extended(read, window, shape, 2, rule, pixels.dtype)
    mode = {"mode": PAD[rule]} if rule in PAD else {"constant_values": 7}
    reach = 60
    padded = np.pad(pixels, [(reach, reach), (reach, reach), (0, 0)], **mode)
    place = tuple(slice(a + reach, b + reach) for a, b in zip(*_ends(window), strict=True))
    for sample in range(2):
        expected = padded[place][..., sample]
        assert np.array_equal(block.sample(sample, np.dtype(float), 7.0), expected)
    # No pixel is read twice.
    assert sum(box.area for box in reads) <= shape[0] * shape[1]


def _ends(window):
    return window.start, window.stop


def test_a_window_inside_is_one_read():
    reads = []

    def read(box, out):
        reads.append(box)
        out[...] = 1

    window = Region((10, 20), (40, 60))
    extended(read, window, (100, 100), 1, "wrap", np.dtype("u1"))
    assert reads == [window]


def test_windows_that_wrap_read_both_ends_and_nothing_between():
    reads = []

    def read(box, out):
        reads.append(box)
        out[...] = 1

    extended(read, Region((0, -5), (4, 8)), (4, 10**12), 1, "wrap", np.dtype("u1"))
    assert sum(box.area for box in reads) == 4 * 13
