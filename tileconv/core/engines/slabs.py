"""A block worked on in slabs of rows small enough for the cache.

Engines convert rows to the accumulation dtype a slab at a time, sum them while they are
in the cache, and cast the sums straight into the output: no copy of a tile in the
accumulation dtype ever exists, and compiled code knows that dtype alone. Where block or
output have that dtype already, they are used as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tileconv.core.grid import Shape, align_up
from tileconv.core.pixels import TRUNCATED_BYTES, Cast, CastCounts, as_rows, unify_nans

ROW_BYTES = 16 << 10
"""Bytes of a slab's row, where the kernel is not wider: a few rows fit the first-level cache."""

SLAB_BYTES = 2 << 20
"""Bytes of a slab, where the kernel is not taller: less costs more calls, more gained little.

Both measured on a 2-core AMD EPYC x86-64 (32 KiB and 1 MiB of cache a core), 2026-11.
"""

BLOCK_BYTES = 256
"""Bytes of a row that compiled loops work on at a time, or a multiple of them."""

SLACK_BYTES = 128 << 10
"""What numpy's own buffers and small arrays may add to a workspace."""


def cast_bytes(values: int, row: int, accumulator: np.dtype, out: np.dtype) -> int:
    """Upper bound of what `Cast.store` allocates for `values` sums in rows of `row`."""
    if accumulator.kind in "biu" or accumulator.itemsize > 16:
        return values * 4 * max(accumulator.itemsize, out.itemsize)
    return values * out.itemsize + row * TRUNCATED_BYTES


