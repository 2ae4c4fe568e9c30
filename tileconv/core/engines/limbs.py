"""Fft of wide integers: in pieces of 16 bits, each exact, put together in 64-bit integers."""

from __future__ import annotations

import numpy as np

from tileconv.core.engines.fft import FftEngine
from tileconv.core.engines.slabs import SLACK_BYTES, cast_bytes, pieces
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.methods import LIMB_BITS
from tileconv.core.pixels import Cast, CastCounts

_WHOLE = np.dtype(np.int64)


class LimbsEngine:
    """Sums of integers under whole weights, exact where a transform of them would round.

    With ``x = sum over l of limbs[l] * 2**(16 l)`` each limb, of 16 bits, is convolved by a
    transform in double precision whose error is below one half, rounded to whole numbers, and
    added in 64-bit integers. These wrap, so that only the whole sum has to fit.

    Parameters
    ----------
    kernel : Kernel
        Of whole weights; `methods.choose` has found that their sum is small enough.
    accumulator : numpy.dtype
        int64, uint64, or float64 where no sum exceeds 2**53.
    limbs : int
        Pieces of a pixel.
    """

    method = "fft"

    def __init__(self, kernel: Kernel, accumulator: np.dtype, limbs: int) -> None:
        self.kernel = kernel
        self.accumulator = accumulator
        self._limbs = limbs
        self._fft = FftEngine(kernel, np.dtype(np.float64))

    def __reduce__(self) -> tuple[type[LimbsEngine], tuple[Kernel, np.dtype, int]]:
        return LimbsEngine, (self.kernel, self.accumulator, self._limbs)

    @property
    def lattice(self) -> Shape:
        """Rows and columns of the transforms' cells."""
        return self._fft.lattice

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        return self._fft.held_bytes

    @property
    def preparing_bytes(self) -> int:
        """See `Engine`."""
        return self._fft.preparing_bytes

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        (rows, columns), (kr, kc) = self.lattice, self.kernel.shape
        window = (rows + kr - 1) * (columns + kc - 1) * samples
        sums = rows * columns * samples
        total = self._fft.workspace_bytes(self.lattice, samples, block, _WHOLE)
        # A limb, and pixels shifted to it; the sums of one, shifted, and of all.
        total += window * (2 + 2 * block.itemsize) + 3 * sums * _WHOLE.itemsize
        del shape
        return total + cast_bytes(sums, columns * samples, _WHOLE, out) + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out`, which starts on the lattice, from `block`; see `Engine`."""
        counts, (rows, columns, _), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        down, across = self.lattice
        for top, bottom in pieces(rows, down):
            for left, right in pieces(columns, across):
                source = block[top : bottom + kr - 1, left : right + kc - 1]
                part = out[top:bottom, left:right]
                sums = self._sums(source, part.shape)
                counts = counts.plus(cast.store(sums, part))
        return counts

    def _sums(self, source: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The sums of one cell."""
        whole = Cast(_WHOLE)
        total, sums = np.zeros(shape, _WHOLE), np.empty(shape, _WHOLE)
        for limb in range(self._limbs):
            self._fft.apply(self._limb(source, limb), sums, whole)
            total += sums << (LIMB_BITS * limb)
        return total.view(np.uint64) if self.accumulator == np.uint64 else total

    def _limb(self, source: np.ndarray, limb: int) -> np.ndarray:
        """The bits of a limb of each pixel; the last has the sign."""
        shifted = source >> source.dtype.type(LIMB_BITS * limb)
        last = limb == self._limbs - 1 and source.dtype.kind == "i"
        return np.asarray(shifted.astype(np.int16 if last else np.uint16))
