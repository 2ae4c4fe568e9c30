"""The chain of pages of a TIFF, walked once by hand before any library follows it.

tifffile looks for a loop at its hundredth page only, follows any other for ever, hands
descriptions to an XML parser, and takes the pages of a stack for what the first one is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tileconv.errors import InputError

MAX_TAGS = 4096
"""Tags of one page; tifffile's own limit."""

MAX_SUBIFDS = 1000
"""SubIFDs of one page; a pyramid has a level for each power of two, 32 of them at most."""

MAX_DESCRIPTION_BYTES = 64 << 20
"""Most bytes of a description or of XMP, which is read and parsed as a whole."""

NDPI_TAG = 65420
"""Marks Hamamatsu's variant, whose page offsets have 64 bits in a classic header."""

_SUBIFDS = 330
_SAMPLES = 277
_TEXTS = (270, 700)
# What an XML parser would expand, or fetch from elsewhere.
_XML_BOMBS = (b"<!DOCTYPE", b"<!ENTITY")

# Tags that say what the bytes of a page mean, and what they say where they are left out. Pages
# that are read as one image must agree in them.
_DECODING = {
    256: (), 257: (), 258: (1,), 259: (1,), 262: (), 266: (1,), 277: (1,), 278: (), 284: (1,),
    317: (1,), 322: (), 323: (), 339: (1,), 530: (), 32997: (), 32998: (),
}  # fmt: skip
_ONCE = _DECODING.keys() | {273, 279, 324, 325}
"""These, and where pixels lie: who has them twice does not say which is meant."""

_INTEGERS = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_BYTES_OF = {2: 1, 5: 8, 6: 1, 7: 1, 10: 8, 11: 4, 12: 8}


class _Tag(NamedTuple):
    kind: int
    number: int
    place: bytes


