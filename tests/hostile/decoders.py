"""Pixels of a damaged file by other means: what tileconv gave is compared with them.

Which pages make up the image is tifffile's word; where their pixels are, and what they are, is
found out by hand: Python's zlib, numcodecs' zstd, libvips' JPEG, and a few lines each for LZW,
PackBits and the predictors. Zarr is read by zarr-python.
"""

from __future__ import annotations

import contextlib
import lzma
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from tiff_map import Ifd, TiffMap

MOST_BYTES = 1 << 28


class Refused(Exception):
    """The file is damaged; there are no pixels to compare with."""


class Unknown(Exception):
    """Nothing here can read that; nothing can be said about the pixels."""


def inflate(data: bytes, size: int) -> bytes:
    """Zlib's stream; it may be longer than the pixels, and what follows it does not matter."""
    stream = zlib.decompressobj()
    try:
        return stream.decompress(data, size)
    except zlib.error as error:
        raise Refused(str(error)) from None


def unzstd(data: bytes, size: int) -> bytes:
    """A frame of Zstandard."""
    from numcodecs import zstd

    # 2**32 is where numcodecs itself would fail to allocate.
    try:
        return bytes(zstd.decompress(data))[:size]
    except (RuntimeError, ValueError, MemoryError) as error:
        raise Refused(str(error)) from None


def unpack_bits(data: bytes, size: int) -> bytes:
    """PackBits: a count and a byte to repeat, or bytes to copy."""
    out = bytearray()
    at = 0
    while at < len(data) and len(out) < size:
        count = data[at]
        if count < 128:
            out += data[at + 1 : at + 2 + count]
            at += 2 + count
        else:
            out += data[at + 1 : at + 2] * (257 - count) if count > 128 else b""
            at += 2 if count > 128 else 1
    return bytes(out[:size])


def unlzw(data: bytes, size: int) -> bytes:
    """TIFF's LZW: codes of 9 to 12 bits, most significant first, grown a code early."""
    table = [bytes([n]) for n in range(256)] + [b"", b""]
    out = bytearray()
    previous = b""
    bits, width, at = 0, 9, 0
    held = 0
    while len(out) < size:
        while held < width:
            if at == len(data):
                return bytes(out)
            bits, held, at = (bits << 8 | data[at]) & 0xFFFFFFFF, held + 8, at + 1
        code = bits >> (held - width) & (1 << width) - 1
        held -= width
        if code == 257:
            break
        if code == 256:
            del table[258:]
            width, previous = 9, b""
            continue
        if code < len(table):
            entry = table[code]
        elif previous and code == len(table):
            entry = previous + previous[:1]
        else:
            raise Refused(f"LZW code {code} of {len(table)}")
        out += entry
        if previous and len(table) < 4096:
            table.append(previous + entry[:1])
        previous = entry
        width = min(12, max(9, (len(table) + 1).bit_length()))
    return bytes(out[:size])


def read_image(data: bytes, tables: bytes | None) -> np.ndarray:
    """Libvips' reading of an encoded image, a JPEG with its tables put in front."""
    import pyvips

    if tables:
        data = tables[:-2] + data[2:]

    def decoded(fail_on: str) -> np.ndarray:
        image = pyvips.Image.new_from_buffer(data, "", fail_on=fail_on)
        return np.asarray(image.numpy()).reshape(image.height, image.width, image.bands)

    try:
        return decoded("warning")
    except pyvips.Error as error:
        # Coded data carry no checksum, and libjpeg's warnings about them reach no caller of
        # imagecodecs: then the pixels need only be libjpeg's.
        # Encoders that leave out which coefficients a scan has get a warning too.
        lenient = ("premature end", "bad Huffman code", "Invalid SOS parameters")
        if any(reason in str(error) for reason in lenient):
            return decoded("none")
        raise Refused(str(error)) from None


def unxz(data: bytes, size: int) -> bytes:
    """Python's reading of an .xz stream; it may be longer than the pixels."""
    try:
        return lzma.LZMADecompressor().decompress(data, size)
    except lzma.LZMAError as error:
        raise Refused(str(error)) from None


IMAGES = {7, 34933, 50001}
"""Compressions that libvips reads as images: JPEG, PNG, WebP."""

