"""What a TIFF says about its pixels besides them, to be carried over to an output TIFF."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tileconv.core.grid import Shape
from tileconv.errors import InputError

TagEntry = tuple[int, int, int, object]
"""Tag code, TIFF data type, count, value: numbers, a tuple of numbers, or bytes."""

CARRIED_TAGS = {
    282: "XResolution",
    283: "YResolution",
    296: "ResolutionUnit",
    700: "XMP",
    33550: "ModelPixelScale",
    33922: "ModelTiepoint",
    34264: "ModelTransformation",
    34675: "InterColorProfile",
    34735: "GeoKeyDirectory",
    34736: "GeoDoubleParams",
    34737: "GeoAsciiParams",
    42112: "GDAL_METADATA",
    42113: "GDAL_NODATA",
}
"""Tags that stay true of a convolved raster, by code."""

MAX_TAG_BYTES = 64 << 20
"""Most bytes of a tag that is carried over; colour profiles have a few MiB."""


@dataclass(frozen=True, slots=True)
class TiffTags:
    """Tags to be written again, in the order of their codes.

    Parameters
    ----------
    entries : tuple of (code, dtype, count, value)
        As tifffile's writer takes them in `extratags`: `dtype` is the TIFF data type
        (2 ASCII, 3 SHORT, 5 RATIONAL, 12 DOUBLE, ...), `count` the number of values.
        ASCII and bytes are `bytes` exactly as stored, the closing NUL included; rationals
        are a flat tuple of numerators and denominators.
    photometric : int or None
        PhotometricInterpretation: 0 white is zero, 1 black is zero, 2 RGB, 6 YCbCr, ...;
        what the *decoded* pixels are, so JPEG's YCbCr that is decoded to RGB says RGB.
    extrasamples : tuple of int
        Meaning of each sample beyond the colour ones: 0 unspecified, 1 premultiplied
        alpha, 2 alpha.
    """

    entries: tuple[TagEntry, ...] = ()
    photometric: int | None = None
    extrasamples: tuple[int, ...] = ()

    def moved(self, by: Shape) -> TiffTags:
        """The tags of a raster whose pixel (0, 0) is this one's pixel `by`, in (y, x) order.

        Tie points name a pixel, and move with it; a transformation of pixels to the map
        starts elsewhere. Everything else says nothing about where pixel (0, 0) lies.
        """
        if by == (0, 0):
            return self
        entries = [
            (code, dtype, count, _MOVES[code](value, by) if code in _MOVES else value)
            for code, dtype, count, value in self.entries
        ]
        return replace(self, entries=tuple(entries))


def _move_tie_points(value: Any, by: Shape) -> tuple[float, ...]:
    """Each is (column, row, depth, x, y, z)."""
    moved = np.array(value, np.float64).reshape(-1, 6)
    moved[:, :2] -= by[::-1]
    return tuple(moved.ravel().tolist())


def _move_transformation(value: Any, by: Shape) -> tuple[float, ...]:
    """A 4 x 4 matrix in row-major order, of (column, row, depth, 1) to (x, y, z, 1)."""
    matrix = np.array(value, np.float64).reshape(4, 4)
    matrix[:, 3] += matrix[:, :2] @ by[::-1]
    return tuple(matrix.ravel().tolist())


_MOVES = {33922: _move_tie_points, 34264: _move_transformation}


_JPEG = {6, 7, 34892, 33007}
_YCBCR, _RGB = 6, 2

# numpy's type for each TIFF data type; ASCII, BYTE and UNDEFINED stay bytes.
_NUMPY = {
    3: "u2",
    4: "u4",
    5: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    10: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_RATIONAL = {5, 10}
_BYTES = {1, 2, 7}


def read_tags(page: Any, path: Path) -> TiffTags:
    """The tags of a tifffile page that an output should carry, exactly as the file has them."""
    order = page.parent.byteorder
    entries: list[TagEntry] = []
    with path.open("rb") as file:
        for code in CARRIED_TAGS:
            tag = page.tags.get(code)
            if tag is not None:
                entries.append(
                    (code, int(tag.dtype), int(tag.count), _value(file, path, tag, order))
                )
    photometric = None if page.tags.get(262) is None else int(page.photometric)
    if photometric == _YCBCR and int(page.compression) in _JPEG:
        photometric = _RGB
    return TiffTags(tuple(entries), photometric, tuple(int(i) for i in page.extrasamples))


def _value(file: BinaryIO, path: Path, tag: Any, order: str) -> object:
    kind = int(tag.dtype)
    if kind not in _BYTES and kind not in _NUMPY:
        raise InputError(
            f"{path}: tag {tag.code} has the unknown data type {kind}; remove it or repair it"
        )
    length = int(tag.count) * (2 if kind in _RATIONAL else 1)
    dtype = np.dtype("u1" if kind in _BYTES else order + _NUMPY[kind])
    nbytes = length * dtype.itemsize
    file.seek(tag.valueoffset)
    data = file.read(nbytes) if nbytes <= MAX_TAG_BYTES else b""
    lengths = {33922: 6, 34264: 16}
    if len(data) < nbytes or length % lengths.get(int(tag.code), 1):
        raise InputError(
            f"{path}: tag {tag.code} has {tag.count} values, which cannot be right; "
            "remove it or repair it"
        )
    if kind in _BYTES:
        return data
    return tuple(np.frombuffer(data, dtype).tolist())
