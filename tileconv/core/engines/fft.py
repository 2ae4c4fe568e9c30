"""Fft: overlap-save, cell by cell, on a lattice fixed to the output."""

from __future__ import annotations

import math
import threading

import numpy as np

from tileconv.core.engines.nonfinite import Reach
from tileconv.core.engines.slabs import SLACK_BYTES, cast_bytes, pieces
from tileconv.core.engines.transforms import Transform
from tileconv.core.factors import effective_weights
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.overlap_save import UNIT, plan_cells
from tileconv.core.pixels import Cast, CastCounts

USUAL = {4: 1e15, 8: 1e150}
"""Largest magnitude that is taken for a measurement, by bytes of the real dtype: what lies
above stands for something else, like the 1e20, 9.97e36 and 3.4e38 of missing data."""

PADDING = UNIT
"""Elements between the rows of a window: rows a power of two apart would share their places in
the cache."""


class FftEngine:
    """Multiplies the spectra of windows by the kernel's, which is computed once.

    Each cell of the lattice is one transform of its own windows, zero padded beyond the
    output's end, never batched with others: so its bits depend on its windows alone. See
    `overlap_save` for the geometry. Pickled as its kernel; the copy makes its own spectrum.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
        float32 or float64, complex64 or complex128; single precision stays single.
    """

    method = "fft"

    def __init__(self, kernel: Kernel, accumulator: np.dtype) -> None:
        self.kernel = kernel
        self.accumulator = accumulator
        self._cells = plan_cells(kernel.shape, accumulator)
        self._reach = Reach(kernel, accumulator)
        self._transform: Transform | None = None
        self._preparing = threading.Lock()
        self._real = np.finfo(accumulator).dtype
        # Above this, sums inside a transform might leave the range of the dtype.
        terms = 2 * math.prod(self._cells.size) * max(kernel.gain, 1.0)
        self._largest = float(np.finfo(accumulator).max) / 8 / terms
        self._usual = min(self._largest, USUAL[self._real.itemsize])

    def __reduce__(self) -> tuple[type[FftEngine], tuple[Kernel, np.dtype]]:
        return FftEngine, (self.kernel, self.accumulator)

    @property
    def lattice(self) -> Shape:
        """Rows and columns of the cells."""
        return self._cells.step

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        return math.prod(self._cells.size) * 2 * self._real.itemsize + self._reach.held_bytes

    @property
    def preparing_bytes(self) -> int:
        """See `Engine`: the kernel's rows, transformed, and columns, in double precision."""
        (rows, columns), kr = self._cells.size, self.kernel.shape[0]
        return 16 * (2 * kr * columns + 5 * rows * UNIT + 3 * self.kernel.weights.size)

    def _prepared(self) -> Transform:
        """Convolution with the kernel; compiled, or loaded, when it is first used."""
        with self._preparing:
            if self._transform is None:
                weights = effective_weights(self.kernel, self.accumulator)
                self._transform = Transform(weights, self._cells.size, self._real)
            return self._transform

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        del shape, samples
        (rows, columns), cell = self._cells.size, math.prod(self._cells.step)
        itemsize = self.accumulator.itemsize
        total = 2 * rows * (columns + PADDING) * self._real.itemsize
        total += cast_bytes(cell, self._cells.step[1], self.accumulator, out)
        if block.kind in "fc":
            # The cell's pixels, its sums, and what was set apart of both.
            kr, kc = self.kernel.shape
            window = (self._cells.step[0] + kr - 1) * (self._cells.step[1] + kc - 1)
            total += (3 * window + 3 * cell) * itemsize + 3 * window
            total += 2 * self._reach.workspace_bytes(self._cells.step, 1)
        elif self.accumulator.kind == "c":
            total += cell * itemsize
        return total + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out`, which starts on the lattice, from `block`; see `Engine`."""
        counts, (rows, columns, samples), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        if out.size == 0:
            return counts
        height, width = self._cells.size
        planes = np.zeros((2, height, width + PADDING), self._real)[..., :width]
        # Asked of the whole block first: it is quicker, and usually enough.
        usual = block.dtype.kind in "biu" or _peak(block) <= self._usual
        convolved = self._convolved if usual else self._guarded
        for sample in range(samples):
            for top, bottom in pieces(rows, self._cells.step[0]):
                for left, right in pieces(columns, self._cells.step[1]):
                    source = block[top : bottom + kr - 1, left : right + kc - 1, sample]
                    part = out[top:bottom, left:right, sample]
                    for begin, sums in convolved(source, planes):
                        into = part[:, begin : begin + sums.shape[1]]
                        counts = counts.plus(cast.store(sums, into))
        return counts

    def _guarded(self, source: np.ndarray, planes: np.ndarray) -> Sums:
        """The sums of a cell whose pixels may be huge, infinite or NaN; else `_convolved`."""
        pixels, peak = source, _peak(source)
        finite = math.isfinite(peak)
        if not finite:
            pixels = source.astype(self.accumulator)
            pixels[~np.isfinite(pixels)] = 0
            peak = _peak(pixels)
        if finite and peak <= self._usual:
            return self._convolved(pixels, planes)
        far = None
        if peak > self._usual:
            pixels, *far = self._set_apart(pixels.astype(self.accumulator), peak, planes)
        sums = _joined(self._convolved(pixels, planes))
        if far is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                np.add(sums, far[0], out=sums, where=far[1])
        if not finite:
            original = source.astype(self.accumulator, copy=False)
            self._reach.put_back(original[..., None], sums[..., None])
        return [(0, sums)]

    def _set_apart(
        self, pixels: np.ndarray, peak: float, planes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take huge values out of `pixels`; also their own sums, and the outputs they reach.

        A transform spreads the rounding of its largest pixel over the whole cell: -3.4e38 for
        "no data" would drown every pixel within a thousand of it, not only those in reach.
        """
        huge = np.abs(pixels) > self._usual
        alone = np.where(huge, pixels, pixels.dtype.type(0))
        pixels[huge] = 0
        # A power of two: no bit is lost, and the same everywhere in the cell.
        exponent = math.frexp(peak / self._largest)[1] if peak > self._largest else 0
        alone *= alone.dtype.type(2.0**-exponent)
        sums = _joined(self._convolved(alone, planes))
        with np.errstate(over="ignore", invalid="ignore"):
            sums *= sums.dtype.type(2.0**exponent)
        return pixels, sums, self._reach.touched(huge[..., None], (*sums.shape, 1))[..., 0]

    def _convolved(self, pixels: np.ndarray, planes: np.ndarray) -> Sums:
        """The sums of a cell of pixels that a transform can take; good until the next."""
        kr, kc = self.kernel.shape
        rows, columns = pixels.shape[0] - kr + 1, pixels.shape[1] - kc + 1
        width = self._cells.width
        if self.accumulator.kind == "c":
            windows = pixels.real, pixels.imag
        else:
            windows = pixels[:, : width + kc - 1], pixels[:, width:]
        for plane, window in zip(planes, windows, strict=True):
            down, across = window.shape
            plane[:down, :across] = window
            plane[:down, across:] = 0
            plane[down:] = 0
        self._prepared().apply(*planes)
        if self.accumulator.kind == "c":
            sums = np.empty((rows, columns), self.accumulator)
            sums.real, sums.imag = planes[:, :rows, :columns]
            return [(0, sums)]
        begins = range(0, columns, width)
        return [
            (begin, plane[:rows, : columns - begin][:, :width])
            for begin, plane in zip(begins, planes, strict=False)
        ]


Sums = list[tuple[int, np.ndarray]]
"""Sums of a cell, side by side: the first column of each, and the sums."""


def _joined(sums: Sums) -> np.ndarray:
    """A copy of the sums of a cell, in one."""
    return np.concatenate([part for _, part in sums], axis=1)


def _peak(x: np.ndarray) -> float:
    """Largest magnitude of a part of `x`; NaN if there is one."""
    if x.dtype.kind == "c":
        return float(np.maximum(_peak(x.real), _peak(x.imag)))
    return float(np.maximum(x.max(), -x.min()))