UNPACK = {34925: unxz, 1: lambda data, size: data[:size], 5: unlzw, 8: inflate, 32946: inflate,
          32773: unpack_bits, 34926: unzstd, 50000: unzstd}  # fmt: skip
REVERSED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))


class Page:
    """One directory as pixels of shape (separate, rows, columns, samples)."""

    def __init__(self, tiff: TiffMap, ifd: Ifd) -> None:
        self.tiff, self.ifd = tiff, ifd
        self.rows, self.columns = self.tag(257, 0), self.tag(256, 0)
        samples, self.planar = self.tag(277, 1), self.tag(284, 1)
        self.separate = samples if self.planar == 2 else 1
        self.samples = 1 if self.planar == 2 else samples
        self.compression, self.predictor = self.tag(259, 1), self.tag(317, 1)
        bits, formats = set(self.tags(258, (1,))), set(self.tags(339, (1,)))
        if self.planar not in (1, 2) or len(bits) != 1 or len(formats) != 1:
            raise Unknown("planes or samples of several kinds")
        if not bits <= {8, 16, 32, 64} or not formats <= {1, 2, 3}:
            raise Unknown(f"{bits} bits of format {formats}")
        if {32997, 32998} & set(ifd.entries) or self.tag(266, 1) not in (1, 2):
            raise Unknown("volumes or bit orders")
        kind = {1: "u", 2: "i", 3: "f"}[formats.pop()]
        try:
            self.dtype = np.dtype(f"{tiff.order}{kind}{bits.pop() // 8}")
        except TypeError:
            raise Unknown("no such float") from None
        self.tiled = 322 in ifd.entries or 324 in ifd.entries
        self.height = self.tag(323, 0) if self.tiled else min(self.tag(278, 1 << 32), self.rows)
        self.width = self.tag(322, 0) if self.tiled else self.columns
        if self.compression not in UNPACK and self.compression not in IMAGES:
            raise Unknown(f"compression {self.compression}")
        if math.prod((samples, self.rows, self.columns, self.dtype.itemsize)) > MOST_BYTES:
            raise Unknown("large")

    def tags(self, code: int, default: tuple[int, ...]) -> tuple[int, ...]:
        entry = self.ifd.entries.get(code)
        return default if entry is None else tuple(int(n) for n in self.tiff.values(entry))

    def tag(self, code: int, default: int) -> int:
        return self.tags(code, (default,))[0]

    def pixels(self) -> np.ndarray:
        """All of it; segments of no bytes are nodata."""
        out = np.zeros((self.separate, self.rows, self.columns, self.samples), self.dtype)
        if out.size == 0:
            return out
        codes = (324, 325) if 324 in self.ifd.entries else (273, 279)
        places, lengths = (self.tags(code, ()) for code in codes)
        down, across = -(-self.rows // self.height), -(-self.columns // self.width)
        index = 0
        if lengths in ((), (0,)) and self.compression == 1 and self.separate * down * across == 1:
            # Old writers leave out the length of a single raw strip.
            lengths = (out.nbytes if places and places[0] else 0,)
        for plane in range(self.separate):
            for row in range(down):
                for column in range(across):
                    if index >= min(len(places), len(lengths)):
                        raise Refused("the table is too short")
                    y, x = row * self.height, column * self.width
                    box = out[plane, y : y + self.height, x : x + self.width]
                    box[...] = self.segment(places[index], lengths[index], box.shape)
                    index += 1
        return out

    def segment(self, place: int, length: int, needed: tuple[int, ...]) -> np.ndarray:
        if length == 0:
            return np.asarray(self.nodata())
        data = self.tiff.data[place : place + length]
        if place < 8 or len(data) < length:
            raise Refused("outside the file")
        height = self.height if self.tiled else needed[0]
        shape = (height, self.width, self.samples)
        size = math.prod(shape) * self.dtype.itemsize
        if size > MOST_BYTES:
            raise Unknown("large")
        if self.tag(266, 1) == 2:
            data = data.translate(REVERSED)
        if self.compression in IMAGES:
            return self.image(data)[: needed[0], : needed[1]]
        raw = UNPACK[self.compression](data, size)
        if len(raw) < size:
            raise Refused(f"{len(raw)} of {size} bytes")
        return self.unpredicted(raw, shape)[: needed[0], : needed[1]]

    def image(self, data: bytes) -> np.ndarray:
        colours = ((3, 6), (1, 1), (1, 0)) if self.compression == 7 else ((3, 2), (1, 1), (1, 0))
        if self.predictor != 1 or (self.samples, self.tag(262, 1)) not in colours:
            raise Unknown("an encoded image in other colours")
        tables = self.ifd.entries.get(347)
        found = None
        if tables is not None:
            found = self.tiff.data[tables.value_at : tables.value_at + tables.nbytes]
        image = read_image(data, found)
        if image.shape[2] != self.samples or self.dtype.newbyteorder("=") != image.dtype:
            raise Refused(f"an image of {image.shape} {image.dtype}")
        return image

    def unpredicted(self, raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
        if self.predictor == 1:
            return np.frombuffer(raw, self.dtype).reshape(shape)
        if self.predictor == 2:
            ints = self.dtype.str.replace("f", "u").replace("i", "u")
            steps = np.frombuffer(raw, ints).reshape(shape)
            summed = np.cumsum(steps, 1, dtype=steps.dtype.newbyteorder("="))
            return summed.astype(ints).view(self.dtype)
        if self.predictor == 3 and self.dtype.kind == "f":
            rows, columns, samples = shape
            size = self.dtype.itemsize
            steps = np.frombuffer(raw, np.uint8).reshape(rows, columns * size, samples)
            planes = np.cumsum(steps, 1, dtype=np.uint8).reshape(rows, size, columns * samples)
            joined = np.ascontiguousarray(planes.transpose(0, 2, 1))
            return joined.view(f">f{size}").reshape(shape)
        raise Unknown(f"predictor {self.predictor}")

    def nodata(self) -> float:
        entry = self.ifd.entries.get(42113)
        if entry is None:
            return 0
        text = self.tiff.data[entry.value_at : entry.value_at + entry.nbytes]
        with contextlib.suppress(ValueError, OverflowError):
            return self.dtype.type(float(text.split(b"\0")[0].decode("ascii", "replace")))
        return 0


def tiff_pixels(path: Path) -> tuple[np.ndarray, int]:
    """Pixels in the order they are stored in, and how far off a codec may be."""
    import tifffile

    data = path.read_bytes()
    with tifffile.TiffFile(path, _multifile=False) as tif:
        series = tif.series[0].levels[0]
        shape = tuple(series.shape)
        key = series.keyframe
        if series.is_truncated:
            start = series.dataoffset
            found = data[start : start + series.nbytes]
            if len(found) < series.nbytes or series.nbytes > MOST_BYTES:
                raise Refused("the stack is larger than the file")
            dtype = np.dtype(tif.byteorder + key.dtype.char)
            return np.frombuffer(found, dtype).reshape(shape), 0
        starts = [None if page is None else page.offset for page in series]
        first = key.offset
    tiff = TiffMap(data)
    try:
        keyframe = Page(tiff, tiff.ifd(first))
        pages = [
            np.zeros((), keyframe.dtype) if at is None else Page(tiff, tiff.ifd(at)).pixels()
            for at in starts
        ]
    except (ValueError, struct.error) as error:
        raise Refused(str(error)) from None
    if math.prod(shape) * keyframe.dtype.itemsize > MOST_BYTES:
        raise Unknown("large")
    stored = np.broadcast_shapes(*(page.shape for page in pages))
    stack = np.stack([np.broadcast_to(page, stored) for page in pages])
    return stack.reshape(shape), 3 if keyframe.compression in IMAGES else 0


def zarr_pixels(path: Path) -> tuple[np.ndarray, int]:
    """Pixels of an array, or of the first level of an OME-Zarr image."""
    import zarr

    node = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Group):
        attributes = dict(node.attrs)
        image = attributes.get("ome", attributes)["multiscales"][0]
        node = node[str(image["datasets"][0]["path"])]
    if node.nbytes > MOST_BYTES or node.nchunks > 1 << 18:
        raise Unknown("large")
    return np.asarray(node[...]), 0
