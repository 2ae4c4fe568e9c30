"""A block worked on in slabs of rows small enough for the cache.

Engines convert rows to the accumulation dtype a slab at a time, sum them while they are
in the cache, and cast the sums straight into the output: no copy of a tile in the
accumulation dtype ever exists, and compiled code knows that dtype alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tileconv.core.grid import Shape
from tileconv.core.pixels import TRUNCATED_BYTES

ROW_BYTES = 16 << 10
"""Bytes of a slab's row, where the kernel is not wider: a few rows fit the first-level cache."""

SLAB_BYTES = 1 << 20
"""Bytes of a slab, where the kernel is not taller: less costs more calls, more gained little.

Both measured on a 2-core AMD EPYC x86-64 (48 KiB and 1 MiB of cache a core), 2026-11.
"""

CHAINED_TAPS = 120
"""Most float products summed one after another: each loses up to half an eps of the sum."""

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
    row_bytes = (across + kc - 1) * samples * itemsize
    down = max(1, min(rows, max(SLAB_BYTES // row_bytes - kr + 1, kr // 4, 8)))
    return down, across


def pieces(length: int, step: int) -> Iterator[tuple[int, int]]:
    """``(start, stop)`` that cut ``0 .. length`` into pieces of `step`."""
    return ((start, min(start + step, length)) for start in range(0, length, step))


class RowRing:
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
        self._rows = np.empty((rows + halo, width), dtype)
        self._halo = halo
        self._held = 0

    def add(self, count: int) -> np.ndarray:
        """The next `count` rows, to be filled."""
        self._held += count
        return self._rows[self._held - count : self._held]

    @property
    def outputs(self) -> int:
        """Output rows that can be computed from what is held."""
        return max(0, self._held - self._halo)

    def window(self) -> np.ndarray:
        """The rows held."""
        return self._rows[: self._held]

    def retire(self) -> None:
        """Let go of the rows no later output needs."""
        done = self.outputs
        if done:
            self._rows[: self._halo] = self._rows[done : self._held]
            self._held = self._halo
