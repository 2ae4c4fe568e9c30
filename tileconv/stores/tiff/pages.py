"""Where the pixels of a TIFF page lie: tiles, strips, their indices and byte ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tileconv.core.grid import Region, ceil_div

CHUNK_BYTES = 1 << 20
"""Decoded size that strips are grouped to, and that giant raw strips are cut into: large
enough that the request costs little beside the copying, small enough for any memory cap."""

HEADER_BYTES = 8
"""What a file begins with, before anything that an offset may point to."""

# Most bytes that one encoded byte can become. A segment that claims more cannot decode, and is
# refused before its pixels are allocated. none; deflate: 258 bytes for two bits (RFC 1951);
# LZW: 4096 bytes for a code of 9 bits or more; PackBits: 128 for two; zstd: a block of four
# bytes holds at most 128 KiB (RFC 8878); xz: measured 7,000, with room. Image codecs have no
# such law: a constant image is a few bytes whatever its size.
_MOST_EXPANSION = {
    1: 1,
    5: 4096,
    8: 1032,
    32773: 64,
    32946: 1032,
    34925: 1 << 16,
    34926: 1 << 15,
    50000: 1 << 15,
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """How the samples of a page, and of all pages like it, are cut into segments.

    A page is an array ``(separate, depth, rows, columns, samples)``; a segment is one tile
    or strip, a box of ``(depth, rows, columns)`` in one of the separate planes. The
    segments of a page are numbered in C order of ``(separate, depth, row, column)``.

    Parameters
    ----------
    separate : int
        Samples that are stored as planes of their own (PlanarConfiguration 2).
    depth, rows, columns, samples : int
    tiled : bool
    segment : (int, int, int)
        Depth, rows and columns of a tile; ``(1, RowsPerStrip, columns)`` for strips.
    """

    separate: int
    depth: int
    rows: int
    columns: int
    samples: int
    tiled: bool
    segment: tuple[int, int, int]

    @classmethod
    def of_page(cls, page: Any) -> Geometry:
        """The geometry of a tifffile page."""
        separate, depth, rows, columns, samples = page.shaped
        if page.is_tiled:
            segment = (page.tiledepth, page.tilelength, page.tilewidth)
        else:
            segment = (1, page.rowsperstrip, columns)
        if min(segment) < 1 and rows * columns > 0:
            raise ValueError(f"tiles or strips of {segment} pixels")
        return cls(separate, depth, rows, columns, samples, bool(page.is_tiled), segment)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Segments along depth, rows and columns."""
        depth, rows, columns = self.segment
        return (
            ceil_div(self.depth, max(depth, 1)),
            ceil_div(self.rows, max(rows, 1)),
            ceil_div(self.columns, max(columns, 1)),
        )

    @property
    def segments(self) -> int:
        """Segments of a page."""
        deep, down, across = self.grid
        return self.separate * deep * down * across

    @property
    def planes(self) -> int:
        """Planes of a page, each with a block of ``(rows, columns, samples)``."""
        return self.separate * self.depth

    @property
    def kind(self) -> str:
        """What a segment is called."""
        return "tile" if self.tiled else "strip"

    def index(self, separate: int, deep: int, down: int, across: int) -> int:
        """Number of a segment within its page."""
        grid = self.grid
        return ((separate * grid[0] + deep) * grid[1] + down) * grid[2] + across

    def strips(self, separate: int, deep: int, box: Region) -> range:
        """Numbers of the strips that hold the rows of `box`."""
        height = self.segment[1]
        first = self.index(separate, deep, box.start[0] // height, 0)
        return range(first, self.index(separate, deep, (box.stop[0] - 1) // height, 0) + 1)

    def segment_rows(self, index: int) -> int:
        """Rows that segment `index` stores: a strip ends with the image, a tile does not."""
        height = self.segment[1]
        if self.tiled:
            return height
        return min(height, self.rows - index % self.grid[1] * height)

    def needed_shape(self, index: int) -> tuple[int, int, int, int]:
        """Part of segment `index` that lies in the image: depth, rows, columns, samples."""
        _, deep, down, across = np.unravel_index(index, (self.separate, *self.grid))
        depth, rows, columns = self.segment
        return (
            min(depth, self.depth - int(deep) * depth),
            min(rows, self.rows - int(down) * rows),
            min(columns, self.columns - int(across) * columns),
            self.samples,
        )

    def chunk_shape(self, itemsize: int, *, raw: bool) -> tuple[int, int]:
        """Rows and columns of the piece that is read and decoded at once.

        A tile for tiles. Consecutive strips up to `CHUNK_BYTES`; of raw strips any rows,
        and where one row is larger than that, any columns.
        """
        if self.tiled:
            return self.segment[1], self.segment[2]
        pixel = self.samples * itemsize
        row = max(1, self.columns * pixel)
        strip = self.segment[1]
        if raw and strip * row > CHUNK_BYTES:
            rows = max(1, CHUNK_BYTES // row)
            columns = self.columns if row <= CHUNK_BYTES else max(1, CHUNK_BYTES // pixel)
            return min(rows, strip), columns
        rows = strip * max(1, CHUNK_BYTES // max(1, strip * row))
        return max(1, min(rows, self.rows)), max(1, self.columns)


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """Byte ranges of every segment of every page, as int64 of shape (pages, segments).

    A segment of 0 bytes is absent, wherever it is said to be; one that the file's own table
    lacks has `UNLISTED` bytes.

    Parameters
    ----------
    offsets, counts : ndarray
    file_size : int
        In bytes; no segment reaches beyond it.
    """

    offsets: np.ndarray
    counts: np.ndarray
    file_size: int

    UNLISTED = -1

    @classmethod
    def empty(cls, pages: int, segments: int, file_size: int) -> SegmentTable:
        """A table of absent segments."""
        zeros = np.zeros((2, pages, segments), np.int64)
        return cls(zeros[0], zeros[1], file_size)

    def fill(self, page: int, offsets: Any, counts: Any) -> None:
        """Take over a page's tables."""
        listed = min(len(offsets), len(counts), self.offsets.shape[1])
        start = np.array(offsets[:listed], np.uint64)
        length = np.array(counts[:listed], np.uint64)
        # Above 2**62 nothing adds up in int64; such a range is outside any file.
        limit = np.uint64(1 << 62)
        self.offsets[page, :listed] = np.minimum(start, limit)
        self.counts[page, :listed] = np.minimum(length, limit)
        self.counts[page, listed:] = self.UNLISTED

    def faulty(self) -> np.ndarray:
        """Flat numbers of the segments that have a `fault`."""
        placed = (self.offsets >= HEADER_BYTES) & (self.offsets <= self.file_size - self.counts)
        return np.flatnonzero((self.counts != 0) & ~(placed & (self.counts > 0)))

    def fault(self, page: int, index: int) -> str | None:
        """What is wrong with a segment's byte range, after its name; None if nothing is."""
        offset, count = int(self.offsets[page, index]), int(self.counts[page, index])
        if count == self.UNLISTED:
            return "is not listed: the table of byte ranges ends before it"
        if count and offset < HEADER_BYTES:
            return "cannot lie there: that is the header of the file"
        if count and offset > self.file_size - count:
            return f"reaches beyond the file's {self.file_size} bytes: it is cut short"
        return None

    @property
    def nbytes(self) -> int:
        """Memory of the table."""
        return self.offsets.nbytes + self.counts.nbytes


def is_raw(page: Any) -> bool:
    """Whether a page's bytes are its samples, so that any part of a segment can be read alone."""
    return bool(
        page.compression == 1
        and page.predictor == 1
        and page.fillorder == 1
        and page.sampleformat != 5  # complex integers, which numpy does not have
        and page.bitspersample in (8, 16, 32, 64, 128)
        and page.dtype is not None
        and page.dtype.itemsize * 8 == page.bitspersample
        and not page.is_subsampled
    )


def expands_too_far(compression: int, encoded: int, decoded: int) -> bool:
    """Whether `encoded` bytes cannot possibly become `decoded` bytes."""
    limit = _MOST_EXPANSION.get(compression)
    return limit is not None and decoded > limit * encoded + limit
