"""Opening a TIFF: its chain of pages checked, its image series and level found.

tifffile finds the pages that make up an image and names their axes; what it would pass
over with a line in a log (a broken chain, a tag that cannot be read, another file named
inside this one) is an error here.
"""

from __future__ import annotations

import logging
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import tifffile

from tileconv.errors import ConfigError, InputError, one_line

MAX_TAGS = 4096
"""Tags of one page; tifffile's own limit."""

NDPI_TAG = 65420
"""Marks Hamamatsu's variant, whose page offsets have 64 bits in a classic header."""

# Tags that say where pixels are and how they are stored; a broken one is an error, while a
# broken private tag (a camera's notes) says nothing about pixels.
_LAYOUT_TAGS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325),
    *(330, 338, 339, 347, 529, 530, 32997, 32998, 34020, 34022),
}


_BROKEN_CHAIN = re.compile("corrupted tag list|invalid offset to page|invalid page offset|circular")


def check_chain(file: BinaryIO, path: Path, size: int) -> None:
    """Walk the chain of pages once; it must end, inside the file, without a loop.

    tifffile looks for a loop at its hundredth page only, and follows any other for ever.

    Raises
    ------
    InputError
        For a file that is no TIFF, and for a chain that loops or leaves the file.
    """
    header = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None or len(header) < 8:
        raise InputError(f"{path} is not a TIFF file: it starts with {header[:4]!r}")
    magic = struct.unpack(order + "H", header[2:4])[0]
    if magic not in (42, 43):
        raise InputError(f"{path} is not a TIFF file: its version is {magic}, not 42 or 43")
    big = magic == 43
    count_format, offset_format = (order + "Q", order + "Q") if big else (order + "H", order + "I")
    count_size, tag_size, offset_size = (8, 20, 8) if big else (2, 12, 4)
    at = 8 if big else 4
    offset = struct.unpack(offset_format, header[at : at + offset_size].ljust(offset_size, b"\0"))
    seen: set[int] = set()
    while (start := offset[0]) != 0:
        page = f"{path}: page {len(seen)}"
        if start in seen:
            raise InputError(f"{page} leads back to offset {start}: the pages form a loop")
        if not 8 <= start <= size - count_size:
            raise InputError(f"{page} is at offset {start}, outside the file's {size} bytes")
        seen.add(start)
        file.seek(start)
        tags = struct.unpack(count_format, file.read(count_size))[0]
        if not 0 < tags <= MAX_TAGS:
            raise InputError(f"{page} has {tags} tags; 1 to {MAX_TAGS} can be right")
        directory = file.read(tags * tag_size + offset_size)
        if len(directory) < tags * tag_size + offset_size:
            raise InputError(f"{page} is cut off: its tags reach beyond the file's {size} bytes")
        codes = {struct.unpack_from(order + "H", directory, tag_size * i)[0] for i in range(tags)}
        if NDPI_TAG in codes and not big:
            return
        offset = struct.unpack_from(offset_format, directory, tags * tag_size)
    if not seen:
        raise InputError(f"{path} is a TIFF file without any page")


class _Records(logging.Handler):
    """What tifffile logs in this thread about the structure of pages.

    What it logs about descriptions (a stale shape that another program copied along) is
    not kept: it then takes the pages as they are, and so do we.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self.thread or record.levelno < logging.ERROR:
            return
        message = record.getMessage()
        tag = re.search(r"TiffTag (\d+) ", message)
        if (tag and int(tag[1]) in _LAYOUT_TAGS) or _BROKEN_CHAIN.search(message):
            self.errors.append(message)


@contextmanager
def log_is_error(path: Path) -> Iterator[None]:
    """What tifffile only logs as an error is raised; so is what it raises, in our words."""
    records = _Records()
    logger = logging.getLogger("tifffile")
    # Whoever silenced the logger did not mean to silence this.
    silenced, logger.disabled = logger.disabled, False
    level = logger.level
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
    logger.addHandler(records)
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        # What was logged came first and is the cause.
        if records.errors or not isinstance(error, InputError):
            raise _damaged(path, *records.errors, error) from error
        raise
    finally:
        logger.removeHandler(records)
        logger.setLevel(level)
        logger.disabled = silenced
    if records.errors:
        raise _damaged(path, *records.errors)


def _damaged(path: Path, first: object, *_rest: object) -> InputError:
    return InputError(
        f"{path} cannot be read as TIFF: {one_line(first)}; write it again or repair it"
    )


def choose_level(tif: Any, path: Path, level: int) -> Any:
    """The series of pages that is the file's first image at a pyramid `level`.

    Other images of the file (thumbnail, label, macro) are series of their own.

    Raises
    ------
    ConfigError
        For a level that does not exist; the message names those that do.
    InputError
        For an image whose pixels lie in other files, or that tifffile would transform.
    """
    _refuse_other_files(tif, path)
    if not tif.series:
        raise InputError(f"{path} holds no image")
    levels = tif.series[0].levels
    if not 0 <= level < len(levels):
        sizes = ", ".join(
            f"{i} ({one.keyframe.imagelength} x {one.keyframe.imagewidth})"
            for i, one in enumerate(levels)
        )
        raise ConfigError(f"{path} has no level {level}; its levels are {sizes}")
    series = levels[level]
    if series.is_multifile:
        raise InputError(f"{path} keeps pixels in other files; save it as one file first")
    if getattr(series, "transform", None) is not None:
        raise InputError(
            f"{path} stores {series.kind} pixels that must be transformed; convert it first"
        )
    return series


def _refuse_other_files(tif: Any, path: Path) -> None:
    """OME-XML may spread one image over files; only this one is read."""
    if not tif.is_ome or tif.series[0].kind == "ome":
        return
    names = set(re.findall(r'FileName="([^"]*)"', tif.ome_metadata or "")) - {path.name}
    if names:
        raise InputError(
            f"{path}: its OME-XML keeps pixels in {len(names)} other file(s), the first "
            f"{min(names)!r}; save the image as one file first"
        )


def open_tiff(path: Path) -> Any:
    """The file as tifffile sees it; other files that it names are not opened."""
    return tifffile.TiffFile(path, _multifile=False)
