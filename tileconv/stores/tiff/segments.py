"""Reads and decodes tiles and strips, checked: a wrong byte range is never wrong pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tileconv.core.grid import Region
from tileconv.errors import BadChunkError, InputError, one_line
from tileconv.stores.absent import AbsentChunks, BadChunks
from tileconv.stores.tiff.codestreams import SIZED, codestream_fault, declared_size
from tileconv.stores.tiff.image import TiffImage
from tileconv.stores.tiff.pages import expands_too_far

# An encoded segment is hardly larger than its pixels; room for tables and metadata in it.
_SLACK_BYTES = 1 << 20


class _Piece(NamedTuple):
    """Rows of a raw strip that lie one behind the other: where in the output and in the file."""

    strip: int
    row: int
    rows: int
    start: int
    length: int


class SegmentReader:
    """Decoded segments of an image; any number of threads, no lock.

    Parameters
    ----------
    descriptor : int
        Of the open file; the reader neither moves its position nor closes it.
    image : TiffImage
    absent : AbsentChunks
        Told of every sparse segment.
    bad : BadChunks
        Told of every segment that cannot be read or decoded.
    """

    def __init__(
        self, descriptor: int, image: TiffImage, absent: AbsentChunks, bad: BadChunks
    ) -> None:
        self._descriptor = descriptor
        self._image = image
        self._absent = absent
        self._bad = bad

    def fill_absent(self, page: int, index: int, out: np.ndarray) -> bool:
        """Fill `out` with the file's nodata if the segment is absent, and count it."""
        if self._image.table.counts[page, index]:
            return False
        image = self._image
        self._absent.add(page * image.geometry.segments + index, image.segment_name(page, index))
        out[...] = image.nodata
        return True

    def meet(self, page: int, numbers: range) -> None:
        """Note that the calling thread uses these segments, of which some may be filled."""
        at = page * self._image.geometry.segments
        moved = range(at + numbers.start, at + numbers.stop)
        self._absent.meet(moved)
        self._bad.meet(moved)

    def tile(self, page: int, index: int) -> np.ndarray:
        """A whole tile, of shape (depth, rows, columns, samples); it must not be absent."""
        geometry = self._image.geometry
        return self._decoded(page, index, (*geometry.segment, geometry.samples))

    def _decoded(self, page: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
        """One segment, filled where it is bad; of `shape`, or of what its encoding makes it."""
        image = self._image
        try:
            offset, count = self._range(page, index)
            wanted = math.prod(shape) * image.dtype.itemsize
            if image.raw and count >= wanted:
                data = self._pread(page, index, offset, wanted)
                return np.frombuffer(data, image.stored_dtype).reshape(shape)
            return self._decode(page, index, self._encoded(page, index))
        except BadChunkError as error:
            value = np.empty((), image.dtype)
            self._fill_bad(page, index, value, error)
            return np.broadcast_to(value, shape)

    def strips(self, page: int, separate: int, depth: int, box: Region) -> np.ndarray:
        """Rows and columns of strips, of shape (1, rows, columns, samples).

        Parameters
        ----------
        page, separate, depth : int
        box : Region
            Inside the image. Any for raw strips, whole strips for others.
        """
        geometry = self._image.geometry
        height = geometry.segment[1]
        numbers = geometry.strips(separate, depth, box)
        first = numbers.start
        if self._image.raw:
            return self._raw_strips(page, numbers, box)
        if len(numbers) == 1 and self._image.table.counts[page, first]:
            return self._decoded(page, first, (1, *box.shape, geometry.samples))
        out = np.empty((1, *box.shape, geometry.samples), self._image.dtype)
        for run in self._runs(page, numbers):
            rows = out[0, (run.start - first) * height :]
            if not self.fill_absent(page, run.start, rows[:height]):
                self._decode_run(page, run, rows)
        return out

    def _raw_strips(self, page: int, numbers: range, box: Region) -> np.ndarray:
        image = self._image
        out = np.empty((*box.shape, image.geometry.samples), image.stored_dtype)
        pieces: list[_Piece] = []
        for index in numbers:
            strip, rows = self._strip_rows(index, box)
            into = out[rows.start : rows.stop]
            if self.fill_absent(page, index, into):
                continue
            try:
                pieces += self._pieces(page, index, rows, box, strip)
            except BadChunkError as error:
                self._fill_bad(page, index, into, error)
        for run in _adjoining(pieces):
            data = self._read_run(page, run, out)
            if data is not None and len(data) == out.nbytes:
                return np.frombuffer(data, image.stored_dtype).reshape(1, *out.shape)
        return out[np.newaxis]

    def _strip_rows(self, index: int, box: Region) -> tuple[int, range]:
        """First row of a strip in the image, and the rows of `box` that it holds."""
        geometry = self._image.geometry
        strip = index % geometry.grid[1] * geometry.segment[1]
        lo, hi = max(strip, box.start[0]), min(strip + geometry.segment_rows(index), box.stop[0])
        return strip, range(lo - box.start[0], hi - box.start[0])

    def _pieces(
        self, page: int, index: int, rows: range, box: Region, strip: int
    ) -> Iterator[_Piece]:
        """Where `rows` of `box` lie in a raw strip: as one piece if the strip is no wider."""
        geometry = self._image.geometry
        row_bytes = geometry.columns * self._sample_bytes
        offset, count = self._range(page, index)
        wanted = geometry.segment_rows(index) * row_bytes
        if count < wanted:
            raise self._error(page, index, f"holds fewer than its {wanted} bytes")
        step = len(rows) if box.shape[1] == geometry.columns else 1
        length = step * box.shape[1] * self._sample_bytes
        for row in rows[::step]:
            down = box.start[0] + row - strip
            start = offset + down * row_bytes + box.start[1] * self._sample_bytes
            yield _Piece(index, row, step, start, length)

    def _read_run(self, page: int, run: Sequence[_Piece], out: np.ndarray) -> bytes | None:
        """Read pieces at once into `out`, and return their bytes; each by itself if that fails."""
        first = run[0]
        rows = out[first.row : run[-1].row + run[-1].rows]
        try:
            data = self._pread(page, first.strip, first.start, sum(one.length for one in run))
        except BadChunkError as error:
            if len(run) == 1:
                self._fill_bad(page, first.strip, rows, error)
            else:
                for piece in run:
                    self._read_run(page, [piece], out)
            return None
        if rows.nbytes < out.nbytes:
            rows[...] = np.frombuffer(data, out.dtype).reshape(rows.shape)
        return data

    def _runs(self, page: int, numbers: range) -> Iterator[range]:
        """Strips that lie one behind the other in the file, to be read at once."""
        offsets, counts = self._image.table.offsets[page], self._image.table.counts[page]
        begin = numbers.start
        for number in numbers:
            following = number + 1
            joined = (
                following < numbers.stop
                and counts[number] > 0
                and counts[following] > 0
                and offsets[following] == offsets[number] + counts[number]
            )
            if not joined:
                yield range(begin, following)
                begin = following

    def _decode_run(self, page: int, run: range, rows: np.ndarray) -> None:
        """Read strips at once into `rows`; each by itself where that fails."""
        height = self._image.geometry.segment[1]
        try:
            data = self._encoded(page, *run)
        except BadChunkError as error:
            if len(run) == 1:
                self._fill_bad(page, run.start, rows[:height], error)
            else:
                for index in run:
                    alone = range(index, index + 1)
                    self._decode_run(page, alone, rows[(index - run.start) * height :])
            return
        at = 0
        for index in run:
            into = rows[(index - run.start) * height :][:height]
            _, count = self._range(page, index)
            try:
                strip = self._decode(page, index, data[at : at + count])
                into[...] = strip[0, : into.shape[0], : into.shape[1]]
            except BadChunkError as error:
                self._fill_bad(page, index, into, error)
            at += count

    def _encoded(self, page: int, *run: int) -> bytes:
        """Bytes of segments that lie one behind the other."""
        total, most = 0, self._most_encoded
        for index in run:
            count = self._range(page, index)[1]
            if count > most:
                raise self._error(
                    page, index, f"has more than the {most} bytes its pixels can take"
                )
            total += count
        return self._pread(page, run[0], self._range(page, run[0])[0], total)

    @property
    def _most_encoded(self) -> int:
        """Most bytes that an encoded segment may take, before it is suspect."""
        return 2 * math.prod(self._image.geometry.segment) * self._sample_bytes + _SLACK_BYTES

    @property
    def _sample_bytes(self) -> int:
        return self._image.geometry.samples * self._image.dtype.itemsize

    def _decode(self, page: int, index: int, data: bytes) -> np.ndarray:
        """Decode one segment; what comes back covers its part of the image, in its dtype."""
        image, geometry = self._image, self._image.geometry
        needed = geometry.needed_shape(index)
        if expands_too_far(image.code, len(data), math.prod(needed) * image.bits // 8):
            raise self._error(
                page, index, f"cannot hold its {needed[1]} x {needed[2]} pixels in so few bytes"
            )
        self._check_codestream(page, index, data)
        try:
            array: np.ndarray = image.decode(data, index, **image.decode_options[page])[0]
        except MemoryError:
            # Not the segment's fault: with more memory it may be read.
            raise InputError(
                f"{image.segment_name(page, index)} does not fit in memory when decoded"
            ) from None
        except Exception as error:
            raise self._error(page, index, f"cannot be decoded: {one_line(error)}") from error
        if array.ndim != 4 or any(a < b for a, b in zip(array.shape, needed, strict=True)):
            raise self._error(page, index, f"decodes to {array.shape}, not {needed}")
        if array.dtype.newbyteorder("=") != image.dtype:
            raise self._error(page, index, f"decodes to {array.dtype}, not {image.dtype}")
        return array

    def _check_codestream(self, page: int, index: int, data: bytes) -> None:
        image, geometry = self._image, self._image.geometry
        if "jpegheader" in image.decode_options[page]:
            return  # Hamamatsu's tiles are pieces of one codestream
        if fault := codestream_fault(image.code, data):
            raise self._error(page, index, fault)
        if image.code not in SIZED:
            return
        declared = declared_size(image.code, data, self._most_encoded)
        if declared is None:
            raise self._error(page, index, f"does not say how large its {image.compression} is")
        _, rows, columns, samples = geometry.needed_shape(index)
        _, most_rows, most_columns = geometry.segment
        if declared.components not in (0, samples):
            # Lossless JPEG (DNG) spreads a row over components: only the product counts.
            fits = math.prod(declared) <= most_rows * most_columns * samples
        else:
            fits = (
                rows <= declared.rows <= most_rows and columns <= declared.columns <= most_columns
            )
        if not fits:
            raise self._error(
                page,
                index,
                f"declares {declared.rows} x {declared.columns} pixels in a {geometry.kind} of "
                f"{most_rows} x {most_columns}",
            )

    def _range(self, page: int, index: int) -> tuple[int, int]:
        """Where a segment is in the file: (offset, length), inside it."""
        table = self._image.table
        if fault := table.fault(page, index):
            raise self._error(page, index, fault)
        return int(table.offsets[page, index]), int(table.counts[page, index])

    def _pread(self, page: int, index: int, offset: int, count: int) -> bytes:
        """Exactly `count` bytes; one call may return fewer, at a signal or above 2 GiB."""
        parts: list[bytes] = []
        missing = count
        while missing:
            try:
                part = os.pread(self._descriptor, missing, offset + count - missing)
            except OSError as error:
                raise self._error(page, index, f"cannot be read: {error.strerror}") from error
            if not part:
                raise self._error(page, index, "reaches beyond the end of the file")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fill_bad(self, page: int, index: int, out: np.ndarray, error: BadChunkError) -> None:
        """Count a bad segment, which raises `error` unless bad ones are filled, and fill it."""
        image = self._image
        number = page * image.geometry.segments + index
        self._bad.add(number, image.segment_name(page, index), error)
        out[...] = image.nodata

    def _error(self, page: int, index: int, what: str) -> BadChunkError:
        return self._image.bad_segment(page, index, what)


def _adjoining(pieces: Sequence[_Piece]) -> Iterator[Sequence[_Piece]]:
    """Runs of pieces that lie one behind the other, in the file and in the output."""
    begin = 0
    for at, piece in enumerate(pieces, 1):
        following = pieces[at] if at < len(pieces) else None
        end = (piece.start + piece.length, piece.row + piece.rows)
        if following is None or (following.start, following.row) != end:
            yield pieces[begin:at]
            begin = at
