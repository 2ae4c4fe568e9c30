"""Fft: overlap-save with scipy.fft, cell by cell, on a lattice fixed to the output."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np

from tileconv.core.engines.nonfinite import Reach
from tileconv.core.engines.slabs import SLACK_BYTES, cast_bytes, pieces
from tileconv.core.factors import effective_weights
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.overlap_save import plan_cells
from tileconv.core.pixels import Cast, CastCounts

USUAL = {4: 1e15, 8: 1e150}
"""Largest magnitude that is taken for a measurement, by bytes of the real dtype: what lies
above stands for something else, like the 1e20, 9.97e36 and 3.4e38 of missing data."""


class FftEngine:
    """Multiplies the spectra of windows by the kernel's, which is computed once.

    Each cell of the lattice is one transform of its own window, zero padded beyond the
    output's end, never batched with others: so its bits depend on its window alone. See
    `overlap_save` for the geometry. Pickled as its kernel; the copy makes its own spectrum.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
        float32 or float64, complex64 or complex128; single precision stays single.
    """

    method = "fft"

    def __init__(self, kernel: Kernel, accumulator: np.dtype) -> None:
        self._fft = _scipy_fft()
        self.kernel = kernel
        self.accumulator = accumulator
        self._cells = plan_cells(kernel.shape, accumulator)
        self._reach = Reach(kernel, accumulator)
        # Above this, sums inside a transform might leave the range of the dtype.
        terms = math.prod(self._cells.size) * max(kernel.gain, 1.0)
        self._largest = float(np.finfo(accumulator).max) / 8 / terms
        self._usual = min(
            self._largest, USUAL[accumulator.itemsize // (1 + (accumulator.kind == "c"))]
        )
        self._spectrum = self._kernel_spectrum()

    def __reduce__(self) -> tuple[type[FftEngine], tuple[Kernel, np.dtype]]:
        return FftEngine, (self.kernel, self.accumulator)

    @property
    def lattice(self) -> Shape:
        """Rows and columns of the cells."""
        return self._cells.step

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        return self._spectrum.nbytes + self._reach.held_bytes

    def _kernel_spectrum(self) -> np.ndarray:
        """Of a correlation: the conjugate's conjugate. In double, then rounded once."""
        weights = effective_weights(self.kernel, self.accumulator)
        if self.accumulator.kind == "c":
            spectrum = self._fft.fft2(weights.conj().astype(np.complex128), self._cells.size)
        else:
            spectrum = self._fft.rfft2(weights.astype(np.float64), self._cells.size)
        np.conjugate(spectrum, out=spectrum)
        return np.ascontiguousarray(spectrum, np.result_type(self.accumulator, np.complex64))

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        del shape, samples
        pixels, cell = math.prod(self._cells.size), math.prod(self._cells.step)
        # The window, its spectrum, the sums, and what the inverse transform copies.
        total = pixels * 2 * self.accumulator.itemsize + 2 * self._spectrum.nbytes
        total += cell * self.accumulator.itemsize
        total += cast_bytes(cell, self._cells.step[1], self.accumulator, out)
        if block.kind in "fc":
            total += pixels + self._reach.workspace_bytes(self._cells.step, 1)
            # Huge pixels set apart: where they are, they alone, their spectrum and sums.
            total += pixels * (1 + 4 * self.accumulator.itemsize) + 2 * self._spectrum.nbytes
            total += self._reach.workspace_bytes(self._cells.size, 1)
        return total + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out`, which starts on the lattice, from `block`; see `Engine`."""
        counts, (rows, columns, samples), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        window = np.zeros(self._cells.size, self.accumulator)
        for sample in range(samples):
            for top, bottom in pieces(rows, self._cells.step[0]):
                for left, right in pieces(columns, self._cells.step[1]):
                    source = block[top : bottom + kr - 1, left : right + kc - 1, sample]
                    part = out[top:bottom, left:right, sample]
                    counts = counts.plus(cast.store(self._cell(source, window, part.shape), part))
        return counts

    def _cell(self, source: np.ndarray, window: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Sums of one cell of `shape` from its pixels; `window` is overwritten."""
        rows, columns = source.shape
        window[:rows, :columns] = source
        window[:rows, columns:] = 0
        window[rows:] = 0
        peak = _peak(window)
        finite = math.isfinite(peak)
        if not finite:
            window[~np.isfinite(window)] = 0
            peak = _peak(window)
        far = self._set_apart(window, peak, shape) if peak > self._usual else None
        sums = self._transformed(window)[: shape[0], : shape[1]]
        if far is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                np.add(sums, far[0], out=sums, where=far[1])
        if not finite:
            sums = np.ascontiguousarray(sums)
            original = source.astype(self.accumulator, copy=False)
            self._reach.put_back(original[..., None], sums[..., None])
        return sums

    def _set_apart(
        self, window: np.ndarray, peak: float, shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take huge pixels out of `window`; their own sums, and the outputs that they reach.

        A transform spreads the rounding of its largest pixel over the whole cell: -3.4e38 for
        "no data" would drown every pixel within a thousand of it, not only those in reach.
        """
        huge = np.abs(window) > self._usual
        alone = np.where(huge, window, window.dtype.type(0))
        window[huge] = 0
        # A power of two: no bit is lost, and the same everywhere in the cell.
        exponent = math.frexp(peak / self._largest)[1] if peak > self._largest else 0
        alone *= alone.dtype.type(2.0**-exponent)
        sums = self._transformed(alone)[: shape[0], : shape[1]]
        with np.errstate(over="ignore", invalid="ignore"):
            sums = sums * sums.dtype.type(2.0**exponent)
        return sums, self._reach.touched(huge[..., None], (*shape, 1))[..., 0]

    def _transformed(self, window: np.ndarray) -> np.ndarray:
        """The circular correlation of a window with the kernel."""
        if self.accumulator.kind == "c":
            spectrum = self._fft.fft2(window, workers=1)
            spectrum *= self._spectrum
            return np.asarray(self._fft.ifft2(spectrum, overwrite_x=True, workers=1))
        spectrum = self._fft.rfft2(window, workers=1)
        spectrum *= self._spectrum
        size = self._cells.size
        return np.asarray(self._fft.irfft2(spectrum, size, overwrite_x=True, workers=1))


def _scipy_fft() -> ModuleType:
    """scipy.fft takes 0.15 s to import: only where transforms are made."""
    from scipy import fft

    module: ModuleType = fft
    return module


def _peak(x: np.ndarray) -> float:
    """Largest magnitude of a part of `x`; NaN if there is one."""
    parts = x.view(x.real.dtype) if x.dtype.kind == "c" else x
    return float(np.maximum(parts.max(), -parts.min()))
