"""Sizes, shapes and kernels as people write them."""

import pytest

from tileconv.errors import ConfigError
from tileconv.jobs.spelling import parse_kernel, parse_shape, parse_size, parse_weights


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 512 << 20), ("2GB", 2 * 10**9), ("1.5 KiB", 1536), (77, 77), ("3kb", 3000)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5XB", "-1MiB", "0", "MiB", "1e3", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match="run.memory"):
        parse_size(text)


def test_shapes():
    assert parse_shape("3x40") == (3, 40)
    assert parse_shape([3, 40, 3]) == (3, 40, 3)
    for bad in ("3", "3x", "0x5", "axb", [], [4]):
        with pytest.raises(ConfigError, match="input.shape"):
            parse_shape(bad)


def test_kernels_as_they_are_written_on_the_command_line():
    assert parse_kernel("gaussian:sigma=2") == {"name": "gaussian", "sigma": 2.0}
    assert parse_kernel("sobel:axis=y") == {"name": "sobel", "axis": "y"}
    assert parse_kernel("box:size=7") == {"name": "box", "size": 7}
    assert parse_kernel("laplace") == {"name": "laplace"}
    assert parse_kernel("dir/psf.npy") == {"file": "dir/psf.npy"}
    for bad in ("gaussian:2", "box:size=big", "blur:sigma=2", "sobel:size=3", "box:size=3,size=4"):
        with pytest.raises(ConfigError, match="kernel"):
            parse_kernel(bad)


def test_weights_are_floats_unless_those_would_round_whole_numbers():
    for rows, dtype in (
        ([[1, 2.5]], "f8"),
        ([[1, 2]], "f8"),
        ([[2**60, -(2**53)]], "f8"),
        ([[2**53 + 1, 2.0]], "i8"),
        ([[2**64 - 1], [7]], "u8"),
        ([[2**70, 1]], "f8"),
    ):
        weights = parse_weights(rows)
        assert weights.dtype == dtype
        assert [[int(w) if w % 1 == 0 else w for w in row] for row in weights.tolist()] == rows
    assert parse_weights([[2**53 + 1, 0.5]]).tolist() == [[2.0**53, 0.5]]
    for rows in ([[2**64 + 1]], [[2**63 + 1, -1]]):
        with pytest.raises(ConfigError, match=f"{rows[0][0]}, and neither float64"):
            parse_weights(rows)
