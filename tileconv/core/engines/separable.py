"""Separable: a sum of rank-one terms, each a pass along the rows and one down the columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tileconv.core.engines.direct import DirectEngine
from tileconv.core.engines.nonfinite import Reach, is_finite
from tileconv.core.engines.slabs import (
    SLACK_BYTES,
    RollingRows,
    Sums,
    cast_bytes,
    is_narrow,
    padded_width,
    pieces,
    rolling_rows,
    row_bytes,
    slab_shape,
    stays_finite,
)
from tileconv.core.engines.summation import Summation, Taps, Window
from tileconv.core.factors import Factors
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast, CastCounts, as_rows


def _line(weights: np.ndarray, roundings: int) -> Summation:
    """The sum over a line of weights, 2-D."""
    if weights.dtype.kind == "c":
        return Taps(weights, weights != 0, roundings)
    return Window(weights, weights.size if weights.dtype.kind in "iu" else roundings)


@dataclass(frozen=True, slots=True, eq=False)
class SeparableEngine:
    """Sums ``columns[t] x rows[t]`` over the terms, rows first.

    Rows are filtered once: those that later outputs need are kept, for each term.

    Parameters
    ----------
    kernel : Kernel
    factors : Factors
        Of the kernel, in the accumulation dtype.
    """

    kernel: Kernel
    factors: Factors
    _reach: Reach | None = field(init=False, repr=False)
    _direct: DirectEngine | None = field(init=False, repr=False)
    _gain: float = field(init=False, repr=False)
    _along: tuple[Summation, ...] = field(init=False, repr=False)
    _down: tuple[Summation, ...] = field(init=False, repr=False)

    method = "separable"
    lattice: Shape = (1, 1)
    preparing_bytes = 0

    def __post_init__(self) -> None:
        floats = self.accumulator.kind in "fc"
        reach = Reach(self.kernel, self.accumulator) if floats else None
        object.__setattr__(self, "_reach", reach)
        # As large as any partial sum may be.
        object.__setattr__(self, "_gain", self.kernel.gain * max(1.0, self.factors.growth))
        cancels = floats and self.factors.terms > 1
        direct = DirectEngine(self.kernel, self.accumulator) if cancels else None
        object.__setattr__(self, "_direct", direct)
        rows, columns, most = self.factors.rows, self.factors.columns, self.factors.roundings
        object.__setattr__(self, "_along", tuple(_line(row[None], most) for row in rows))
        object.__setattr__(self, "_down", tuple(_line(column[:, None], most) for column in columns))

    @property
    def accumulator(self) -> np.dtype:
        """The dtype sums are formed in."""
        return self.factors.rows.dtype

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        reach = self._reach.held_bytes if self._reach else 0
        lines = sum(line.held_bytes for line in (*self._along, *self._down))
        direct = self._direct.held_bytes if self._direct else 0
        return self.factors.rows.nbytes + self.factors.columns.nbytes + lines + reach + direct

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        itemsize, (kr, kc) = self.accumulator.itemsize, self.kernel.shape
        rows, columns = slab_shape(shape, samples, self.kernel.shape, itemsize)
        narrow = row_bytes(columns, samples, 1, itemsize)
        rolling = self.factors.terms * rolling_rows(rows, kr - 1) * narrow
        # The sums, and those of groups of products.
        held = 1 + max(line.spare for line in (*self._along, *self._down))
        total = rolling + rows * row_bytes(columns, samples, kc, itemsize) + held * rows * narrow
        values = rows * columns * samples
        total += cast_bytes(values, columns * samples, self.accumulator, out)
        if self._direct and block.kind in "fc":
            window = (rows + self.kernel.shape[0] - 1) * (columns + kc - 1) * samples
            total += (window + values) * itemsize
            total += self._direct.workspace_bytes((rows, columns), samples, block, self.accumulator)
        if self._reach and block.kind in "fc":
            # And the mask of what is finite.
            total += values + self._reach.workspace_bytes((rows, columns), samples)
        return total + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out` from `block`; see `Engine`."""
        counts, (rows, columns, samples), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        if out.size == 0:
            return counts
        itemsize = self.accumulator.itemsize
        down, across = slab_shape((rows, columns), samples, (kr, kc), itemsize)
        adds = len(self._down) > 1 or any(line.adds for line in (*self._along, *self._down))
        for left, right in pieces(columns, across):
            padded = adds or is_narrow((right - left) * samples, itemsize)
            finite = stays_finite(self._gain, self.accumulator, block.dtype)
            part = out[:, left:right]
            sums = Sums(part, cast, self.accumulator, down, padded=padded, finite=finite)
            self._apply(block[:, left : right + kc - 1], sums, down, padded=padded)
            counts = counts.plus(sums.counts)
        return counts

    def _apply(self, source: np.ndarray, sums: Sums, down: int, *, padded: bool) -> None:
        """One piece of a block, from its `source`."""
        rows, columns, samples = source.shape
        kr, kc = self.kernel.shape
        n = (columns - kc + 1) * samples
        width = padded_width(n, self.accumulator.itemsize) if padded else n
        filtered = [RollingRows(down, width, kr - 1, self.accumulator) for _ in self._along]
        buffer = np.zeros((down, columns * samples + width - n), self.accumulator)
        done, tainted = 0, 0
        for top, bottom in pieces(rows, down):
            x, finite = self._rows(source[top:bottom], buffer[: bottom - top], padded=padded)
            tainted = tainted if finite else bottom
            for kept, line in zip(filtered, self._along, strict=True):
                line.into(kept.add(bottom - top), x, samples)
            if ready := filtered[0].outputs:
                values = sums.of(ready)
                for term, (kept, line) in enumerate(zip(filtered, self._down, strict=True)):
                    line.into(values, kept.window(), 1, add=term > 0)
                    kept.retire()
                window = source[done : done + ready + kr - 1]
                floats = source.dtype.kind in "fc"
                if self._direct and floats and not is_finite(sums.part(values)):
                    self._sum_directly(window, sums.part(values))
                elif self._reach and tainted > done:
                    part = sums.part(values)
                    self._reach.put_back(window.astype(self.accumulator, copy=False), part)
                sums.store(values)
                done += ready

    def _sum_directly(self, window: np.ndarray, part: np.ndarray) -> None:
        """Sum outputs again of which a term, not the whole, has left the dtype's range."""
        assert self._direct is not None
        window = window.astype(self.accumulator, copy=False)
        again = np.empty(part.shape, self.accumulator)
        self._direct.apply(window, again, Cast(self.accumulator))
        part[...] = again

    def _rows(
        self, source: np.ndarray, buffer: np.ndarray, *, padded: bool
    ) -> tuple[np.ndarray, bool]:
        """Rows in the accumulation dtype, 2-D, 0 for non-finite ones; whether all were finite."""
        straight = None if padded else as_rows(source, self.accumulator)
        if straight is not None and is_finite(straight):
            return straight, True
        x = buffer[:, : source.shape[1] * source.shape[2]]
        x.reshape(source.shape)[...] = source
        finite = source.dtype.kind in "biu" or is_finite(x)
        if not finite:
            x[~np.isfinite(x)] = 0
        return buffer, finite
