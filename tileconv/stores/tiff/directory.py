"""The bytes of a TIFF besides its pixels: which go where, and what they are; pure.

The file is always a little-endian BigTIFF. Its length is known only when the last tile
is encoded, too late to choose, and a classic TIFF that grows past 4 GiB is lost. ::

    0           header
    16          values      tag values longer than 8 bytes, once for all pages
    first_at    directory of page 0
    rest_at     directories of pages 1, 2, ..., all of one length
    offsets_at  TileOffsets of every page, one table
    counts_at   TileByteCounts of every page, one table
    data_at     encoded tiles, in the order they came

Every place follows from the number of pages and tiles, so tiles can be appended at
`data_at` while nothing of the rest is there yet, and the rest is written last.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from tileconv import __version__
from tileconv.core.grid import Shape, align_up
from tileconv.stores.tiff.tags import TagEntry

_ASCII, _SHORT, _LONG, _LONG8 = 2, 3, 4, 16
_FORMATS = {
    1: "B", 2: "s", 3: "H", 4: "I", 5: "2I", 6: "b", 7: "s", 8: "h", 9: "i", 10: "2i",
    11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
"""struct's letter for each TIFF data type."""

_HEADER_BYTES = 16
_ALIGN = 8
_SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}
_TILE_OFFSETS, _TILE_BYTE_COUNTS = 324, 325
_BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """What the directories of a TIFF say; the same for every page.

    Parameters
    ----------
    pages : int
    tiles : int
        Tiles of one page, all samples.
    spatial, tile : (int, int)
        Rows and columns of a page and of a tile.
    dtype : numpy.dtype
    samples : int
        Samples at a pixel.
    planar : bool
        Whether the samples are stored one after another.
    compression, predictor, photometric : int
        Values of these tags.
    extra_samples : tuple of int
    shape_axes : (tuple of int, str) or None
        Written as tifffile's description, which makes an array of the pages.
    carried : tuple of TagEntry
        Tags copied from the input.
    """

    pages: int
    tiles: int
    spatial: Shape
    tile: Shape
    dtype: np.dtype
    samples: int
    planar: bool
    compression: int
    predictor: int
    photometric: int
    extra_samples: tuple[int, ...]
    shape_axes: tuple[tuple[int, ...], str] | None
    carried: tuple[TagEntry, ...]


