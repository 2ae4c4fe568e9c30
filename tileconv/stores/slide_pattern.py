"""The made-up slide: stained tissue on glass, any part of it, from integers alone.

A pixel is a function of its place, the raster's shape and the seed. Nothing is rounded by a
machine's own library, so every machine makes the same raster; and nothing is remembered, so
any window is made without the rest of it.

From coarse to fine::

    outline    an ellipse in the raster, frayed by noise            lattice of 32 pixels
    lumen      holes in the tissue, as of glands and vessels        lattice of 32 pixels
    pink       how strongly the tissue is stained                   lattice of 32 pixels
    fibres     texture along lines that bend                        cells of 16 x 64, 8 x 16
    nuclei     ellipses, crowded around lumina                      cells of 16 and of 32 pixels
    grain      noise of every pixel, as a sensor's

Stains absorb light (Beer and Lambert): a level is ``exp(-density)``, by channel, with the
colours of haematoxylin and eosin about as Ruifrok and Johnston (2001) measured them.

The loops over pixels say `int32` at every step: numba widens each product and sum to 64 bits,
in which no processor multiplies several at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tileconv.core.compiling import compiled

LATTICE = 32
_BITS = 5
_OUTLINE, _LUMEN, _PINK = range(3)

# Optical density of a full stain in red, green, blue, and in grey, in 1/256.
_STAINS = np.array(
    [[42, 200, 104, 150], [176, 196, 96, 200]],  # eosin, haematoxylin
    np.int32,
)

_i32: Any = np.int32
_u32: Any = np.uint32


@compiled
def _hash(seed: int, y: int, x: int) -> int:
    """31 bits that differ for every lattice point; int64 arithmetic that wraps."""
    h = seed * 0x5851F42D4C957F2D + y * -0x61C8864680B583EB + x * -0x3D4D51C2D82B14B1
    h ^= (h >> 32) & 0xFFFFFFFF
    h *= 0x2545F4914F6CDD1D
    h ^= (h >> 29) & 0x7FFFFFFFF
    h *= 0x369DEA0F31A53F85
    return (h >> 33) & 0x7FFFFFFF


@compiled
def _clip(value: Any, low: Any, high: Any) -> Any:
    """`value` within ``low .. high``, all int32."""
    return min(max(value, low), high)


@compiled
def _scaled(a: Any, b: Any, bits: int) -> Any:
    """``(a * b) >> bits`` in int32."""
    return _i32(_i32(a * b) >> bits)


@compiled
def _noise(seed: int, y: int, x: int, size: int) -> Any:
    """Value noise in -2040 .. 2040 with smooth cells of `size` pixels, at one point."""
    iy, ix = y // size, x // size
    ty, tx = (y - iy * size) * 256 // size, (x - ix * size) * 256 // size
    ty, tx = (ty * ty * (768 - 2 * ty)) >> 16, (tx * tx * (768 - 2 * tx)) >> 16
    top = (_hash(seed, iy, ix) & 255) * (256 - tx) + (_hash(seed, iy, ix + 1) & 255) * tx
    iy += 1
    low = (_hash(seed, iy, ix) & 255) * (256 - tx) + (_hash(seed, iy, ix + 1) & 255) * tx
    return ((top * (256 - ty) + low * ty) >> 12) - 2040


_BEND_MAX = 896


@compiled
def _bend(seed: int, at: int) -> int:
    """How far the texture is moved at a place along the other axis; its slope stays below 1."""
    total = 0
    for octave in range(3):
        bits = 10 - octave
        cell, t = at >> bits, at & ((1 << bits) - 1)
        a = _hash(seed + octave, 0, cell) & ((1 << bits) - 1)
        b = _hash(seed + octave, 0, cell + 1) & ((1 << bits) - 1)
        t = (t << 8) >> bits
        t = (t * t * (768 - 2 * t)) >> 16
        total += ((a << 8) + (b - a) * t) >> 9
    return total


@compiled
def _glands(seed: int, y: int, x: int, size: int) -> tuple[int, int]:
    """What varies from region to region, and a field that is high in lumina and around them."""
    region = _noise(seed + 4, y, x, size // 7 + 200)
    y, x = y + _bend(seed + 16, x), x + _bend(seed + 17, y)
    return region, _noise(seed + 5, y, x, 430) + _noise(seed + 6, y, x, 140) // 4 + region // 3


@compiled
def _crowding(seed: int, y: int, x: int, size: int) -> Any:
    """How many of 512 cells have a nucleus, at one point."""
    region, gland = _glands(seed, y, x, size)
    lining = max(700 - abs(gland - 1000), 0)
    return 90 + (_noise(seed + 8, y, x, 500) - region) // 16 + lining // 3


@compiled
def _fields(seed: int, y: int, left: int, height: int, width: int, out: np.ndarray) -> None:
    """Coarse fields on one row of the lattice, from lattice column `left` on.

    `_OUTLINE` is 0 on the tissue's edge and grows inwards, about 4096 to the centre;
    `_LUMEN` is 0 on the edge of a hole and grows into it.
    """
    y = min(max(y, 0), height)
    size = max(min(height, width), 64)
    dy = (2 * y - height) * 4096 // max(height, 1)
    for i in range(out.shape[1]):
        x = min(max((left + i) * LATTICE, 0), width)
        dx = (2 * x - width) * 4096 // max(width, 1)
        broad = _noise(seed + 1, y, x, size // 3)
        fine = _noise(seed + 2, y, x, size // 11)
        frayed = _noise(seed + 3, y, x, 300)
        edge = 2900 - ((dx * dx + dy * dy) >> 12) + broad // 2 + fine // 3 + frayed // 12
        region, gland = _glands(seed, y, x, size)
        out[_OUTLINE, i] = edge
        out[_LUMEN, i] = gland - 1500
        out[_PINK, i] = 128 + (region + fine) // 70 + _noise(seed + 7, y, x, 900) // 50


@compiled
def _spread(top: np.ndarray, low: np.ndarray, y: int, x0: int, out: np.ndarray) -> None:
    """One pixel row of a field, between two rows of its lattice."""
    down = y & (LATTICE - 1)
    left = x0 >> _BITS
    i = 0
    while i < out.size:
        x = x0 + i
        at = (x >> _BITS) - left
        n = min(out.size - i, LATTICE - (x & (LATTICE - 1)))
        a = top[at] * (LATTICE - down) + low[at] * down
        step = top[at + 1] * (LATTICE - down) + low[at + 1] * down - a
        first = _i32(a * LATTICE + step * (x & (LATTICE - 1)))
        slope = _i32(step)
        part = out[i : i + n]
        for k in range(n):
            part[k] = _i32(first + _i32(slope * _i32(k))) >> (2 * _BITS)
        i += n


@compiled
def _strand(seed: int, y: int, column: int, high: int) -> Any:
    """Noise in 0 .. 255 along one lattice column, in cells ``2**high`` pixels high."""
    row, t = y >> high, ((y & ((1 << high) - 1)) << 8) >> high
    a, b = _hash(seed, row, column) & 255, _hash(seed, row + 1, column) & 255
    return a + (((b - a) * t) >> 8)


@compiled
def _fibres(  # noqa: PLR0913, PLR0917 - Numba passes arguments by position
    seed: int, y: int, x0: int, bits: int, high: int, bends: np.ndarray, out: np.ndarray
) -> None:
    """Add one row of noise in 0 .. 255, in cells ``2**bits`` wide that follow the bends."""
    size = 1 << bits
    origin = x0 >> 4
    i = 0
    right = _strand(seed, y + bends[((x0 >> bits) << bits >> 4) - origin + 4], x0 >> bits, high)
    while i < out.size:
        x = x0 + i
        column = (x >> bits) + 1
        n = min(out.size - i, size - (x & (size - 1)))
        left = right
        right = _strand(seed, y + bends[(column << bits >> 4) - origin + 4], column, high)
        first = _i32((left << bits) + (right - left) * (x & (size - 1)))
        slope = _i32(right - left)
        part = out[i : i + n]
        for k in range(n):
            part[k] += _i32(first + _i32(slope * _i32(k))) >> bits
        i += n


@compiled
def _place(  # noqa: PLR0913, PLR0917 - Numba passes arguments by position
    seed: int, row: int, column: int, bits: int, bend: int, size: int, cell: np.ndarray
) -> None:
    """Work out a cell: `cell` becomes its row, then ry, cy, rx, cx, dark; ry 0 for an empty one.

    The nucleus, centre and half axes, lies within the cell.
    """
    side = 1 << bits
    h = _hash(seed + 40 + bits, row, column)
    y = (row << bits) + (side >> 1) - bend
    x = (column << bits) + (side >> 1) - _bend(seed + 15, y)
    cell[0], cell[1] = row, 0
    if (h & 511) < _crowding(seed, y, x, size):
        # Half axes between 1/5 and 3/8 of the cell.
        ry = side // 5 + 1 + (((h >> 9) & 15) * side * 11 >> 10)
        rx = side // 5 + 1 + (((h >> 13) & 15) * side * 11 >> 10)
        cell[1], cell[2] = ry, ry + (((h >> 19) & 63) * (side - 2 * ry) >> 6)
        cell[3], cell[4] = rx, rx + (((h >> 25) & 63) * (side - 2 * rx) >> 6)
        cell[5] = 130 + ((h >> 5) & 63)


@compiled
def _nuclei(  # noqa: PLR0913, PLR0917 - Numba passes arguments by position
    seed: int, y: int, x0: int, bits: int, size: int, cells: np.ndarray, out: np.ndarray
) -> None:
    """Draw one pixel row of the nuclei of cells of ``2**bits`` pixels: how dark, 0 .. 255.

    Rows of cells follow the fibres' bends, columns of cells sway, so that no grid shows.
    `cells` remembers each column's cell from one pixel row to the next.
    """
    side = 1 << bits
    first = x0 >> bits
    x0 += _bend(seed + 15, y)
    for column in range(x0 >> bits, ((x0 + out.size - 1) >> bits) + 1):
        cell = cells[column - first]
        bend = cell[6]
        row = (y + bend) >> bits
        if cell[0] != row:
            _place(seed, row, column, bits, bend, size, cell)
        ry, rx = cell[1], cell[3]
        dy = ((y + bend) & (side - 1)) - cell[2]
        if abs(dy) >= ry:
            continue
        centre = (column << bits) - x0 + cell[4]
        a, b = max(centre - rx, 0), min(centre + rx + 1, out.size)
        if a < b:
            _ellipse(
                _i32(a - centre), _i32(256 - dy * dy * 256 // (ry * ry)), rx, cell[5], out[a:b]
            )


@compiled
def _columns(seed: int, x0: int, columns: int, bits: int) -> np.ndarray:
    """A cell for each column of cells that the window can cross: no row yet, and its bend."""
    first = x0 >> bits
    count = ((x0 + columns + _BEND_MAX) >> bits) + 1 - first
    # Zeros, not what memory held: a radius is divided by before its row is known.
    cells = np.zeros((count, 7), np.int64)
    for i in range(count):
        cells[i, 0] = -(1 << 62)
        bend = _bend(seed + 11, (first + i) << bits)
        cells[i, 6] = bend + (_hash(seed + 50 + bits, 0, first + i) & ((1 << bits) - 1))
    return cells


@compiled
def _ellipse(first: int, rest: int, rx: int, dark: int, out: np.ndarray) -> None:
    """One pixel row of a nucleus: pale inside, dark at the membrane, a soft rim."""
    scale, full = _i32((256 << 12) // (rx * rx)), _i32(dark + 50)
    for i in range(out.size):
        dx = _i32(first + _i32(i))
        # 256 in the centre, 0 on the rim.
        depth = _i32(rest - _scaled(_i32(dx * dx), scale, 12))
        shade = _clip(_i32(depth * 4), _i32(0), _i32(full - _i32(depth >> 2)))
        out[i] = max(out[i], shade)


@compiled
def _stain(lines: np.ndarray, eosin: np.ndarray, haematoxylin: np.ndarray) -> None:
    """Stains of one row, in 0 .. about 400, from its outline, lumen, pink, fibres and nuclei."""
    outline, lumen, pink, fibres, nuclei = lines[0], lines[1], lines[2], lines[3], lines[4]
    for i in range(eosin.size):
        texture = _i32(fibres[i] - 255)
        tissue = _clip(_i32(outline[i] + texture), _i32(0), _i32(256))
        hole = _clip(_i32(_i32(lumen[i] * 2) + texture), _i32(0), _i32(256))
        tissue = _scaled(tissue, _i32(256 - hole), 8)
        full = _i32(pink[i] + _i32(texture >> 2))
        eosin[i] = _scaled(tissue, full, 8)
        dark = _i32(nuclei[i] + _i32(_i32(texture >> 4) + 18))
        haematoxylin[i] = _scaled(tissue, dark, 8)


@compiled
def _expose(
    eosin: np.ndarray,
    haematoxylin: np.ndarray,
    stains: np.ndarray,
    grain: int,
    x0: int,
    out: np.ndarray,
) -> None:
    """Levels of one channel of one row, 0 .. 4095: light through the stains, and grain."""
    pink, violet = _i32(stains[0]), _i32(stains[1])
    seed, first = _u32(grain), _u32(x0 & 0xFFFFFFFF)
    for i in range(out.size):
        density = _i32(_i32(eosin[i] * pink) + _i32(haematoxylin[i] * violet)) >> 4
        # exp(-d) is about (1 - d / 4) ** 4 for small d.
        light = _i32(4040 - _i32(_i32(density) >> 2))
        light = _scaled(light, light, 12)
        light = _scaled(light, light, 12)
        h = _u32(_u32(first + _u32(i)) * _u32(0x9E3779B1)) ^ seed
        h = _u32(_u32(h ^ (h >> _u32(15))) * _u32(0x85EBCA77))
        h = _u32(h ^ (h >> _u32(13)))
        noise = _i32(_i32((h >> _u32(8)) & _u32(255)) + _i32(h >> _u32(24)))
        # Glass is flat; what is stained scatters.
        strength = _clip(_i32(_i32(density >> 5) + 6), _i32(6), _i32(28))
        light = _i32(light + _scaled(_i32(noise - 255), strength, 7))
        out[i] = _clip(light, _i32(0), _i32(4095))


@compiled
def slide_levels(  # noqa: PLR0913, PLR0917 - Numba passes arguments by position
    y0: int, x0: int, height: int, width: int, seed: int, stains: np.ndarray, out: np.ndarray
) -> None:
    """Fill `out` with levels 0 .. 4095 of the rows and columns from ``(y0, x0)`` on.

    Parameters
    ----------
    y0, x0 : int
    height, width : int
        Of the whole raster, which the tissue fits.
    seed : int
    stains : ndarray of int32, shape (2, channels)
        From `slide_stains`.
    out : ndarray of uint16, shape (rows, columns, channels)
    """
    rows, columns, channels = out.shape
    left = x0 >> _BITS
    count = ((x0 + columns - 1) >> _BITS) - left + 2
    top = np.empty((3, count), np.int32)
    low = np.empty((3, count), np.int32)
    # Bends every 16 pixels, from the last multiple of 64 before the window to the next after.
    bends = np.empty((columns >> 4) + 12, np.int64)
    for i in range(bends.size):
        bends[i] = _bend(seed + 11, ((x0 >> 4) + i - 4) << 4)
    small = _columns(seed, x0, columns, 4)
    large = _columns(seed, x0, columns, 5)
    size = max(min(height, width), 64)
    lines = np.empty((5, columns), np.int32)
    eosin, haematoxylin = np.empty(columns, np.int32), np.empty(columns, np.int32)
    levels = np.empty(columns, np.int32)
    for row in range(rows):
        y = y0 + row
        if row == 0 or y & (LATTICE - 1) == 0:
            _fields(seed, (y >> _BITS) * LATTICE, left, height, width, top)
            _fields(seed, ((y >> _BITS) + 1) * LATTICE, left, height, width, low)
        for field in range(3):
            _spread(top[field], low[field], y, x0, lines[field])
        for i in range(columns):
            lines[3, i] = lines[4, i] = 0
        _fibres(seed + 21, y, x0, 6, 4, bends, lines[3])
        _fibres(seed + 31, y, x0, 4, 3, bends, lines[3])
        _nuclei(seed, y, x0, 4, size, small, lines[4])
        _nuclei(seed, y, x0, 5, size, large, lines[4])
        _stain(lines, eosin, haematoxylin)
        for channel in range(channels):
            grain = _hash(seed + 61, y, channel)
            _expose(eosin, haematoxylin, stains[:, channel], grain, x0, levels)
            for i in range(columns):
                out[row, i, channel] = levels[i]


def slide_stains(channels: int) -> np.ndarray:
    """Densities of the two stains in grey, for one channel, or in red, green and blue."""
    return np.ascontiguousarray(_STAINS[:, 3:] if channels == 1 else _STAINS[:, :3])
