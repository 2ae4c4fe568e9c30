"""Reference: scipy itself on the extended block."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from tileconv.core.engines.slabs import SLACK_BYTES, cast_bytes, pieces
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast, CastCounts
from tileconv.core.roundings import CHAINED_TAPS

CALL_PRODUCTS = 1 << 22
"""Products of one call: scipy.signal holds the interpreter's lock for about 0.05 s then, and
nobody else, a signal neither, gets a turn."""

_WIDER = {
    np.dtype(narrow): np.dtype(wide)
    for narrow, wide in (
        (np.float32, np.float64),
        (np.complex64, np.complex128),
        (np.float64, np.longdouble),
        (np.complex128, np.clongdouble),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceEngine:
    """``scipy.signal.correlate(block, weights, "valid", "direct")``, sample by sample.

    It sums in every dtype scipy does, longdouble among them. Where weights of 0
    are to be left out it is ``scipy.ndimage.correlate``, which does.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
    exact : bool
        Whether sums must be scipy's to the last bit. Otherwise, where scipy adds so many
        products one after another that the error bound would not hold, it is given a wider
        dtype to do so.
    """

    kernel: Kernel
    accumulator: np.dtype
    exact: bool = False

    method = "reference"
    lattice: Shape = (1, 1)
    held_bytes = 0
    preparing_bytes = 0

    @property
    def _summed_in(self) -> np.dtype:
        """The dtype scipy is given; scipy.ndimage, which skips weights, knows float64 only."""
        taps = int(np.count_nonzero(self.kernel.active))
        if self.exact or taps <= CHAINED_TAPS or taps < self.kernel.weights.size:
            return self.accumulator
        return _WIDER.get(self.accumulator, self.accumulator)

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        del samples, block
        (rows, columns), (kr, kc) = shape, self.kernel.shape
        values = (rows + kr - 1) * (columns + kc - 1)
        sums = (values * 6 + kr * kc * 4) * self._summed_in.itemsize
        return sums + cast_bytes(values, columns, self._summed_in, out) + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out` from `block`; see `Engine`."""
        counts = CastCounts()
        if out.size == 0:
            return counts
        weights = self.kernel.weights.astype(self._summed_in)
        skipping = not bool(self.kernel.active.all())
        kr, kc = weights.shape
        across = min(out.shape[1], max(1, CALL_PRODUCTS // weights.size))
        down = max(1, CALL_PRODUCTS // (weights.size * across))
        for (top, bottom), (left, right), sample in product(
            pieces(out.shape[0], down), pieces(out.shape[1], across), range(out.shape[2])
        ):
            rows, columns = slice(top, bottom + kr - 1), slice(left, right + kc - 1)
            x = block[rows, columns, sample].astype(self._summed_in)
            sums = self._skipping(x, weights) if skipping else self._multiplying(x, weights)
            # Rounded to the accumulator first: numpy goes from wider ones to half precision by
            # way of single, and rounds twice.
            with np.errstate(all="ignore"):
                sums = sums.astype(self.accumulator, copy=False)
            counts = counts.plus(cast.store(sums, out[top:bottom, left:right, sample]))
        return counts

    @staticmethod
    def _multiplying(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        from scipy import signal

        # scipy's correlation takes the conjugate of its second argument.
        with np.errstate(all="ignore"):
            return np.asarray(signal.correlate(x, np.conj(weights), "valid", "direct"))

    @staticmethod
    def _skipping(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        from scipy import ndimage

        kr, kc = weights.shape
        if x.dtype.kind == "c":
            weights = np.conj(weights)
        with np.errstate(all="ignore"):
            sums = ndimage.correlate(x, weights, mode="constant")
        top, left = kr // 2, kc // 2
        return np.asarray(sums[top : top + x.shape[0] - kr + 1, left : left + x.shape[1] - kc + 1])