@dataclass(frozen=True, slots=True)
class FileMap:
    """Which bytes of the file go where; see the module's drawing."""

    page: Page
    values: bytes
    first: bytes
    rest: bytes

    @property
    def first_at(self) -> int:
        """Where the directory of page 0 begins."""
        return _HEADER_BYTES + len(self.values)

    @property
    def rest_at(self) -> int:
        """Where the directory of page 1 begins."""
        return self.first_at + len(self.first)

    @property
    def offsets_at(self) -> int:
        """Where TileOffsets begin."""
        return self.rest_at + (self.page.pages - 1) * len(self.rest)

    @property
    def counts_at(self) -> int:
        """Where TileByteCounts begin."""
        return self.offsets_at + 8 * self.tiles

    @property
    def data_at(self) -> int:
        """Where encoded tiles begin."""
        return self.counts_at + 8 * self.tiles

    @property
    def tiles(self) -> int:
        """Tiles of all pages."""
        return self.page.pages * self.page.tiles

    def header(self) -> bytes:
        """The file's first bytes, without which it is no TIFF."""
        return struct.pack("<2sHHHQ", b"II", 43, 8, 0, self.first_at)

    def directories(
        self, offsets: np.ndarray, counts: np.ndarray
    ) -> Iterator[tuple[int, memoryview]]:
        """Position and bytes of every directory, a batch of pages at a time.

        Parameters
        ----------
        offsets, counts : ndarray of uint64, shape (tiles,)
            Of every tile; a page of one tile holds them in its directory.
        """
        first = np.frombuffer(self.first, np.uint8)[np.newaxis]
        yield self.first_at, _filled(self, first, 0, offsets, counts)
        if self.page.pages == 1:
            return
        rest = np.frombuffer(self.rest, np.uint8)
        step = max(1, _BATCH_BYTES // len(self.rest))
        for begin in range(1, self.page.pages, step):
            some = min(step, self.page.pages - begin)
            where = self.rest_at + (begin - 1) * len(self.rest)
            batch = np.broadcast_to(rest, (some, len(rest)))
            yield where, _filled(self, batch, begin, offsets, counts)


def _filled(
    places: FileMap, template: np.ndarray, begin: int, offsets: np.ndarray, counts: np.ndarray
) -> memoryview:
    """Directories of the pages from `begin` on: a template, and what differs between them."""
    directories = template.copy()
    page = np.arange(begin, begin + len(directories), dtype=np.uint64)
    following = places.rest_at + page * len(places.rest)
    following[page == places.page.pages - 1] = 0
    if places.page.tiles == 1:
        first_offset, first_count = offsets[page], counts[page]
    else:
        first_offset = places.offsets_at + 8 * places.page.tiles * page
        first_count = places.counts_at + 8 * places.page.tiles * page
    entries = int.from_bytes(bytes(template[0, :8]), "little")
    codes = {
        int.from_bytes(bytes(template[0, at : at + 2]), "little"): at
        for at in range(8, 8 + 20 * entries, 20)
    }
    for at, field in (
        (codes[_TILE_OFFSETS] + 12, first_offset),
        (codes[_TILE_BYTE_COUNTS] + 12, first_count),
        (8 + 20 * entries, following),
    ):
        directories[:, at : at + 8] = field.astype("<u8").view(np.uint8).reshape(-1, 8)
    return directories.reshape(-1).data


def file_map(page: Page) -> FileMap:
    """Lay out the file of `page`."""
    entries = sorted([*_entries(page), *_carried(page)])
    described = sorted([*entries, *_description(page)])
    values = bytearray()
    places: dict[int, int] = {}
    for code, _, _, value in described:
        if len(value) > 8:
            places[code] = _HEADER_BYTES + len(values)
            values += value.ljust(align_up(len(value), _ALIGN), b"\0")
    return FileMap(
        page,
        bytes(values),
        _directory(described, places),
        _directory(entries, places),
    )


_Entry = tuple[int, int, int, bytes]
"""Tag code, TIFF data type, count, encoded value."""


def _directory(entries: list[_Entry], places: dict[int, int]) -> bytes:
    """One directory, with 0 where pages differ; long values stand where `places` says."""
    parts = [struct.pack("<Q", len(entries))]
    for code, kind, count, value in entries:
        field = struct.pack("<Q", places[code]) if code in places else value.ljust(8, b"\0")
        parts.append(struct.pack("<HHQ8s", code, kind, count, field))
    parts.append(bytes(8))
    directory = b"".join(parts)
    return directory.ljust(align_up(len(directory), _ALIGN), b"\0")


def _encode(code: int, kind: int, count: int, value: object) -> _Entry:
    """A tag with its value as bytes, checked against its count."""
    letters = _FORMATS[kind]
    encoded = b""
    if isinstance(value, bytes):
        encoded = value
    else:
        numbers = value if isinstance(value, tuple) else (value,)
        with suppress(struct.error):
            encoded = struct.pack(f"<{len(numbers)}{letters[-1]}", *numbers)
    if count < 1 or len(encoded) != count * struct.calcsize(f"<{letters}"):
        raise ValueError(f"tag {code} of type {kind} says {count} values, but holds {value!r:.80}")
    return code, kind, count, encoded


def _entries(page: Page) -> Iterator[_Entry]:
    """Tags that say how the pixels are stored."""
    bits = (8 * page.dtype.itemsize,) * page.samples
    formats = (_SAMPLE_FORMATS[page.dtype.kind],) * page.samples
    software = f"tileconv {__version__}\0".encode()
    yield _encode(256, _LONG, 1, page.spatial[1])
    yield _encode(257, _LONG, 1, page.spatial[0])
    yield _encode(258, _SHORT, page.samples, bits)
    yield _encode(259, _SHORT, 1, page.compression)
    yield _encode(262, _SHORT, 1, page.photometric)
    yield _encode(277, _SHORT, 1, page.samples)
    yield _encode(284, _SHORT, 1, 2 if page.planar else 1)
    yield _encode(305, _ASCII, len(software), software)
    if page.predictor != 1:
        yield _encode(317, _SHORT, 1, page.predictor)
    yield _encode(322, _LONG, 1, page.tile[1])
    yield _encode(323, _LONG, 1, page.tile[0])
    # The value of these two is a table, whose place `directories` fills in.
    yield _TILE_OFFSETS, _LONG8, page.tiles, bytes(8)
    yield _TILE_BYTE_COUNTS, _LONG8, page.tiles, bytes(8)
    if page.extra_samples:
        yield _encode(338, _SHORT, len(page.extra_samples), page.extra_samples)
    yield _encode(339, _SHORT, page.samples, formats)


def _carried(page: Page) -> Iterator[_Entry]:
    """Tags of the input; never one that says how the pixels are stored."""
    own = {code for code, *_ in _entries(page)} | {270, 317, 338}
    for code, kind, count, value in page.carried:
        if code in own:
            raise ValueError(f"tag {code} belongs to the writer and cannot be carried over")
        yield _encode(code, kind, count, value)


def _description(page: Page) -> Iterator[_Entry]:
    """ImageDescription of page 0, as tifffile's "shaped" files have it."""
    if page.shape_axes is None:
        return
    shape, axes = page.shape_axes
    said: dict[str, object] = {"shape": list(shape)}
    if axes:
        said["axes"] = axes
    text = json.dumps(said).encode() + b"\0"
    yield _encode(270, _ASCII, len(text), text)
