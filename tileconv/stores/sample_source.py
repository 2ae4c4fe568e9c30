"""Made-up rasters of any size, any window of which is computed without the rest.

=========  ==================================================================================
slide      stained tissue on glass; see `tileconv.stores.slide_pattern`
step       two halves of ones: rows above the middle to column 0.4 w, the others to 0.6 w
zoneplate  rings whose frequency grows from the centre to half a cycle a pixel at the edge
=========  ==================================================================================

They are the same on every machine. `step` is 0 and 1 in every dtype. The other two have 4096
levels, which a dtype holds as a camera of 12 bits would fill it: at the top of 8 or 16 bits,
the same as 16 in wider integers, and 0 to 1 in floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tileconv.core.compiling import compiled
from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import ConfigError
from tileconv.stores.slide_pattern import slide_levels, slide_stains
from tileconv.stores.source import Source

STRIP_PIXELS = 1 << 18
"""Pixels a thread makes at a time: half a MiB of levels, that stay in a core's cache."""

LENGTH_MAX = 1 << 40
"""Most rows or columns, so that no product of coordinates leaves 64 bits."""

_LEVEL_BITS = 12


@dataclass(frozen=True, slots=True)
class _Strip:
    """A window of whole rows to be made: where it starts, in a raster of `shape`."""

    start: tuple[int, int]
    shape: tuple[int, int]
    seed: int


COMPILING_BYTES = 55 << 20
"""Memory that compiling a pattern takes and leaves taken: 51 MiB for the slide, Python 3.11
and 3.13, x86-64, 2026-11."""


