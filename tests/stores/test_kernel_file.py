"""Kernels from files, and files that are no kernels."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import tifffile

from tileconv.errors import ConfigError
from tileconv.stores import kernel_file
from tileconv.stores.kernel_file import read_kernel

WEIGHTS = np.array([[1.5, -2, 0, 4e-3], [0, 1, 7, -1e10], [3, 0.1, 0, 9]])


def test_an_npy_keeps_its_dtype_in_native_order(tmp_path):
    for dtype in ("<f8", ">f4", ">i2", "|u1", "|b1", "<c8"):
        expected = (WEIGHTS if dtype[-2] in "fc" else WEIGHTS > 1).astype(dtype)
        np.save(tmp_path / "psf.npy", np.asfortranarray(expected))
        weights, name = read_kernel(tmp_path / "psf.npy")
        assert name == "psf.npy"
        assert weights.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("ending", [".csv", ".txt", ".CSV"])
@pytest.mark.parametrize(
    "text",
    [
        "1.5, -2, 0, 4e-3\n0,1,7,-1e10\n3,.1,0,9\n",
        "# a kernel\n1.5 -2  0\t4e-3\n\n0 1 7 -1e10  # middle\n 3 0.1 0 9",
        "1.5;-2;0;0.004\r\n0;1;7;-1e10\r\n3;0.1;0;9\r\n",
        "\ufeff1.5,-2,0,4e-3\n0,1,7,-1e10\n3,.1,0,9",
    ],
)
def test_text_is_read_whatever_separates_its_numbers(tmp_path, text, ending):
    path = tmp_path / f"weights{ending}"
    path.write_text(text, newline="")
    np.testing.assert_array_equal(read_kernel(str(path))[0], WEIGHTS)


def test_one_number_is_a_kernel(tmp_path):
    (tmp_path / "a.txt").write_text("2")
    assert read_kernel(tmp_path / "a.txt")[0].tolist() == [[2.0]]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8"])
@pytest.mark.parametrize("options", [{}, {"compression": "deflate", "tile": (16, 16)}], ids=str)
def test_the_pixels_of_a_tiff_are_the_weights(tmp_path, dtype, options):
    expected = np.arange(35).reshape(5, 7).astype(dtype)
    tifffile.imwrite(tmp_path / "psf.tif", expected, **options)
    weights, _ = read_kernel(tmp_path / "psf.tif")
    assert weights.dtype == expected.dtype
    np.testing.assert_array_equal(weights, expected)


# Refusals: one line, with the path and what to do.


def refused(path, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        read_kernel(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("9007199254740993, -3", [[2**53 + 1, -3]]),
        ("9007199254740993 1.0\n-9223372036854775808 +5", [[2**53 + 1, 1], [-(2**63), 5]]),
        ("18446744073709551615; 0", [[2**64 - 1, 0]]),
    ],
)
def test_text_of_whole_numbers_that_float64_would_round(tmp_path, text, want):
    (tmp_path / "a.csv").write_text(text)
    weights, _ = read_kernel(tmp_path / "a.csv")
    assert weights.dtype.kind in "iu"
    assert weights.tolist() == want


@pytest.mark.parametrize(
    "text", ["1e300, 3", "9007199254740993, 0.5", "18446744073709551615, -1", "9007199254740992, 1"]
)
def test_other_text_is_float64(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    weights, _ = read_kernel(tmp_path / "a.csv")
    np.testing.assert_array_equal(weights, np.array([text.split(",")], np.float64), strict=True)


@pytest.mark.parametrize("name", ["none.npy", "none.csv", "none.tif"])
def test_a_file_that_is_not_there(tmp_path, name):
    refused(tmp_path / name, "does not exist")


def test_a_folder_and_an_ending_that_is_not_known(tmp_path):
    (tmp_path / "a.npy").mkdir()
    refused(tmp_path / "a.npy", "is not a file")
    refused(tmp_path / "a.pkl", r"give one of \.npy, \.csv")
    refused(tmp_path / "a", "ends in nothing")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    from pathlib import Path

    path = tmp_path / "a.npy"
    np.save(path, WEIGHTS)

    def denied(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(path, "Permission denied")


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_loaded(tmp_path):
    harm = str(tmp_path / "harm")
    array = np.empty((1, 1), object)
    array[0, 0] = Harm(harm)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Harm(harm)))
    (tmp_path / "c.txt").write_bytes(pickle.dumps(Harm(harm)))
    (tmp_path / "d.tif").write_bytes(pickle.dumps(Harm(harm)))
    for name in ("a.npy", "b.npy", "c.txt", "d.tif"):
        refused(tmp_path / name, "kernel file")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2, 2)), np.zeros(4), np.zeros(()), np.zeros((0, 3)), np.array([["a", "b"]]),
     np.zeros((2, 2), "M8[s]"), np.zeros((1, 1), [("a", "u1")])],
    ids=str,
)  # fmt: skip
def test_an_npy_that_is_no_kernel(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path / "a.npy", "axes|empty|not numbers")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, bad):
    weights = np.ones((3, 4))
    weights[2, 1] = bad
    np.save(tmp_path / "a.npy", weights)
    np.savetxt(tmp_path / "a.csv", weights, delimiter=",")
    tifffile.imwrite(tmp_path / "a.tif", weights)
    for name in ("a.npy", "a.csv", "a.tif"):
        refused(tmp_path / name, "row 2, column 1")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("# nothing\n\n", "empty"),
        ("1 2 3\n4 5\n", "line 2: 2 numbers where the rows before have 3"),
        ("1,2\n3,x\n", "line 2: could not convert"),
        ("1,2,\n", "line 1: could not convert"),
        ("1,5;2,5\n", "line 1: could not convert"),
        ("__import__('os')\n", "line 1"),
    ],
)
def test_text_that_is_no_kernel(tmp_path, text, match):
    (tmp_path / "a.csv").write_text(text)
    refused(tmp_path / "a.csv", match)


def test_text_that_is_not_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe1\x002\x00")
    refused(tmp_path / "a.csv", "not text")


def test_a_tiff_that_is_no_kernel(tmp_path):
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((3, 4, 5), "u1"), photometric="minisblack")
    refused(tmp_path / "pages.tif", "3 axes")
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 5, 3), "u1"), photometric="rgb")
    refused(tmp_path / "rgb.tif", "3 axes")
    (tmp_path / "broken.tif").write_bytes(b"II*\0" + bytes(20))
    refused(tmp_path / "broken.tif", "without any page")
    (tmp_path / "short.tif").write_bytes((tmp_path / "rgb.tif").read_bytes()[:100])
    refused(tmp_path / "short.tif", "kernel file")


def test_an_npy_that_ends_too_soon(tmp_path):
    np.save(tmp_path / "a.npy", WEIGHTS)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    refused(tmp_path / "a.npy", "shorter than its header says")


def test_too_many_weights_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_file, "MAX_WEIGHTS", 20)
    np.save(tmp_path / "a.npy", np.zeros((3, 7)))
    np.savetxt(tmp_path / "a.txt", np.zeros((3, 7)))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 7), "u1"))
    for name in ("a.npy", "a.txt", "a.tif"):
        refused(tmp_path / name, "more than 20")
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000)}\n"
    (tmp_path / "b.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    )
    refused(tmp_path / "b.npy", "more than 20")
    monkeypatch.setattr(kernel_file, "MAX_BYTES", 10)
    refused(tmp_path / "a.npy", "more than 10")


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("shape", ["(True, True)", "(-1, 3)", "(3.0, 3)", "(9, 9)", "(1 << 40, 1)"])
def test_an_npy_with_an_odd_shape(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(header(shape) + bytes(72))
    refused(tmp_path / "a.npy", "a.npy")


def test_a_line_is_bounded_before_it_is_read(tmp_path):
    """A file that is all one line, and takes no room on the disk."""
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(kernel_file.MAX_BYTES)
    refused(tmp_path / "a.csv", "line 1 has more than 1048576 characters")
    (tmp_path / "b.csv").write_text("1,2\n" + "3" * 2_000_000)
    refused(tmp_path / "b.csv", "line 2 has more than")


def test_a_tiff_is_read_as_strictly_as_a_raster(tmp_path):
    """A page whose pixels end early, and one that was never written."""
    tifffile.imwrite(tmp_path / "a.tif", WEIGHTS)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:-8])
    refused(tmp_path / "a.tif", "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", WEIGHTS, tile=(16, 16))
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+b") as file:
        file.pages.first.tags["TileByteCounts"].overwrite(0)
        file.pages.first.tags["TileOffsets"].overwrite(0)
    refused(tmp_path / "b.tif", "b.tif")
