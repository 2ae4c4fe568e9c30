"""One image of a TIFF at one level: shape, axes, byte ranges and decoder, without a handle."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tileconv.errors import BadChunkError, InputError, one_line
from tileconv.stores.tiff.chain import PageChain
from tileconv.stores.tiff.pages import Geometry, SegmentTable, is_raw
from tileconv.stores.tiff.structure import (
    choose_level,
    log_is_error,
    open_tiff,
)
from tileconv.stores.tiff.tags import TiffTags, read_tags

MAX_UNLISTED = 1_000_000
"""Segments the geometry may ask for beyond those the file lists; more is no sparse file."""

MAX_SEGMENT_BYTES = 1 << 31
"""Decoded size above which a segment must not be larger than the image it belongs to."""

# What tifffile takes for a file while it is opened, measured on 2.4 million tiles (two Python
# integers in two tuples for each) and on 3,000 pages; little of it is left afterwards, but the
# peak is what counts (2026-11, tifffile 2026.3.3 and 2026.11.8).
_OPENING_BYTES_PER_SEGMENT = 80
_OPENING_BYTES_PER_PAGE = 8 << 10

# What may run on a file's word: all that tifffile decodes by imagecodecs' open codecs.
_COMPRESSIONS = {
    *(1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 33003, 33004, 33005, 33007, 34712, 34887, 34892),
    *(34925, 34926, 34927, 34933, 34934, 22610, 50000, 50001, 50002, 52546, 65000, 65001, 65002),
}

_NAMES = {"adobe_deflate": "deflate", "pixar_deflate": "deflate"}


@dataclass(frozen=True, slots=True, eq=False)
class TiffImage:
    """Everything needed to read an image's segments.

    Parameters
    ----------
    path : Path
    size : int
        Of the file, in bytes.
    shape, dims, dtype
        Of the raster, see `tileconv.core.raster.Raster`.
    geometry : Geometry
        Of every page.
    table : SegmentTable
    page_names : tuple of str
        What people call each page.
    stored_dtype : numpy.dtype
        `dtype` in the file's byte order.
    raw : bool
        Whether bytes are samples.
    bits : int
        Bits of a stored sample.
    code : int
        TIFF's number for the compression.
    compression : str
        Its name, lower case.
    nodata : number
        Value of absent segments.
    decode : callable
        tifffile's decoder of a segment, free of state.
    decode_options : tuple of dict
        JPEG tables and header for each page; empty where there are none.
    tags : TiffTags
    memory_bytes : int
        Memory that opening the file takes and that is kept.
    """

    path: Path
    size: int
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype
    geometry: Geometry
    table: SegmentTable
    page_names: tuple[str, ...]
    stored_dtype: np.dtype
    raw: bool
    bits: int
    code: int
    compression: str
    nodata: float
    decode: Callable[..., Any]
    decode_options: tuple[dict[str, Any], ...]
    tags: TiffTags
    memory_bytes: int

    def segment_name(self, page: int, index: int) -> str:
        """A segment as people find it: file, page, number and place."""
        geometry = self.geometry
        _, _, row, column = np.unravel_index(index, (geometry.separate, *geometry.grid))
        where = f" (row {row}, column {column})" if geometry.tiled else ""
        return f"{self.path}: {self.page_names[page]}, {geometry.kind} {index}{where}"

    def bad_segment(self, page: int, index: int, what: str) -> BadChunkError:
        """The error about a segment: its name, its bytes, and what is wrong with them."""
        offset, count = (int(of[page, index]) for of in (self.table.offsets, self.table.counts))
        where = "" if count == SegmentTable.UNLISTED else f", bytes {offset} to {offset + count},"
        return BadChunkError(
            f"{self.segment_name(page, index)}{where} {what}; restore the file or write it again"
        )


def read_image(file: BinaryIO, path: Path, size: int, level: int) -> TiffImage:
    """Read and check the structure of a file's first image at a pyramid `level`.

    Raises
    ------
    ConfigError
        For a level that does not exist.
    InputError
        For what is no TIFF, is damaged, or holds pixels that cannot be read.
    """
    chain = PageChain(file, path, size)
    with log_is_error(path), open_tiff(path) as tif:
        series = choose_level(tif, path, level)
        if not tif.is_ndpi:
            pages = [series.keyframe, *([] if series.is_truncated else series)]
            chain.require_alike(page.offset for page in pages if page is not None)
        return _image_of(tif, series, path, size)


def _image_of(tif: Any, series: Any, path: Path, size: int) -> TiffImage:
    keyframe = series.keyframe
    raw = is_raw(keyframe)
    if series.is_truncated:
        pages = [keyframe]
        geometry, table = _one_block(series, path, size)
    else:
        pages = list(series)
        geometry, table = _listed_segments(pages, keyframe, path, size, raw=raw)
    shape, dims = _axes(series, geometry, len(pages), path)
    decode = _decoder(keyframe, geometry, path)
    name = str(getattr(keyframe.compression, "name", keyframe.compression)).lower()
    image = TiffImage(
        path=path,
        size=size,
        shape=shape,
        dims=dims,
        dtype=np.dtype(keyframe.dtype).newbyteorder("="),
        geometry=geometry,
        table=table,
        page_names=tuple(_page_name(page) for page in pages),
        stored_dtype=np.dtype(keyframe.dtype).newbyteorder(tif.byteorder),
        raw=raw,
        bits=keyframe.bitspersample if isinstance(keyframe.bitspersample, int) else 1,
        code=int(keyframe.compression),
        compression=_NAMES.get(name, name),
        nodata=keyframe.nodata,
        decode=decode,
        decode_options=tuple(_options(page, keyframe) for page in pages),
        tags=read_tags(keyframe, path),
        memory_bytes=table.nbytes + _opening_bytes(tif),
    )
    _forget_tables(tif, pages)
    return image


def _one_block(series: Any, path: Path, size: int) -> tuple[Geometry, SegmentTable]:
    """A stack described by a single page: raw planes, one behind the other."""
    if not series.dataoffset or series.dataoffset + series.nbytes > size:
        raise InputError(
            f"{path} describes an image of {series.nbytes} bytes that a file of {size} bytes "
            "does not hold; copy it again, or write it again"
        )
    separate, depth, rows, columns, samples = series.keyframe.shaped
    repeats = series.size // math.prod(series.keyframe.shaped)
    geometry = Geometry(
        separate * repeats, depth, rows, columns, samples, tiled=False, segment=(1, rows, columns)
    )
    table = SegmentTable.empty(1, geometry.segments, size)
    plane = series.nbytes // geometry.segments
    starts = series.dataoffset + plane * np.arange(geometry.segments, dtype=np.int64)
    table.fill(0, starts, np.full(geometry.segments, plane))
    return geometry, table


def _listed_segments(
    pages: list[Any], keyframe: Any, path: Path, size: int, *, raw: bool
) -> tuple[Geometry, SegmentTable]:
    """The segments that each page lists."""
    geometry = Geometry.of_page(keyframe)
    _refuse_absurd(geometry, pages, keyframe, path)
    table = SegmentTable.empty(len(pages), geometry.segments, size)
    for number, page in enumerate(pages):
        if page is None:
            continue
        offsets, counts = page.dataoffsets, page.databytecounts
        if len(offsets) == 0 and geometry.segments > 0:
            raise InputError(f"{path}: {_page_name(page)} does not say where its pixels are")
        if raw and geometry.segments == 1 and len(offsets) == 1 and any(offsets) > any(counts):
            # Old writers leave out the length of a single raw strip; it is known.
            counts = (math.prod(keyframe.shaped) * keyframe.dtype.itemsize,)
        table.fill(number, offsets, counts)
    return geometry, table


def _axes(
    series: Any, geometry: Geometry, pages: int, path: Path
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Shape and axis names of the raster, checked against what the pages hold."""
    shape, letters = tuple(int(n) for n in series.shape), series.axes.lower()
    described = f"{path} has axes {series.axes} of lengths {shape}"
    y = letters.find("yx")
    if y < 0 or letters.count("y") != 1:
        raise InputError(f"{described}; an image with y followed by x is needed")
    stored = (pages * geometry.planes, geometry.rows, geometry.columns, geometry.samples)
    if (math.prod(shape[:y]), *shape[y : y + 2], math.prod(shape[y + 2 :])) != stored:
        raise InputError(
            f"{described}, but its pages hold {stored[0]} planes of "
            f"{stored[1]} x {stored[2]} x {stored[3]} samples; write it again"
        )
    if letters[y + 2 :] == "q":  # of length one, which tifffile does not take for samples
        letters = letters[:-1] + "s"
    names: list[str] = []
    for letter in letters:
        plain = letter if letter in string.ascii_lowercase else "q"
        repeat = sum(name.rstrip(string.digits) == plain for name in names)
        names.append(f"{plain}{repeat + 1}" if repeat else plain)
    return shape, tuple(names)


