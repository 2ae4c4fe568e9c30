"""What a TIFF output will be: tile shape, codec, meaning of its samples; pure.

=============  ======================================================================
raster axes    in the TIFF
=============  ======================================================================
y, x           a page of tiles
... y x        a page for each plane; the first page says the shape, as tifffile does
... s y x      planar: the samples of a page are stored one after another
y x s          interleaved samples
=============  ======================================================================
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tileconv.core.grid import Shape, TileGrid, align_down, align_up
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError, InputError
from tileconv.stores.layout import Layout
from tileconv.stores.tiff.compression import CODECS, Codec, checked_codec, predictor
from tileconv.stores.tiff.directory import FileMap, Page, file_map
from tileconv.stores.tiff.tags import TiffTags

TILE = 512
TILE_MAX = 4096
TILE_BYTES_MAX = 8 << 20
"""A tile of many samples is made smaller than 512 pixels until it has at most these bytes."""

BATCH_BYTES = 4 << 20
"""Encoded tiles that one call of `write` gathers before they go to the file, side by side."""

_LIMIT = 2**32 - 1
_SAMPLES_LIMIT = 2**16 - 1
_BLACK, _RGB, _YCBCR = 1, 2, 6
_COLOURS = {0: 1, _BLACK: 1, _RGB: 3, 5: 4, 8: 3, 9: 3}
"""Colour samples of each photometric interpretation that raw samples can have."""


def tiff_layout(
    raster: Raster,
    *,
    compression: str | None = None,
    level: int | None = None,
    chunk: int | None = None,
    tags: TiffTags | None = None,
) -> Layout:
    """How a raster is stored as TIFF.

    Parameters
    ----------
    raster : Raster
        Shape, dtype and axes of the output.
    compression : str or None
        ``"deflate"`` (the default), ``"none"``, ``"lzw"`` or ``"zstd"``.
    level : int or None
        From 1; None for the codec's default (deflate 6, zstd 3).
    chunk : int or None
        Side of a TIFF tile; None for 512, less where a pixel has very many bytes.
    tags : TiffTags or None
        Tags carried over from the input.

    Raises
    ------
    ConfigError
        Unknown compression, level out of range, a side that is no multiple of 16, or a dtype
        that TIFF cannot hold.
    InputError
        An empty raster, or one beyond what TIFF can count.
    """
    name = "deflate" if compression is None else compression
    codec, level = checked_codec(name, level)
    _check_dtype(raster.dtype)
    _check_shape(raster)
    tile = _tile_shape(raster, chunk)
    stored = replace(raster, chunk=tile, chunk_planes=1, compression=name, table_bytes=0)
    draft = Layout(
        format="tiff",
        raster=stored,
        unit=tile,
        compression=name,
        level=level,
        write_bytes=0,
        table_bytes=0,
        max_bytes=0,
        metadata=tags,
    )
    tiles = len(TileGrid(raster.spatial, tile, raster.planes))
    _check_count(tiles // tiff_page(draft).pages, "tiles on a page")
    places = tiff_map(draft)
    return replace(
        draft,
        write_bytes=_write_bytes(codec, draft),
        # Offset, length and part of each tile.
        table_bytes=20 * tiles + len(places.values),
        max_bytes=places.data_at + tiles * codec.bound(stored.chunk_bytes),
    )


def tiff_map(layout: Layout) -> FileMap:
    """Which bytes of the TIFF go where."""
    return file_map(tiff_page(layout))


def _check_dtype(dtype: np.dtype) -> None:
    """Refuse what no SampleFormat stands for; bool is one, being 1 bit in TIFF and 8 in numpy."""
    sizes = {"u": (1, 2, 4, 8), "i": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
    if dtype.itemsize not in sizes.get(dtype.kind, ()):
        instead = {"b": "uint8", "f": "float64", "c": "complex128"}.get(dtype.kind, "float32")
        raise ConfigError(f"TIFF cannot hold {dtype.name}; convert to {instead}, or write a .zarr")


def _check_shape(raster: Raster) -> None:
    """Refuse the empty and what its tags cannot count."""
    if 0 in raster.shape:
        raise InputError(
            f"the output has the shape {raster.shape}, and TIFF has no empty raster; "
            "write it as .zarr"
        )
    rows, columns = raster.spatial
    _check_count(rows, "rows")
    _check_count(columns, "columns")
    if len(raster.sample_shape) > 1:
        raise InputError(
            f"a pixel has the axes {raster.dims[raster.y_axis + 2 :]}, and TIFF has one axis "
            "of samples; write it as .zarr"
        )
    samples = tiff_samples(raster)
    if samples > _SAMPLES_LIMIT:
        raise InputError(
            f"{samples} samples at a pixel are more than TIFF's {_SAMPLES_LIMIT}; write .zarr"
        )


def _check_count(count: int, what: str) -> None:
    if count > _LIMIT:
        raise InputError(f"{count} {what} are more than TIFF's {_LIMIT}; write it as .zarr")


def _tile_shape(raster: Raster, side: int | None) -> Shape:
    """The tile asked for, no larger than the raster needs. TIFF wants multiples of 16."""
    if side is None:
        side = TILE
        while side > 16 and side * side * raster.pixel_bytes > TILE_BYTES_MAX:
            side = align_down(side // 2, 16)
    elif side % 16 or not 16 <= side <= TILE_MAX:
        raise ConfigError(
            f"output.tile {side} is no side of a TIFF tile; use a multiple of 16 up to {TILE_MAX}"
        )
    rows, columns = raster.spatial
    return min(side, align_up(rows, 16)), min(side, align_up(columns, 16))


def _write_bytes(codec: Codec, layout: Layout) -> int:
    """Most memory of one call of `write`: it encodes tile by tile and keeps a batch.

    The batch and the tile that fills it, a tile of pixels, and what encoding it takes.
    """
    tile_bytes = layout.raster.chunk_bytes
    # Differences are taken on the way into the tile, those of floats in a copy.
    pixels = tile_bytes * (2 if predictor(layout.raster.dtype, layout.compression) == 3 else 1)
    working = codec.working_bytes(layout.level, tile_bytes)
    return BATCH_BYTES + codec.bound(tile_bytes) + pixels + working


def _is_planar(raster: Raster) -> bool:
    """Whether the last plane axis is one of samples, stored in one page."""
    return raster.dims[raster.y_axis - 1 : raster.y_axis] == ("s",) and not raster.sample_shape


def tiff_samples(raster: Raster) -> int:
    """Samples at a pixel of a page, planar or interleaved."""
    return raster.plane_shape[-1] if _is_planar(raster) else raster.samples


def _photometric(raster: Raster, tags: TiffTags) -> int:
    """What the samples mean: what the input says where that is still true, else a guess.

    YCbCr arrives here decoded to RGB. Palette indices and other meanings end with the
    raster that had them: their numbers are plain values here.
    """
    samples, small = tiff_samples(raster), raster.dtype in (np.uint8, np.uint16)
    said = tags.photometric
    if said is None:
        named = _is_planar(raster) or raster.dims[-1] == "s"
        return _RGB if named and samples in (3, 4) and small else _BLACK
    if said in (_RGB, _YCBCR):
        return _RGB if samples >= _COLOURS[_RGB] else _BLACK
    if said == 0:
        return said
    return said if small and samples >= _COLOURS.get(said, _SAMPLES_LIMIT + 1) else _BLACK


def _extra_samples(raster: Raster, tags: TiffTags, photometric: int) -> tuple[int, ...]:
    """Meaning of each sample beyond the colours: as the input says, alpha after RGB, or none."""
    extra = tiff_samples(raster) - _COLOURS[photometric]
    if len(tags.extrasamples) == extra:
        return tags.extrasamples
    return (2,) if extra == 1 and photometric == _RGB else (0,) * extra


def _shape_axes(raster: Raster) -> tuple[tuple[int, ...], str] | None:
    """Shape and axes to be written down, or None where the page itself says them."""
    planes = raster.plane_shape[:-1] if _is_planar(raster) else raster.plane_shape
    plain = not planes and tiff_samples(raster) > 1
    if plain or len(raster.shape) == 2:
        return None
    letters = all(len(name) == 1 for name in raster.dims)
    return raster.shape, "".join(raster.dims).upper() if letters else ""


def tiff_page(layout: Layout) -> Page:
    """The directory of every page, as values."""
    raster, tile = layout.raster, layout.unit
    tags = layout.metadata if isinstance(layout.metadata, TiffTags) else TiffTags()
    photometric = _photometric(raster, tags)
    planar = _is_planar(raster)
    samples = tiff_samples(raster)
    down, across = TileGrid(raster.spatial, tile).grid_shape
    return Page(
        pages=math.prod(raster.plane_shape[:-1]) if planar else raster.planes,
        tiles=down * across * (samples if planar else 1),
        spatial=raster.spatial,
        tile=tile,
        dtype=raster.dtype,
        samples=samples,
        planar=planar,
        compression=CODECS[layout.compression].tag,
        predictor=predictor(raster.dtype, layout.compression),
        photometric=photometric,
        extra_samples=_extra_samples(raster, tags, photometric),
        shape_axes=_shape_axes(raster),
        carried=tags.entries,
    )
