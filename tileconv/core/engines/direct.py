"""Direct: every weight times its pixel, summed by compiled loops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tileconv.core.engines.loops import add_taps
from tileconv.core.engines.slabs import (
    CHAINED_TAPS,
    SLACK_BYTES,
    RowRing,
    cast_bytes,
    pieces,
    slab_shape,
)
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast, CastCounts

FLAT_TAPS = 896
"""Most float products summed by passes of eight without sums of sums: 8 + 896 / 8 roundings."""


@dataclass(frozen=True, slots=True, eq=False)
class DirectEngine:
    """Sums products of weights and pixels, in the row-major order of the weights.

    NaN and infinity need no care here: only active weights are multiplied.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
        float32 or float64, complex64 or complex128, or an integer, which wraps.
    exact : bool
        Whether products are added strictly one after another, however many they are, so
        that float64 sums are scipy.ndimage's to the last bit. Otherwise many products are
        summed in groups, which keeps the error bound where the last bits of one long sum
        would not.
    """

    kernel: Kernel
    accumulator: np.dtype
    exact: bool = False
    _weights: np.ndarray = field(init=False, repr=False)
    _shifts: np.ndarray = field(init=False, repr=False)

    method = "direct"
    lattice: Shape = (1, 1)

    def __post_init__(self) -> None:
        active = self.kernel.active
        weights = self.kernel.weights[active].astype(self.accumulator)
        object.__setattr__(self, "_weights", weights)
        object.__setattr__(self, "_shifts", np.argwhere(active).astype(np.int64))

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        return self._weights.nbytes + self._shifts.nbytes

    @property
    def _chained(self) -> bool:
        return self.exact or self._weights.size <= CHAINED_TAPS

    @property
    def _group(self) -> int:
        """Products summed before they are added to the sums of other groups."""
        taps = self._weights.size
        if self.exact or self.accumulator.kind in "iu" or taps <= FLAT_TAPS:
            return max(taps, 1)
        return 8 * (math.isqrt(taps // 8) + 1)

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        del block
        itemsize, (kr, kc) = self.accumulator.itemsize, self.kernel.shape
        rows, columns = slab_shape(shape, samples, self.kernel.shape, itemsize)
        ring = (rows + 2 * (kr - 1)) * (columns + kc - 1) * samples * itemsize
        sums = rows * columns * samples
        casting = cast_bytes(sums, columns * samples, self.accumulator, out)
        return ring + 2 * sums * itemsize + casting + self._shifts.nbytes + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out` from `block`; see `Engine`."""
        counts, (rows, columns, samples), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        if out.size == 0:
            return counts
        down, across = slab_shape((rows, columns), samples, (kr, kc), self.accumulator.itemsize)
        shifts = self._shifts * np.array([1, samples])
        for left, right in pieces(columns, across):
            width = right - left + kc - 1
            ring = RowRing(down, width * samples, kr - 1, self.accumulator)
            done = 0
            for top, bottom in pieces(rows + kr - 1, down):
                into = ring.add(bottom - top).reshape(bottom - top, width, samples)
                into[...] = block[top:bottom, left : left + width]
                if ready := ring.outputs:
                    sums = self._sums(ring.window(), shifts, (ready, (right - left) * samples))
                    part = out[done : done + ready, left:right]
                    counts = counts.plus(cast.store(sums.reshape(part.shape), part))
                    done += ready
                    ring.retire()
        return counts

    def _sums(self, x: np.ndarray, shifts: np.ndarray, shape: Shape) -> np.ndarray:
        """Sums for one slab; x and the result 2-D, samples interleaved along the rows."""
        sums = np.zeros(shape, self.accumulator)
        group = self._group
        if group >= self._weights.size:
            add_taps(x, self._weights, shifts, sums, chained=self._chained)
            return sums
        part = np.empty_like(sums)
        for start, stop in pieces(self._weights.size, group):
            part.fill(0)
            add_taps(x, self._weights[start:stop], shifts[start:stop], part, chained=self._chained)
            with np.errstate(over="ignore", invalid="ignore"):
                sums += part
        return sums
