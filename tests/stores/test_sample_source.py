"""Made-up rasters: any window is part of the whole, and the whole is always the same."""

from __future__ import annotations

import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tileconv.core.grid import Region
from tileconv.errors import ConfigError
from tileconv.stores.sample_source import SampleSource
from tileconv.stores.slide_pattern import _columns

PATTERNS = ["slide", "step", "zoneplate"]
FAR = 1 << 33


def read(source: SampleSource, start: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    out = np.empty((*shape, source.raster.samples), source.raster.dtype)
    source.read(0, Region(start, (start[0] + shape[0], start[1] + shape[1])), out)
    return out


@pytest.fixture(scope="module")
def wholes() -> dict[tuple[str, int], np.ndarray]:
    made = {}
    for pattern in PATTERNS:
        for samples in (1, 3):
            source = SampleSource(pattern, (700, 900, samples), "uint16", seed=5)
            made[pattern, samples] = read(source, (0, 0), (700, 900))
    return made


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("pattern", PATTERNS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_window_is_part_of_the_whole(wholes, pattern, samples, data):
    y0, x0 = data.draw(st.integers(0, 699)), data.draw(st.integers(0, 899))
    y1, x1 = data.draw(st.integers(y0, 700)), data.draw(st.integers(x0, 900))
    source = SampleSource(pattern, (700, 900, samples), "uint16", seed=5)
    found = read(source, (y0, x0), (y1 - y0, x1 - x0))
    np.testing.assert_array_equal(found, wholes[pattern, samples][y0:y1, x0:x1])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("start", [(0, 0), (FAR - 137, FAR + 11), (2 * FAR - 100, 2 * FAR - 90)])
def test_windows_beyond_32_bits_agree_where_they_overlap(pattern, start):
    source = SampleSource(pattern, (2 * FAR, 2 * FAR), "uint16")
    large = read(source, start, (100, 90))
    small = read(source, (start[0] + 33, start[1] + 21), (50, 40))
    np.testing.assert_array_equal(small, large[33:83, 21:61])


def test_the_step_is_the_textbooks():
    expected = np.zeros((100, 100))
    expected[0:50, 0:40] = 1
    expected[50:100, 0:60] = 1
    source = SampleSource("step", (100, 100), "float64")
    assert source.raster.dtype == np.float64
    np.testing.assert_array_equal(read(source, (0, 0), (100, 100))[..., 0], expected)
    integers = SampleSource("step", (100, 100, 3), "int8")
    np.testing.assert_array_equal(
        read(integers, (0, 0), (100, 100)), np.repeat(expected[..., None], 3, 2)
    )


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (33, 129)])
def test_the_step_of_any_shape_is_exact(shape):
    found = read(SampleSource("step", shape, "uint8"), (0, 0), shape)[..., 0]
    rows, columns = shape
    for y in range(rows):
        ones = (2 if y < rows // 2 else 3) * columns // 5
        assert found[y].tolist() == [1] * ones + [0] * (columns - ones)


@pytest.mark.parametrize("shape", [(301, 301), (200, 400), (500, 100)])
def test_the_zoneplate_is_a_cosine_of_the_squared_radius(shape):
    y, x = np.indices(shape)
    cy, cx = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    radius = max(shape) / 2
    expected = (1 + np.cos(np.pi * ((y - cy) ** 2 + (x - cx) ** 2) / (2 * radius))) / 2
    found = read(SampleSource("zoneplate", shape, "float64"), (0, 0), shape)[..., 0]
    # 4096 phases and 4096 levels.
    np.testing.assert_allclose(found, expected, atol=np.pi / 4096 + 2 / 4096)


# The same bytes on every machine, with every version of numba: checksums of windows.
# A change of these is a change of the raster that people cite by its seed.
CHECKSUMS = {
    ("slide", (4096, 4096), 0, (1000, 2000)): 0x4FFF4450,
    ("slide", (4096, 4096), 1, (1000, 2000)): 0x186E44E4,
    ("slide", (4096, 4096, 3), 0, (2900, 517)): 0x9A2296CB,
    ("slide", (2 * FAR, 2 * FAR), 0, (FAR + 3, FAR + 5)): 0x77E50137,
    ("zoneplate", (4096, 4096), 0, (1000, 2000)): 0xE9B174F7,
    ("zoneplate", (2 * FAR, FAR), 0, (FAR + FAR // 3, FAR // 7)): 0x7B1837D0,
    ("step", (4096, 4096), 0, (2000, 1600)): 0xE868337E,
}


@pytest.mark.parametrize(("made", "checksum"), CHECKSUMS.items(), ids=str)
def test_windows_have_the_checksums_they_always_had(made, checksum):
    pattern, shape, seed, start = made
    block = read(SampleSource(pattern, shape, "uint16", seed), start, (96, 128))
    assert zlib.crc32(block.astype("<u2").tobytes()) == checksum


DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
          "float16", "float32", "float64"]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", ["slide", "zoneplate"])
def test_every_dtype_holds_the_same_levels(pattern, dtype):
    shape = (300, 280)
    levels = read(SampleSource(pattern, shape, "uint16"), (0, 0), shape).astype(np.int64) >> 4
    assert levels.min() >= 0
    assert levels.max() < 4096
    found = read(SampleSource(pattern, shape, dtype), (0, 0), shape)
    assert found.dtype == np.dtype(dtype)
    if np.dtype(dtype).kind == "f":
        np.testing.assert_array_equal(found, (levels / 4096).astype(dtype))
    else:
        bits = {"int8": 7, "uint8": 8, "int16": 15}.get(dtype, 16)
        expected = levels >> (12 - bits) if bits < 12 else levels << (bits - 12)
        np.testing.assert_array_equal(found, expected)


def test_windows_are_cast_through_the_rasters_dtype():
    source = SampleSource("slide", (64, 64), "float16")
    out = np.empty((64, 64, 1), np.float64)[::-1]
    source.read(0, Region((0, 0), (64, 64)), out)
    np.testing.assert_array_equal(out, read(source, (0, 0), (64, 64)))


def test_seeds_make_different_slides_on_glass_that_is_flat_and_bright():
    shape = (1024, 1024)
    slides = [read(SampleSource("slide", shape, seed=seed), (0, 0), shape) for seed in (0, 1)]
    assert np.mean(slides[0] != slides[1]) > 0.3
    for slide in slides:
        corner = slide[:40, :40]
        assert 225 < corner.min() <= corner.max() < 250
        middle = slide[300:700, 300:700]
        assert middle.mean() < 215
        assert middle.std() > 15


@pytest.mark.parametrize("samples", [1, 3])
def test_tissue_compresses_like_a_slide(samples):
    source = SampleSource("slide", (16384, 16384, samples))
    block = np.ascontiguousarray(read(source, (8000, 8000), (512, 512)))
    ratio = block.nbytes / len(imagecodecs.deflate_encode(block, level=6))
    assert 1.4 < ratio < 2


def test_a_coloured_slide_is_pink_and_violet():
    block = read(SampleSource("slide", (2048, 2048, 3)), (800, 800), (400, 400)).astype(int)
    red, green, blue = block.reshape(-1, 3).T
    assert (red > green).mean() > 0.8
    assert (blue > green).mean() > 0.9
    assert (blue > red).mean() > 0.01


def test_nothing_of_an_empty_raster_is_made():
    for shape in ((0, 5), (5, 0), (0, 0, 3)):
        source = SampleSource("slide", shape)
        assert read(source, (0, 0), shape[:2]).size == 0


@pytest.mark.parametrize(
    ("pattern", "shape", "dtype", "seed", "match"),
    [
        ("stripes", (4, 4), "uint8", 0, "slide, step, zoneplate"),
        ("slide", (4,), "uint8", 0, "rows x columns"),
        ("slide", (4, 4, 2), "uint8", 0, "rows x columns x 3"),
        ("slide", (4, 4, 3, 1), "uint8", 0, "rows x columns"),
        ("slide", (-1, 4), "uint8", 0, "0 .. "),
        ("slide", (4, 1 << 41), "uint8", 0, "0 .. "),
        ("slide", (4, 4), "bool", 0, "integers or floats"),
        ("slide", (4, 4), "complex64", 0, "integers or floats"),
        ("slide", (4, 4), "uint8", -1, "seed"),
        ("slide", (4, 4), "uint8", 1 << 32, "seed"),
    ],
)
def test_what_cannot_be_made_is_the_users_mistake(pattern, shape, dtype, seed, match):
    with pytest.raises(ConfigError, match=match):
        SampleSource(pattern, shape, dtype, seed)


def test_cells_without_a_row_hold_nothing_of_what_memory_held():
    """What was there before once became a radius of 0, and a division by it ended the process."""
    for _ in range(5):
        np.full((64, 7), -0.0)  # freed at once
        cells = _columns(0, 0, 64 << 5, 5)
        assert not cells[:, 1:6].any()