class SampleSource(Source):
    """A made-up raster as a source of windows; see `tileconv.stores.source.Source`.

    Parameters
    ----------
    pattern : str
        ``"slide"``, ``"step"`` or ``"zoneplate"``.
    shape : (rows, columns) or (rows, columns, 3)
        With three samples the slide is in colour, the others repeat themselves.
    dtype : numpy.dtype or str
        Any integer or float.
    seed : int
        Chooses one of many slides; the others have no choice.

    Raises
    ------
    ConfigError
        Unknown pattern, or a shape, dtype or seed that is not allowed.
    """

    def __init__(
        self, pattern: str, shape: tuple[int, ...], dtype: np.dtype | str = "uint8", seed: int = 0
    ) -> None:
        if pattern not in _PATTERNS:
            raise ConfigError(f"unknown sample {pattern!r}; use one of {', '.join(_PATTERNS)}")
        if len(shape) not in (2, 3) or tuple(shape[2:]) not in ((), (1,), (3,)):
            raise ConfigError(
                f"a sample has a shape of rows x columns, or rows x columns x 3, not {shape}"
            )
        if min(shape) < 0 or max(shape) > LENGTH_MAX:
            raise ConfigError(f"a sample's axes have 0 .. {LENGTH_MAX} pixels, not {shape}")
        kind = np.dtype(dtype).newbyteorder("=")
        if kind.kind not in "iuf":
            raise ConfigError(f"a sample is made of integers or floats, not {kind}")
        if not 0 <= seed < 1 << 32:
            raise ConfigError(f"a sample's seed is in 0 .. {(1 << 32) - 1}, not {seed}")
        self._pattern, self._seed = pattern, seed
        dims = ("y", "x", "s")[: len(shape)]
        self._raster = Raster(
            shape=tuple(shape), dtype=kind, dims=dims, reader_bytes=COMPILING_BYTES
        )

    @property
    def raster(self) -> Raster:
        """Description of the raster."""
        return self._raster

    @property
    def identity(self) -> str:
        """See `Source.identity`."""
        return f"{self._pattern} {self._raster.shape} {self._raster.dtype} {self._seed}"

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`; see `Source.read`."""
        if plane != 0:
            raise ValueError(f"a sample has one plane, number 0, not {plane}")
        rows, columns = region.shape
        samples = self._raster.samples
        if min(rows, columns, samples) == 0:
            return
        make, in_colour = _PATTERNS[self._pattern]
        channels = samples if in_colour else 1
        high = max(1, min(rows, STRIP_PIXELS // (columns * channels)))
        wide = min(columns, STRIP_PIXELS)
        for top in range(0, rows, high):
            for left in range(0, columns, wide):
                part = out[top : top + high, left : left + wide]
                start = region.start[0] + top, region.start[1] + left
                levels = np.empty((*part.shape[:2], channels), np.uint16)
                make(_Strip(start, self._raster.spatial, self._seed), levels)
                scaled = levels if self._pattern == "step" else _scaled(levels, self._raster.dtype)
                part[...] = scaled.astype(self._raster.dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleSource, (self._pattern, self._raster.shape, self._raster.dtype, self._seed)


def _scaled(levels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Levels of 12 bits as `dtype` holds them."""
    if dtype.kind == "f":
        # 4095 is 1 - 2**-12: every level is exact, but for the last bit of float16.
        return levels.astype(np.float32) * np.float32(2.0**-_LEVEL_BITS)
    bits = min(dtype.itemsize * 8 - (dtype.kind == "i"), 16)
    shift = bits - _LEVEL_BITS
    return levels << shift if shift >= 0 else levels >> -shift


def _make_slide(strip: _Strip, levels: np.ndarray) -> None:
    stains = slide_stains(levels.shape[2])
    slide_levels(*strip.start, *strip.shape, strip.seed, stains, levels)


def _make_step(strip: _Strip, levels: np.ndarray) -> None:
    (y0, x0), (rows, columns) = strip.start, strip.shape
    middle = rows // 2 - y0
    levels[...] = 0
    levels[: max(middle, 0), : max(columns * 2 // 5 - x0, 0)] = 1
    levels[max(middle, 0) :, : max(columns * 3 // 5 - x0, 0)] = 1


def _make_zoneplate(strip: _Strip, levels: np.ndarray) -> None:
    """Levels of ``(1 + cos(pi r**2 / (2 R))) / 2``, R half the longer side of the raster.

    With odd integers Y = 2y - (h - 1), X = 2x - (w - 1), that is
    ``(Y**2 + X**2) / (8 max(h, w))`` cycles; only its remainder matters, so that squares
    of coordinates of any size stay small.
    """
    (y0, x0), (rows, columns) = strip.start, strip.shape
    cycle = 8 * max(rows, columns)
    x = 2 * x0 - (columns - 1)
    down = [((2 * (y0 + row) - (rows - 1)) ** 2 + x * x) % cycle for row in range(levels.shape[0])]
    # Cycles to places in the table, as a product that stays below 2**62.
    bits = 61 - _LEVEL_BITS
    step = (1 << (bits + _LEVEL_BITS)) // cycle
    start = (4 * x + 4) % cycle
    _rings(np.array(down, np.int64), start, cycle, step, bits, _cosine(), levels[:, :, 0])


@compiled
def _rings(  # noqa: PLR0913, PLR0917 - Numba passes arguments by position
    down: np.ndarray,
    start: int,
    cycle: int,
    step: int,
    bits: int,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill rows whose phases begin at `down`, by differences of squares: (x + 2)^2 - x^2."""
    for row in range(out.shape[0]):
        phase, grow = down[row], start
        for i in range(out.shape[1]):
            out[row, i] = table[(phase * step) >> bits]
            phase += grow
            phase -= cycle if phase >= cycle else 0
            grow += 8
            grow -= cycle if grow >= cycle else 0


@cache
def _cosine() -> np.ndarray:
    """4096 levels of ``(1 + cos) / 2`` over a cycle, by integers alone.

    A quarter of a sine is z (a - z^2 (b - z^2 c)), with a = pi / 2, b = pi - 5 / 2,
    c = pi / 2 - 3 / 2 for z in 0 .. 1: right at both ends, within 0.0002 between.
    """
    quarter = 1 << (_LEVEL_BITS - 2)
    one = 1 << 20
    a, b, c = 1647099, 672758, 74235  # times 2**20
    sine = []
    for i in range(quarter + 1):
        z = i * one // quarter
        square = z * z // one
        sine.append(z * (a - square * (b - square * c // one) // one) // one)
    cosine = [*sine[:0:-1], *(-s for s in sine[:-1])]
    wave = [*cosine, *(-s for s in cosine)]
    return np.array([(one + s) * 4095 // (2 * one) for s in wave], np.uint16)


_PATTERNS: dict[str, tuple[Callable[[_Strip, np.ndarray], None], bool]] = {
    "slide": (_make_slide, True),
    "step": (_make_step, False),
    "zoneplate": (_make_zoneplate, False),
}