def slab_shape(shape: Shape, samples: int, kernel_shape: Shape, itemsize: int) -> Shape:
    """Rows and columns of output that are computed at a time."""
    (rows, columns), (kr, kc) = shape, kernel_shape
    across = max(1, min(columns, max(ROW_BYTES // (samples * itemsize), kc, 16)))
    wide = (across + kc - 1) * samples * itemsize
    down = align_up(max(SLAB_BYTES // wide - kr + 1, kr // 4, 8), 4)
    return min(rows, down), across


def row_bytes(columns: int, samples: int, kernel_columns: int, itemsize: int) -> int:
    """Upper bound of the bytes of a row of pixels that `columns` outputs need."""
    return (columns + kernel_columns - 1) * samples * itemsize + BLOCK_BYTES


def pieces(length: int, step: int) -> Iterator[tuple[int, int]]:
    """``(start, stop)`` that cut ``0 .. length`` into pieces of `step`."""
    return ((start, min(start + step, length)) for start in range(0, length, step))


def padded_width(values: int, itemsize: int) -> int:
    """`values` in whole blocks."""
    return align_up(values, BLOCK_BYTES // itemsize)


def is_narrow(values: int, itemsize: int) -> bool:
    """Whether a row of so many values is less than a block."""
    return values * itemsize < BLOCK_BYTES


def stays_finite(gain: float, accumulator: np.dtype, block: np.dtype) -> bool:
    """Whether no sum leaves the accumulator's range: of integers, which have 64 bits at most.

    Parameters
    ----------
    gain : float
        Sum of the magnitudes of the weights; not finite if one is not.
    accumulator, block : numpy.dtype
        Of the sums, and of the pixels.
    """
    if accumulator.kind in "biu":
        return True
    return block.kind in "biu" and gain * 2.0**64 < float(np.finfo(accumulator).max)


class RollingRows:
    """Rows that come in at the bottom and leave at the top, the last `halo` of them kept.

    Parameters
    ----------
    rows : int
        Most rows that are added at a time.
    width : int
        Elements of a row.
    halo : int
        Rows below an output row that it also needs: kernel rows - 1.
    dtype : numpy.dtype
    """

    def __init__(self, rows: int, width: int, halo: int, dtype: np.dtype) -> None:
        # Of zeros: what lies beyond the pixels is summed, though never kept.
        self._rows = np.zeros((rolling_rows(rows, halo), width), dtype)
        self._halo = halo
        self._first = self._end = 0

    def add(self, count: int) -> np.ndarray:
        """The next `count` rows, to be filled."""
        if self._end + count > len(self._rows):
            held = self._end - self._first
            self._rows[:held] = self._rows[self._first : self._end]
            self._first, self._end = 0, held
        self._end += count
        return self._rows[self._end - count : self._end]

    @property
    def outputs(self) -> int:
        """Output rows that can be computed from what is held."""
        return max(0, self._end - self._first - self._halo)

    def window(self) -> np.ndarray:
        """The rows held."""
        return self._rows[self._first : self._end]

    def retire(self) -> None:
        """Let go of the rows no later output needs."""
        self._first += self.outputs


def rolling_rows(rows: int, halo: int) -> int:
    """Rows in the memory of `RollingRows`: what is kept is moved to its top once in a while.

    Seldom where that is many rows. With twice the halo nothing moved overlaps where it came from,
    which numpy would copy first.
    """
    return rows + halo + max(halo, min(rows, 2 * halo))


def windows(
    source: np.ndarray, dtype: np.dtype, down: int, halo: int, *, padded: bool
) -> Iterator[np.ndarray]:
    """The rows that one slab of outputs after another needs, in a dtype.

    Parameters
    ----------
    source : ndarray, shape (output rows + halo, columns, samples)
    dtype : numpy.dtype
    down : int
        Most output rows of a slab.
    halo : int
        Rows below an output row that it also needs.
    padded : bool
        Whether compiled loops may read beyond a row's end, by less than a block.

    Yields
    ------
    ndarray, shape (slab rows + halo, columns * samples or more)
        Good until the next.
    """
    rows, columns, samples = source.shape
    straight = None if padded else as_rows(source, dtype)
    if straight is not None:
        for top, bottom in pieces(rows - halo, down):
            yield straight[top : bottom + halo]
        return
    length = columns * samples
    rolling = RollingRows(down, length + padded * (BLOCK_BYTES // dtype.itemsize), halo, dtype)
    for top, bottom in pieces(rows, down):
        into = rolling.add(bottom - top)[:, :length]
        into.reshape(bottom - top, columns, samples)[...] = source[top:bottom]
        if rolling.outputs:
            yield rolling.window()
            rolling.retire()


class Sums:
    """Where the sums of one slab after another go, and from there into the output.

    Parameters
    ----------
    out : ndarray, shape (rows, columns, samples)
    cast : Cast
    dtype : numpy.dtype
        Of the sums.
    down : int
        Most rows of a slab.
    padded : bool
        Whether the loops need rows of whole blocks.
    finite : bool
        Whether no sum can be NaN.
    """

    def __init__(
        self,
        out: np.ndarray,
        cast: Cast,
        dtype: np.dtype,
        down: int,
        *,
        padded: bool,
        finite: bool = False,
    ) -> None:
        self._out, self._cast, self._finite = out, cast, finite
        self._values = out.shape[1] * out.shape[2]
        self._straight = None if padded else as_rows(out, dtype)
        width = padded_width(self._values, dtype.itemsize) if padded else self._values
        if self._straight is None:
            self._buffer = np.empty((down, width), dtype)
        self._done = 0
        self.counts = CastCounts()

    def of(self, rows: int) -> np.ndarray:
        """Where the sums of the next `rows` belong, 2-D; they are not zero."""
        if self._straight is not None:
            return self._straight[self._done : self._done + rows]
        return self._buffer[:rows]

    def part(self, sums: np.ndarray) -> np.ndarray:
        """Those of `sums`, as `of` gave them, that belong to outputs: (rows, columns, samples)."""
        return sums[:, : self._values].reshape(len(sums), *self._out.shape[1:])

    def store(self, sums: np.ndarray) -> None:
        """Cast them into the output."""
        done = self._done
        self._done += len(sums)
        if self._straight is None:
            part = self._out[done : self._done]
            counts = self._cast.store(self.part(sums), part, finite=self._finite)
            self.counts = self.counts.plus(counts)
        elif not self._finite:
            unify_nans(sums, sums)