class PageChain:
    """The pages of a file: where they are, and what their bytes mean.

    Parameters
    ----------
    file : file
        At its start.
    path : Path
        For messages.
    size : int
        Of the file, in bytes.

    Raises
    ------
    InputError
        For a file that is no TIFF, for a chain that loops or leaves the file, and for
        descriptions that no parser should be given.
    """

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self._file, self._path, self._size = file, path, size
        header = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(header[:2])
        if order is None or len(header) < 8:
            raise InputError(f"{path} is not a TIFF file: it starts with {header[:4]!r}")
        magic = struct.unpack(order + "H", header[2:4])[0]
        if magic not in (42, 43):
            raise InputError(f"{path} is not a TIFF file: its version is {magic}, not 42 or 43")
        self._order, self._big = order, magic == 43
        self._offset = order + ("Q" if self._big else "I")
        self._wide = 8 if self._big else 4
        self._meanings: dict[int, tuple[tuple[int, ...], ...]] = {}
        self._walk(header)

    def _walk(self, header: bytes) -> None:
        at = 8 if self._big else 4
        start = struct.unpack(self._offset, header[at : at + self._wide].ljust(self._wide, b"\0"))[
            0
        ]
        below: list[tuple[str, int]] = []
        seen = self._meanings
        shared: dict[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]] = {}
        while start:
            page = f"{self._path}: page {len(seen)}"
            if start in seen:
                raise InputError(f"{page} leads back to offset {start}: the pages form a loop")
            tags, following = self._directory(page, start)
            meaning = self._meaning(page, tags)
            # Most pages are like the one before; a stack has thousands of them.
            seen[start] = shared.setdefault(meaning, meaning)
            self._refuse_bombs(page, tags)
            if NDPI_TAG in tags and not self._big:
                return
            below += [(page, at) for at in self._below(page, tags)]
            start = following
        if not seen:
            raise InputError(f"{self._path} is a TIFF file without any page")
        for page, at in below:
            if at in seen:
                raise InputError(f"{page} has itself or its like as SubIFD: the pages form a loop")

    def require_alike(self, starts: Iterable[int]) -> None:
        """Refuse pages that are taken for one image and are not of one kind.

        Parameters
        ----------
        starts : iterable of int
            Offsets of the pages.

        Raises
        ------
        InputError
        """
        first: tuple[tuple[int, ...], ...] | None = None
        for start in starts:
            page = f"{self._path}: the page at offset {start}"
            meaning = self._meanings.get(start)
            if meaning is None:
                meaning = self._meaning(page, self._directory(page, start)[0])
            first = first or meaning
            for code, own, other in zip(_DECODING, meaning, first, strict=True):
                if own != other:
                    raise InputError(
                        f"{page} differs from the first of its image in tag {code}: {own}, not "
                        f"{other}; save the pages as images of their own"
                    )

    def _directory(self, page: str, start: int) -> tuple[dict[int, _Tag], int]:
        """Tags of a page, the first of each code, and the offset of the next page."""
        head, length = (self._order + "Q", 20) if self._big else (self._order + "H", 12)
        head_size = struct.calcsize(head)
        if not 8 <= start <= self._size - head_size:
            raise InputError(f"{page} is at offset {start}, outside the file's {self._size} bytes")
        count = struct.unpack(head, self._read(start, head_size))[0]
        if not 0 < count <= MAX_TAGS:
            raise InputError(f"{page} has {count} tags; 1 to {MAX_TAGS} can be right")
        data = self._read(start + head_size, count * length + self._wide)
        if len(data) < count * length + self._wide:
            raise InputError(
                f"{page} is cut off: its tags reach beyond the file's {self._size} bytes"
            )
        tags: dict[int, _Tag] = {}
        entry = struct.Struct(f"{self._order}HH{self._offset[1]}{self._wide}s")
        for at in range(0, count * length, length):
            code, kind, values, place = entry.unpack_from(data, at)
            if code in tags and code in _ONCE:
                raise InputError(f"{page} has tag {code} twice; write it again or repair it")
            tags.setdefault(code, _Tag(kind, values, place))
        return tags, struct.unpack_from(self._offset, data, count * length)[0]

    def _meaning(self, page: str, tags: dict[int, _Tag]) -> tuple[tuple[int, ...], ...]:
        """Values of the tags that say what the page's bytes mean."""
        found = []
        for code, default in _DECODING.items():
            tag = tags.get(code)
            if tag is not None and (tag.kind not in _INTEGERS or not tag.number):
                raise InputError(
                    f"{page}: tag {code} has no integers, and says how pixels are stored; write "
                    "it again or repair it"
                )
            values = default if tag is None else self._integers(page, code, tag, MAX_TAGS)
            if code == _SAMPLES and 0 in values:
                raise InputError(f"{page} has 0 samples in a pixel; write it again or repair it")
            # One number for each sample; whoever writes it once means all of them.
            found.append(values[:1] if len(set(values)) == 1 else values)
        return tuple(found)

    def _below(self, page: str, tags: dict[int, _Tag]) -> tuple[int, ...]:
        """Offsets of a page's SubIFDs."""
        tag = tags.get(_SUBIFDS)
        return () if tag is None else self._integers(page, _SUBIFDS, tag, MAX_SUBIFDS)

    def _refuse_bombs(self, page: str, tags: dict[int, _Tag]) -> None:
        for code in _TEXTS:
            tag = tags.get(code)
            if tag is None:
                continue
            if tag.number > MAX_DESCRIPTION_BYTES:
                raise InputError(
                    f"{page}: tag {code} has {tag.number} values, more than "
                    f"{MAX_DESCRIPTION_BYTES}; remove it"
                )
            text = self._value(tag, tag.number * _BYTES_OF.get(tag.kind, 1))
            if any(bomb in text for bomb in _XML_BOMBS):
                raise InputError(
                    f"{page}: the XML in tag {code} declares a document type or entities, which "
                    "is never needed and not expanded here; remove them"
                )

    def _integers(self, page: str, code: int, tag: _Tag, most: int) -> tuple[int, ...]:
        """A tag's values; none if they are no integers, or lie outside the file."""
        letter = _INTEGERS.get(tag.kind)
        if tag.number > most:
            raise InputError(
                f"{page}: tag {code} has {tag.number} values; at most {most} can be right"
            )
        if letter is None:
            return ()
        layout = f"{self._order}{tag.number}{letter}"
        data = self._value(tag, struct.calcsize(layout))
        # What lies outside the file is named by what reads it.
        return struct.unpack(layout, data) if len(data) == struct.calcsize(layout) else ()

    def _value(self, tag: _Tag, length: int) -> bytes:
        """A tag's bytes: in its place, or where that points to."""
        if length <= self._wide:
            return tag.place[:length]
        start = struct.unpack(self._offset, tag.place)[0]
        return self._read(start, length) if start < self._size else b""

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)
