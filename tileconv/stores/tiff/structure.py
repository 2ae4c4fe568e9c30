"""Opening a TIFF: its image series and level found.

tifffile finds the pages that make up an image and names their axes; what it would pass
over with a line in a log (a broken chain, a tag that cannot be read, another file named
inside this one) is an error here.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import tifffile

from tileconv.errors import ConfigError, InputError, one_line

# Tags that say where pixels are and how they are stored; a broken one is an error, while a
# broken private tag (a camera's notes) says nothing about pixels.
_LAYOUT_TAGS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325),
    *(330, 338, 339, 347, 529, 530, 32997, 32998, 34020, 34022),
}


MAX_PLANES = 1_000_000
"""Most planes of one image that a description may speak of."""

_BROKEN = re.compile(
    "corrupted tag list|invalid offset to page|invalid page offset|circular|corrupted file"
)


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
        if (tag and int(tag[1]) in _LAYOUT_TAGS) or _BROKEN.search(message):
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
    if tif.is_ome:
        _refuse_absurd_ome(tif, path)
    if tif.is_ndtiff:
        raise InputError(
            f"{path} is one file of an NDTiff data set, whose index is another; "
            "save the image as one file first"
        )
    # Micro-Manager's own metadata may lead to the other files of a stack; its OME-XML is enough.
    tif.is_mmstack = False
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
    if not series.is_truncated and len(series) > max(MAX_PLANES, len(tif.pages)):
        raise InputError(
            f"{path} describes {len(series)} planes, more than {MAX_PLANES} and than its "
            f"{len(tif.pages)} pages; write it again"
        )
    if series.is_multifile:
        raise InputError(f"{path} keeps pixels in other files; save it as one file first")
    if getattr(series, "transform", None) is not None:
        raise InputError(
            f"{path} stores {series.kind} pixels that must be transformed; convert it first"
        )
    return series


def _refuse_absurd_ome(tif: Any, path: Path) -> None:
    """OME-XML may ask for any number of planes; tifffile makes a list of them at once."""
    try:
        # Entities were refused before.
        root = ET.fromstring(tif.ome_metadata)  # noqa: S314
    except ET.ParseError:
        return
    page = max(1, tif.pages.first.imagelength * tif.pages.first.imagewidth)
    for element in root.iter():
        kind = str(element.tag).rpartition("}")[2]
        values = dict(element.attrib)
        if kind == "Pixels":
            sizes = [int(values.get(f"Size{axis}", 1)) for axis in "XYZCT"]
            planes = math.prod(sizes) // page
        elif kind == "TiffData":
            names = ("PlaneCount", "NumPlanes", "FirstZ", "FirstC", "FirstT")
            planes = max(int(values.get(name, 0)) for name in names)
        elif kind.startswith("ModuloAlong") and "Start" in values:
            start, stop, step = (float(values.get(name, 1)) for name in ("Start", "End", "Step"))
            planes = int((stop - start) / step)
        else:
            continue
        if planes > MAX_PLANES:
            raise InputError(
                f"{path}: its OME-XML describes {planes} planes in {kind}, more than {MAX_PLANES}; "
                "write it again"
            )


def _refuse_other_files(tif: Any, path: Path) -> None:
    """OME-XML may spread one image over files; only this one is read."""
    if not tif.is_ome or tif.series[0].kind == "ome":
        return
    found = re.findall(r"""FileName\s*=\s*(?:"([^"]*)"|'([^']*)')""", tif.ome_metadata or "")
    names = {double or single for double, single in found} - {path.name}
    if names:
        raise InputError(
            f"{path}: its OME-XML keeps pixels in {len(names)} other file(s), the first "
            f"{min(names)!r}; save the image as one file first"
        )


def open_tiff(path: Path) -> Any:
    """The file as tifffile sees it; other files that it names are not opened."""
    return tifffile.TiffFile(path, _multifile=False)
