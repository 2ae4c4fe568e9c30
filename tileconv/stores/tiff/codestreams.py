"""What an encoded image says of itself, read before it is decoded.

Image codecs allocate what the codestream declares, whatever the TIFF around it says, and
the JPEG ones fill the rest of an image that is cut off with grey, without an error.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

JPEG = {7, 33007}
JPEG2000 = {33003, 33004, 33005, 34712}
PNG = {34933}
WEBP = {34927, 50001}

_END_OF_IMAGE = b"\xff\xd9"
_SCAN = 0xDA
_START_OF_SCAN = b"\xff\xda"


class Declared(NamedTuple):
    """Size a codestream declares; 0 components where it does not matter."""

    rows: int
    columns: int
    components: int


def declared_size(code: int, data: bytes) -> Declared | None:
    """Size that the codestream of a TIFF compression `code` declares; None if not known."""
    try:
        if code in JPEG:
            return _jpeg(data)
        if code in JPEG2000:
            return _jpeg2000(data)
        if code in PNG and data[12:16] == b"IHDR":
            columns, rows = struct.unpack_from(">II", data, 16)
            return Declared(rows, columns, 0)
        if code in WEBP:
            return _webp(data)
    except (struct.error, IndexError):
        return None
    return None


def codestream_fault(code: int, data: bytes) -> str | None:
    """What is wrong with a JPEG or JPEG 2000 that its decoder would pass over.

    The end marker must be there: it cannot occur in the coded data, because both formats stuff
    a bit or a byte. Nothing may lie between the segments before the coded data of a JPEG, and
    one of them says how large it is.
    """
    if code in JPEG:
        if data.rfind(_END_OF_IMAGE) < data.rfind(_START_OF_SCAN):
            return "is cut off: its JPEG has no end"
        markers = [marker for marker, _ in _segments(data)]
        if not markers or markers[-1] != _SCAN or declared_size(code, data) is None:
            return "is no JPEG: what comes before its coded data is not a row of segments"
    if code in JPEG2000 and _END_OF_IMAGE not in data:
        return "is cut off: its JPEG 2000 has no end"
    return None


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