def _refuse_absurd(geometry: Geometry, pages: list[Any], keyframe: Any, path: Path) -> None:
    if keyframe.dtype is None:
        raise InputError(
            f"{path} stores {keyframe.bitspersample}-bit samples of format "
            f"{keyframe.sampleformat}, which numpy cannot hold; convert it first"
        )
    if int(keyframe.compression) not in _COMPRESSIONS:
        raise InputError(
            f"{path} is compressed with method {int(keyframe.compression)}, which tileconv does "
            "not decode; convert it first"
        )
    needed = len(pages) * geometry.segments
    listed = sum(len(page.dataoffsets) for page in pages if page is not None)
    if needed - listed > MAX_UNLISTED:
        raise InputError(
            f"{path} has a geometry of {needed} {geometry.kind}s but lists {listed}; "
            "its geometry cannot be right"
        )
    segment = math.prod(geometry.segment) * geometry.samples * keyframe.dtype.itemsize
    page_bytes = math.prod(keyframe.shaped) * keyframe.dtype.itemsize
    if segment > MAX_SEGMENT_BYTES and segment > 4 * page_bytes:
        raise InputError(
            f"{path} has {geometry.kind}s of {segment} bytes in pages of {page_bytes}; "
            "its geometry cannot be right"
        )


def _decoder(keyframe: Any, geometry: Geometry, path: Path) -> Callable[..., Any]:
    """The decoder, made here because making it is not thread-safe, and tried on nothing."""
    if geometry.rows * geometry.columns == 0:
        return lambda *_args, **_options: None
    try:
        decode: Callable[..., Any] = keyframe.decode
        decode(None, 0)
    except Exception as error:
        raise InputError(
            f"{path} cannot be decoded: {one_line(error)}; convert it first"
        ) from error
    return decode


