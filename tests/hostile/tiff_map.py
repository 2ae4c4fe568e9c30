"""A TIFF's directories, read by hand: where each thing lies, and what it says.

Knows nothing of tileconv or tifffile: mutations aim with it, and pixels are checked with it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # fmt: skip
_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii",
            11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # fmt: skip


@dataclass
class Entry:
    """One tag: where its 12 or 20 bytes are, and where its values are."""

    code: int
    dtype: int
    count: int
    at: int
    value_at: int
    nbytes: int


@dataclass
class Ifd:
    """One directory; `next_at` is where the offset of the next one is."""

    at: int
    next_at: int
    entries: dict[int, Entry] = field(default_factory=dict)


class TiffMap:
    """The structure of a file's bytes; whatever does not hold together raises ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
        self.big = self._one("H", 2) == 43
        self.offset = "Q" if self.big else "I"
        self.width = 8 if self.big else 4
        self.first_at = 8 if self.big else 4

    def chain(self) -> list[Ifd]:
        """Directories of the main chain, and behind each those that it names as SubIFDs."""
        found: list[Ifd] = []
        at = self._one(self.offset, self.first_at)
        while at and at not in {ifd.at for ifd in found}:
            ifd = self.ifd(at)
            found.append(ifd)
            if 330 in ifd.entries:
                found += [self.ifd(int(sub)) for sub in self.values(ifd.entries[330])]
            at = self._one(self.offset, ifd.next_at)
        return found

    def ifd(self, at: int) -> Ifd:
        """The directory at offset `at`."""
        head, size = ("Q", 20) if self.big else ("H", 12)
        count = self._one(head, at)
        if count > 4096:
            raise ValueError(f"{count} tags")
        start = at + struct.calcsize(head)
        ifd = Ifd(at, start + count * size)
        for entry_at in range(start, ifd.next_at, size):
            code, dtype = self._many("HH", entry_at)
            number = self._one(self.offset, entry_at + 4)
            nbytes = SIZES.get(dtype, 1) * number
            value_at = entry_at + 4 + self.width
            if nbytes > self.width:
                value_at = self._one(self.offset, value_at)
            # Of a tag that is there twice the first one counts.
            ifd.entries.setdefault(code, Entry(code, dtype, number, entry_at, value_at, nbytes))
        return ifd

    def values(self, entry: Entry) -> tuple[float, ...]:
        """What a tag says; rationals as numerators and denominators."""
        if entry.value_at + entry.nbytes > len(self.data) or entry.dtype not in _FORMATS:
            raise ValueError(f"tag {entry.code} lies outside the file, or has no known type")
        letters = _FORMATS[entry.dtype]
        return self._many(f"{entry.count * len(letters)}{letters[0]}", entry.value_at)

    def _many(self, letters: str, at: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.order + letters, self.data, at)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"nothing at {at}: {error}") from None

    def _one(self, letters: str, at: int) -> int:
        return self._many(letters, at)[0]
