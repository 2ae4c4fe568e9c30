"""Direct: every weight times its pixel, summed by compiled loops."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tileconv.core.engines.slabs import (
    SLACK_BYTES,
    Sums,
    cast_bytes,
    is_narrow,
    pieces,
    rolling_rows,
    row_bytes,
    slab_shape,
    stays_finite,
    windows,
)
from tileconv.core.engines.summation import Summation, Taps, Window
from tileconv.core.factors import effective_weights
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast, CastCounts
from tileconv.core.roundings import CHAINED_TAPS

DENSE = 0.5
"""Part of a kernel's weights that are active, from which on all are multiplied if they may be."""


@dataclass(frozen=True, slots=True, eq=False)
class DirectEngine:
    """Sums products of weights and pixels, in the row-major order of the weights.

    NaN and infinity need no care here: where there may be any, only active weights are
    multiplied.

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
    _window: Window | None = field(init=False, repr=False)
    _taps: Taps | None = field(init=False, repr=False)
    _gain: float = field(init=False, repr=False)

    method = "direct"
    lattice: Shape = (1, 1)
    preparing_bytes = 0

    def __post_init__(self) -> None:
        active, size = self.kernel.active, self.kernel.weights.size
        weights = effective_weights(self.kernel, self.accumulator)
        roundings = size if self.exact or self.accumulator.kind in "iu" else CHAINED_TAPS
        dense = self.accumulator.kind != "c" and np.count_nonzero(active) >= DENSE * size
        object.__setattr__(self, "_gain", self.kernel.gain)
        object.__setattr__(self, "_window", Window(weights, roundings) if dense else None)
        sparse = not dense or not bool(active.all())
        object.__setattr__(self, "_taps", Taps(weights, active, roundings) if sparse else None)

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        return sum(sums.held_bytes for sums in (self._window, self._taps) if sums is not None)

    def _summation(self, block: np.dtype) -> Summation:
        """How pixels of a dtype are summed: 0 times NaN is not 0."""
        if self._window is not None and (self._taps is None or block.kind in "biu"):
            return self._window
        assert self._taps is not None
        return self._taps

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        del block
        itemsize, (kr, kc) = self.accumulator.itemsize, self.kernel.shape
        rows, columns = slab_shape(shape, samples, self.kernel.shape, itemsize)
        rolling = rolling_rows(rows, kr - 1) * row_bytes(columns, samples, kc, itemsize)
        # The sums, and those of groups of products.
        spare = max(part.spare for part in (self._window, self._taps) if part is not None)
        sums = (1 + spare) * rows * row_bytes(columns, samples, 1, itemsize)
        values = rows * columns * samples
        return (
            rolling
            + sums
            + cast_bytes(values, columns * samples, self.accumulator, out)
            + (SLACK_BYTES + (self._taps.held_bytes if self._taps is not None else 0))
        )

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out` from `block`; see `Engine`."""
        counts, (rows, columns, samples), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        if out.size == 0:
            return counts
        itemsize = self.accumulator.itemsize
        down, across = slab_shape((rows, columns), samples, (kr, kc), itemsize)
        for left, right in pieces(columns, across):
            source = block[:, left : right + kc - 1]
            counts = counts.plus(self._apply(source, out[:, left:right], cast, down))
        return counts

    def _apply(self, source: np.ndarray, out: np.ndarray, cast: Cast, down: int) -> CastCounts:
        """One piece of a block, from its `source`; what it allocates is gone with the piece."""
        samples, kr = out.shape[2], self.kernel.shape[0]
        summation = self._summation(source.dtype)
        narrow = is_narrow(out.shape[1] * samples, self.accumulator.itemsize)
        padded = summation.adds or narrow
        finite = stays_finite(self._gain, self.accumulator, source.dtype)
        sums = Sums(out, cast, self.accumulator, down, padded=padded, finite=finite)
        for x in windows(source, self.accumulator, down, kr - 1, padded=padded):
            values = sums.of(len(x) - kr + 1)
            summation.into(values, x, samples)
            sums.store(values)
        return sums.counts
