"""Reads and decodes tiles and strips, checked: a wrong byte range is never wrong pixels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np

from tileconv.core.grid import Region
from tileconv.errors import InputError
from tileconv.stores.absent import AbsentChunks
from tileconv.stores.tiff.codestreams import declared_size, is_cut_off
from tileconv.stores.tiff.image import TiffImage
from tileconv.stores.tiff.pages import expands_too_far
from tileconv.stores.tiff.structure import one_line

# An encoded segment is hardly larger than its pixels; room for tables and metadata in it.
_MOST_ENCODED = 1 << 20


class SegmentReader:
    """Decoded segments of an image; any number of threads, no lock.

    Parameters
    ----------
    descriptor : int
        Of the open file; the reader neither moves its position nor closes it.
    image : TiffImage
    absent : AbsentChunks
        Told of every sparse segment.
    """

    def __init__(self, descriptor: int, image: TiffImage, absent: AbsentChunks) -> None:
        self._descriptor = descriptor
        self._image = image
        self._absent = absent

    def fill_absent(self, page: int, index: int, out: np.ndarray) -> bool:
        """Fill `out` with the file's nodata if the segment is absent, and count it."""
        if self._image.table.counts[page, index]:
            return False
        image = self._image
        self._absent.add(page * image.geometry.segments + index, image.segment_name(page, index))
        out[...] = image.nodata
        return True

    def tile(self, page: int, index: int) -> np.ndarray:
        """A whole tile, of shape (depth, rows, columns, samples); it must be there."""
        image, geometry = self._image, self._image.geometry
        offset, count = self._range(page, index)
        shape = (*geometry.segment, geometry.samples)
        wanted = math.prod(shape) * image.dtype.itemsize
        if image.raw and count >= wanted:
            data = self._pread(page, index, offset, wanted)
            return np.frombuffer(data, image.stored_dtype).reshape(shape)
        return self._decode(page, index, self._encoded(page, index))

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
        first = geometry.index(separate, depth, box.start[0] // height, 0)
        last = geometry.index(separate, depth, (box.stop[0] - 1) // height, 0)
        if self._image.raw:
            return self._raw_strips(page, range(first, last + 1), box)
        if first == last and self._image.table.counts[page, first]:
            return self._decode(page, first, self._encoded(page, first))
        out = np.empty((1, *box.shape, geometry.samples), self._image.dtype)
        for run in self._runs(page, range(first, last + 1)):
            rows = out[0, (run.start - first) * height :]
            if not self.fill_absent(page, run.start, rows[:height]):
                self._decode_run(page, run, rows)
        return out

    def _raw_strips(self, page: int, numbers: range, box: Region) -> np.ndarray:
        image, geometry = self._image, self._image.geometry
        columns = box.shape[1]
        out = np.empty((*box.shape, geometry.samples), image.stored_dtype)
        pixel = geometry.samples * image.dtype.itemsize
        spans: list[tuple[int, int, int, int]] = []
        for index in numbers:
            strip = index % geometry.grid[1] * geometry.segment[1]
            height = geometry.segment_rows(index)
            lo, hi = max(strip, box.start[0]), min(strip + height, box.stop[0])
            if self.fill_absent(page, index, out[lo - box.start[0] : hi - box.start[0]]):
                continue
            offset, count = self._range(page, index)
            if count < height * geometry.columns * pixel:
                raise self._error(
                    page, index, f"holds fewer than its {height * geometry.columns * pixel} bytes"
                )
            step = hi - lo if columns == geometry.columns else 1
            for row in range(lo, hi, step):
                start = offset + ((row - strip) * geometry.columns + box.start[1]) * pixel
                length = step * columns * pixel
                if spans and spans[-1][1] + spans[-1][2] == start and row == spans[-1][3]:
                    at, begin, before, _ = spans.pop()
                    spans.append((at, begin, before + length, row + step))
                else:
                    spans.append((row, start, length, row + step))
        for row, start, length, end in spans:
            data = self._pread(page, numbers.start, start, length)
            pixels = np.frombuffer(data, image.stored_dtype)
            if end - row == box.shape[0]:
                return pixels.reshape(1, *out.shape)
            out[row - box.start[0] : end - box.start[0]] = pixels.reshape(-1, *out.shape[1:])
        return out[np.newaxis]

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
        data = self._encoded(page, *run)
        height = self._image.geometry.segment[1]
        at = 0
        for position, index in enumerate(run):
            _, count = self._range(page, index)
            strip = self._decode(page, index, data[at : at + count])
            rows[position * height : position * height + strip.shape[1]] = strip[0]
            at += count

    def _encoded(self, page: int, *run: int) -> bytes:
        """Bytes of segments that lie one behind the other."""
        total = 0
        for index in run:
            count = self._range(page, index)[1]
            decoded = math.prod(self._image.geometry.segment) * self._sample_bytes
            if count > 2 * decoded + _MOST_ENCODED:
                raise self._error(page, index, f"is larger than its {decoded} bytes of pixels")
            total += count
        return self._pread(page, run[0], self._range(page, run[0])[0], total)

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
            raise self._error(page, index, "does not fit in memory when decoded") from None
        except Exception as error:
            raise self._error(page, index, f"cannot be decoded: {one_line(error)}") from error
        if array.ndim != 4 or any(a < b for a, b in zip(array.shape, needed, strict=True)):
            raise self._error(page, index, f"decodes to {array.shape}, not {needed}")
        if not np.can_cast(array.dtype, image.dtype, "safe"):
            raise self._error(page, index, f"decodes to {array.dtype}, not {image.dtype}")
        return array

    def _check_codestream(self, page: int, index: int, data: bytes) -> None:
        image, geometry = self._image, self._image.geometry
        if "jpegheader" in image.decode_options[page]:
            return  # Hamamatsu's tiles are pieces of one codestream
        if is_cut_off(image.code, data):
            raise self._error(page, index, f"is cut off: its {image.compression} has no end")
        declared = declared_size(image.code, data)
        if declared is None:
            return
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
        table = self._image.table
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

    def _error(self, page: int, index: int, what: str) -> InputError:
        offset, count = self._range(page, index)
        return InputError(
            f"{self._image.segment_name(page, index)}, bytes {offset} to {offset + count}, "
            f"{what}; restore the file or write it again"
        )