def _options(page: Any, keyframe: Any) -> dict[str, Any]:
    named = {
        "jpegtables": None if page is None else page.jpegtables,
        "jpegheader": keyframe.jpegheader,
    }
    return {name: value for name, value in named.items() if value is not None}


def _page_name(page: Any) -> str:
    if page is None:
        return "a page the file does not hold"
    first, *below = page.treeindex
    return f"page {first}" + "".join(f", SubIFD {index}" for index in below)


def _opening_bytes(tif: Any) -> int:
    """Memory that tifffile takes for every page of the file, whichever image is read."""
    levels = [level for series in tif.series for level in series.levels]
    pages = max(len(tif.pages), sum(len(level) for level in levels))
    segments = sum(len(level) * len(level.keyframe.dataoffsets) for level in levels)
    return pages * _OPENING_BYTES_PER_PAGE + segments * _OPENING_BYTES_PER_SEGMENT


def _forget_tables(tif: Any, pages: list[Any]) -> None:
    """Let go of tifffile's own tables: the decoder keeps its page, and that the file."""
    keyframes = [level.keyframe for series in tif.series for level in series.levels]
    held = [page for page in (*pages, *keyframes, *tif.pages) if page is not None]
    for page in {id(page): page for page in held}.values():
        page.dataoffsets = page.databytecounts = ()
        for code in (273, 279, 324, 325):
            if code in getattr(page, "tags", ()):
                del page.tags[code]
