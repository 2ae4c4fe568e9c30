"""Separable: a sum of rank-one terms, each a pass along the rows and one down the columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tileconv.core.engines.loops import add_taps
from tileconv.core.engines.nonfinite import Reach, is_finite
from tileconv.core.engines.slabs import SLACK_BYTES, RowRing, cast_bytes, pieces, slab_shape
from tileconv.core.factors import Factors
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast, CastCounts


def _line(weights: np.ndarray, axis: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and shifts of taps along one axis; those of 0 are left out."""
    at = np.flatnonzero(weights)
    shifts = np.zeros((at.size, 2), np.int64)
    shifts[:, axis] = at * stride
    return weights[at], shifts


@dataclass(frozen=True, slots=True, eq=False)
class SeparableEngine:
    """Sums ``columns[t] x rows[t]`` over the terms, rows first.

    Rows are filtered once: those that later outputs need are kept in a ring for each term.

    Parameters
    ----------
    kernel : Kernel
    factors : Factors
        Of the kernel, in the accumulation dtype.
    """

    kernel: Kernel
    factors: Factors
    _reach: Reach | None = field(init=False, repr=False)

    method = "separable"
    lattice: Shape = (1, 1)

    def __post_init__(self) -> None:
        floats = self.accumulator.kind in "fc"
        reach = Reach(self.kernel, self.accumulator) if floats else None
        object.__setattr__(self, "_reach", reach)

    @property
    def accumulator(self) -> np.dtype:
        """The dtype sums are formed in."""
        return self.factors.rows.dtype

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        reach = self._reach.held_bytes if self._reach else 0
        return self.factors.rows.nbytes + self.factors.columns.nbytes + reach

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        itemsize, (kr, kc) = self.accumulator.itemsize, self.kernel.shape
        rows, columns = slab_shape(shape, samples, self.kernel.shape, itemsize)
        sums, wide = rows * columns * samples, (columns + kc - 1) * samples
        rings = self.factors.terms * (rows + 2 * (kr - 1)) * columns * samples * itemsize
        total = rings + rows * wide * (2 * itemsize + 1)
        total += sums * itemsize + cast_bytes(sums, columns * samples, self.accumulator, out)
        if self._reach and block.kind in "fc":
            total += self._reach.workspace_bytes((rows, columns), samples)
        return total + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out` from `block`; see `Engine`."""
        counts, (rows, columns, samples), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        if out.size == 0:
            return counts
        down, across = slab_shape((rows, columns), samples, (kr, kc), self.accumulator.itemsize)
        along = [_line(row, 1, samples) for row in self.factors.rows]
        for left, right in pieces(columns, across):
            width, n = right - left + kc - 1, (right - left) * samples
            source = block[:, left : left + width]
            rings = [RowRing(down, n, kr - 1, self.accumulator) for _ in along]
            done, tainted = 0, 0
            for top, bottom in pieces(rows + kr - 1, down):
                x, finite = self._rows(source[top:bottom])
                tainted = tainted if finite else bottom
                for ring, (weights, shifts) in zip(rings, along, strict=True):
                    into = ring.add(bottom - top)
                    into.fill(0)
                    add_taps(x, weights, shifts, into, chained=False)
                if ready := rings[0].outputs:
                    part = out[done : done + ready, left:right]
                    sums = self._down(rings, (ready, n)).reshape(part.shape)
                    if self._reach and tainted > done:
                        window = source[done : done + ready + kr - 1]
                        self._reach.put_back(window.astype(self.accumulator, copy=False), sums)
                    counts = counts.plus(cast.store(sums, part))
                    done += ready
        return counts

    def _rows(self, source: np.ndarray) -> tuple[np.ndarray, bool]:
        """Rows in the accumulation dtype, 2-D, 0 for non-finite ones; whether all were finite."""
        x = np.empty(source.shape, self.accumulator)
        x[...] = source
        finite = source.dtype.kind in "biu" or is_finite(x)
        if not finite:
            x[~np.isfinite(x)] = 0
        return x.reshape(x.shape[0], -1), finite

    def _down(self, rings: list[RowRing], shape: Shape) -> np.ndarray:
        """Sums of all terms down the columns; the rings let go of what is done."""
        sums = np.zeros(shape, self.accumulator)
        for ring, column in zip(rings, self.factors.columns, strict=True):
            weights, shifts = _line(column, 0, 1)
            add_taps(ring.window(), weights, shifts, sums, chained=False)
            ring.retire()
        return sums
