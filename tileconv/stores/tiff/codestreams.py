"""What an encoded image says of itself, read before it is decoded.

Image codecs allocate what the codestream declares, whatever the TIFF around it says, and
the JPEG ones fill the rest of an image that is cut off with grey, without an error.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import imagecodecs

JPEG = {6, 7, 33007, 34892}
JPEG2000 = {33003, 33004, 33005, 34712}
PNG = {34933}
WEBP = {34927, 50001}
LERC = {34887}
JPEG_XR = {22610, 34934}
JPEG_XL = {50002, 52546}
SIZED = JPEG | JPEG2000 | PNG | WEBP | LERC | JPEG_XR | JPEG_XL
"""Compressions whose codestreams say how large they are, and are believed by their decoders."""

_END_OF_IMAGE = b"\xff\xd9"
_SCAN = 0xDA
_SEQUENTIAL = {0xC0, 0xC1}
# Of a scan that is sequential; old encoders leave the 63 out, and mean it.
_ALL_COEFFICIENTS = (b"\x00\x3f\x00", b"\x00\x00\x00")
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_RESTARTS = range(0xD0, 0xD8)
_END = 0xD9
# Tables, lines, comments and applications' own may stand between scans.
_AMONG_SCANS = {0xC4, 0xCC, _SCAN, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
_PADDING = 16
"""Most bytes behind the end, which some writers fill up to a length that they like."""


class Declared(NamedTuple):
    """Size a codestream declares; 0 components where it does not matter."""

    rows: int
    columns: int
    components: int


def declared_size(code: int, data: bytes, most: int) -> Declared | None:
    """Size that the codestream of a TIFF compression `code` declares; None if not known.

    Parameters
    ----------
    code : int
    data : bytes
    most : int
        Most bytes that a codestream inside another one may take.
    """
    readers = (
        (JPEG, _jpeg),
        (JPEG2000, _jpeg2000),
        (PNG, _png),
        (WEBP, _webp),
        (LERC, partial(_lerc, most=most)),
        (JPEG_XR, _jpeg_xr),
        (JPEG_XL, _jpeg_xl),
    )
    for codes, read in readers:
        if code in codes:
            try:
                return read(data)
            except (struct.error, IndexError, ValueError, RuntimeError, zlib.error):
                return None
    return None


def codestream_fault(code: int, data: bytes) -> str | None:
    """What is wrong with a JPEG or JPEG 2000 that its decoder would pass over.

    The end marker must be there, at the end: it cannot occur in the coded data, because both
    formats stuff a bit or a byte. Nothing may lie between the segments before the coded data of
    a JPEG, and no other segments among them.
    """
    if code in JPEG:
        segments = dict(_segments(data))
        if _SCAN not in segments:
            return "is no JPEG: what comes before its coded data is not a row of segments"
        scan = segments[_SCAN]
        end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
        if _SEQUENTIAL & segments.keys() and data[end - 3 : end] not in _ALL_COEFFICIENTS:
            return "is no JPEG: its scan has not all of the coefficients that it should have"
        return _coded_fault(data, end)
    if code in JPEG2000 and _END_OF_IMAGE not in data:
        return "is cut off: its JPEG 2000 has no end"
    return None


def _coded_fault(data: bytes, at: int) -> str | None:
    """What is wrong with the markers of a JPEG from its coded data on (T.81, B.1.1 and B.2)."""
    restarts = 0
    while found := _MARKER.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker in _RESTARTS:
            if marker != _RESTARTS[restarts % len(_RESTARTS)]:
                return f"is damaged: its JPEG lacks coded data before byte {at}"
            restarts += 1
        elif marker == _END:
            rest = data[at:]
            whole = len(rest) <= _PADDING or not rest.strip(b"\0")
            return None if whole else f"is damaged: its JPEG ends after {at} of {len(data)} bytes"
        elif marker in _AMONG_SCANS:
            at += int.from_bytes(data[at : at + 2], "big")
            restarts = 0
        else:
            return f"is damaged: its JPEG has a marker {marker:02X} in the coded data"
    return "is cut off: its JPEG has no end"


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a JPEG's segments, and where these begin, to the first scan's or to a gap."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        yield marker, at
        if marker == _SCAN:
            return
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])


def _jpeg(data: bytes) -> Declared | None:
    """Frame header of a JPEG (ITU-T T.81, B.2.2): the first SOF marker."""
    for marker, at in _segments(data):
        # C4, C8 and CC lie among the frame markers and are something else.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            rows, columns, components = struct.unpack_from(">HHB", data, at + 5)
            return Declared(rows, columns, components) if rows else None
    return None


def _jpeg2000(data: bytes) -> Declared | None:
    """SIZ marker segment of a JPEG 2000 codestream (ITU-T T.800, A.5.1), bare or in JP2."""
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0:
        return None
    x, y, x0, y0 = struct.unpack_from(">4I", data, at + 8)
    components = struct.unpack_from(">H", data, at + 40)[0]
    return Declared(y - y0, x - x0, components)


def _png(data: bytes) -> Declared | None:
    """IHDR, the first chunk (ISO 15948, 11.2.2)."""
    if data[12:16] != b"IHDR":
        return None
    columns, rows = struct.unpack_from(">II", data, 16)
    return Declared(rows, columns, 0)


def _webp(data: bytes) -> Declared | None:
    """Size in the first chunk of a WebP (RFC 9649): extended, lossless or lossy."""
    kind = data[12:16]
    if kind == b"VP8X":
        columns = 1 + int.from_bytes(data[24:27], "little")
        return Declared(1 + int.from_bytes(data[27:30], "little"), columns, 0)
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = struct.unpack_from("<I", data, 21)[0]
        return Declared(1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), 0)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        columns, rows = struct.unpack_from("<HH", data, 26)
        return Declared(rows & 0x3FFF, columns & 0x3FFF, 0)
    return None


def _lerc(data: bytes, most: int) -> Declared | None:
    """Headers of one LERC2 blob or several (Lerc2.h of Esri/lerc); GDAL may deflate them."""
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        data = bytes(imagecodecs.zstd_decode(data, out=most))
    elif data.startswith(b"\x78"):
        data = zlib.decompressobj().decompress(data, most)
    found: Declared | None = None
    while data.startswith(b"Lerc2 "):
        version = struct.unpack_from("<i", data, 6)[0]
        at = 14 if version >= 3 else 10
        rows, columns = struct.unpack_from("<ii", data, at)
        depth = struct.unpack_from("<i", data, at + 8)[0] if version >= 4 else 1
        size = struct.unpack_from("<i", data, at + (20 if version >= 4 else 16))[0]
        if min(rows, columns, depth, size) < 1:
            return None
        before = 0 if found is None else found.components
        if found is not None and found[:2] != (rows, columns):
            return None
        found = Declared(rows, columns, before + depth)
        data = data[size:]
    return found


def _jpeg_xr(data: bytes) -> Declared | None:
    """Width and height in the container's directory (ITU-T T.832, A.7)."""
    start = struct.unpack_from("<I", data, 4)[0]
    found: dict[int, int] = {}
    for number in range(struct.unpack_from("<H", data, start)[0]):
        code, kind, _, value = struct.unpack_from("<HHII", data, start + 2 + 12 * number)
        found.setdefault(code, value & 0xFFFF if kind == 3 else value)
    columns, rows = found.get(0xBC80, 0), found.get(0xBC81, 0)
    return Declared(rows, columns, 0) if rows and columns else None


_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jpeg_xl(data: bytes) -> Declared | None:
    """SizeHeader at the start of the codestream (ISO 18181-1, D.2), bare or in its first box."""
    if data.startswith(b"\0\0\0\x0cJXL "):
        box = max(data.find(b"jxlc"), data.find(b"jxlp"))
        # A part of a codestream has its number before it.
        data = data[box + (8 if data[box : box + 4] == b"jxlp" else 4) :]
    if not data.startswith(b"\xff\x0a"):
        return None
    bits, left = int.from_bytes(data[2:14], "little"), 8 * len(data[2:14])

    def take(count: int) -> int:
        nonlocal bits, left
        left -= count
        if left < 0:
            raise ValueError("the codestream ends in its header")
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    small = take(1)

    def length() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    rows = length()
    ratio = take(3)
    if ratio:
        wide, high = _RATIOS[ratio - 1]
        return Declared(rows, rows * wide // high, 0)
    return Declared(rows, length(), 0)
