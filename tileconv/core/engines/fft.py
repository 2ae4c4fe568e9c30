"""Fft: overlap-save, cell by cell, on a lattice fixed to the output."""

from __future__ import annotations

import math
import threading
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tileconv.core.compiling import compile_ahead
from tileconv.core.engines.accuracy import EASY, Accuracy, accuracy_of
from tileconv.core.engines.direct import DirectEngine
from tileconv.core.engines.magnitudes import (
    PART,
    Magnitudes,
    energies_loop,
    levels_loop,
    measure_loop,
)
from tileconv.core.engines.nonfinite import Reach
from tileconv.core.engines.passes import PATCH, Passes, Precision
from tileconv.core.engines.slabs import SLACK_BYTES, cast_bytes, pieces, stays_finite
from tileconv.core.engines.transforms import Transform, convolve_loop
from tileconv.core.engines.windows import Sums, Windows
from tileconv.core.factors import effective_weights
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.methods import Method, cost_ns
from tileconv.core.overlap_save import UNIT, plan_cells
from tileconv.core.pixels import Cast, CastCounts
from tileconv.core.roundings import scaled

DOUBLE_MAX_BYTES = 32 << 20
"""Largest windows that double precision is kept ready for beside single: beyond it the memory is
worth more, and more passes in single precision serve as well."""

SOON_BYTES = 8 << 20
"""Bytes that making a spectrum may take while tiles are worked on; others are made before."""

PLAIN_RATIO = 16
"""Root mean square of a cell's pixels, in units of the least that a window's largest may be, up to
which it is worth while to look at the sums before giving a plain transform up."""


class _Prepared(NamedTuple):
    """A kernel transformed in one precision."""

    transform: Transform
    accuracy: Accuracy


class FftEngine:
    """Multiplies the spectra of windows by the kernel's, which is computed once.

    Each cell of the lattice is one transform of its own windows, zero padded beyond the
    output's end, never batched with others: so its bits depend on its windows alone. See
    `overlap_save` for the geometry, `accuracy` for what one transform is good enough for, and
    `passes` for the cells where it is not. Pickled as its kernel; the copy makes its own
    spectrum.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
        float32 or float64, complex64 or complex128.
    """

    method = "fft"

    def __init__(self, kernel: Kernel, accumulator: np.dtype) -> None:
        self.kernel = kernel
        self.accumulator = accumulator
        self._cells = plan_cells(kernel.shape, accumulator)
        self._reach = Reach(kernel, accumulator)
        self._direct = DirectEngine(kernel, accumulator)
        self._real = np.finfo(accumulator).dtype
        self._gain = kernel.gain
        self._has_double = (
            self._real.itemsize == 4
            and self._window_bytes(np.dtype(np.float64)) <= DOUBLE_MAX_BYTES
        )
        self._preparing = threading.Lock()
        self._prepared: dict[np.dtype, _Prepared] = {}

    def __reduce__(self) -> tuple[type[FftEngine], tuple[Kernel, np.dtype]]:
        return FftEngine, (self.kernel, self.accumulator)

    def _window_bytes(self, dtype: np.dtype) -> int:
        return Windows.nbytes(self._cells, self.kernel.shape, dtype)

    @property
    def lattice(self) -> Shape:
        """Rows and columns of the cells."""
        return self._cells.step

    @property
    def _precisions(self) -> list[np.dtype]:
        """Dtypes of transforms: the sums' precision, and perhaps double."""
        return [self._real, *([np.dtype(np.float64)] if self._has_double else [])]

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds."""
        spectra = sum(math.prod(self._cells.size) * 2 * real.itemsize for real in self._precisions)
        # What is made beside tiles has to have room beside them.
        soon = min(self.preparing_bytes, SOON_BYTES) if self._has_double else 0
        return spectra + soon + self._reach.held_bytes + self._direct.held_bytes

    @property
    def preparing_bytes(self) -> int:
        """See `Engine`: the kernel's rows, transformed, and columns, in double precision."""
        (rows, columns), kr = self._cells.size, self.kernel.shape[0]
        return 16 * (2 * kr * columns + 6 * rows * UNIT + 5 * self.kernel.weights.size)

    @cached_property
    def shift(self) -> int:
        """The power of 2 the kernel is divided by, 0 unless its weights are very large or small."""
        sizes = np.abs(effective_weights(self.kernel, np.result_type(self.accumulator, np.float64)))
        # A little more than the sum's, which may itself be out of the range.
        exponent = math.frexp(float(sizes.max()))[1] + sizes.size.bit_length()
        return exponent if abs(exponent) > EASY[self._real.itemsize] else 0

    def prepared(self, dtype: np.dtype) -> _Prepared:
        """The kernel's transform in a precision; made, and its loop loaded, at first use."""
        with self._preparing:
            if not self._prepared:
                self._compile_rest()
            if dtype not in self._prepared:
                wide = np.result_type(self.accumulator, np.float64)
                weights = scaled(effective_weights(self.kernel, wide), -self.shift)
                transform = Transform(weights, self._cells.size, dtype)
                accuracy = accuracy_of(weights, self.shift, transform, self.accumulator)
                self._prepared[dtype] = _Prepared(transform, accuracy)
            return self._prepared[dtype]

    def prepare(self) -> None:
        """Make what cells are summed with, but for what few need and is quickly made."""
        first, *others = self._precisions
        self.prepared(first)
        if self.preparing_bytes > SOON_BYTES:
            for real in others:
                self.prepared(real)

    def _compile_rest(self) -> None:
        """Have compiled what only some cells need: the compiler takes memory that tiles need."""
        compile_ahead(*levels_loop(self._real))
        for real in self._precisions:
            compile_ahead(*convolve_loop(real))
            compile_ahead(*measure_loop(real), fused=True)
            compile_ahead(*energies_loop(real), fused=True)
        block = np.zeros((*self.kernel.shape, 1), self.accumulator)
        self._direct.apply(block, np.empty((1, 1, 1), self.accumulator), Cast(self.accumulator))

    def windows(self, dtype: np.dtype) -> Windows:
        """Memory for the windows of a cell."""
        return Windows(self._cells, self.kernel.shape, self.prepared(dtype).transform)

    def passes(self, single: Windows) -> Passes:
        """The passes that sum the cells one transform cannot."""
        found = [
            Precision(
                self.windows(real) if index else single,
                self.prepared(real).accuracy,
                self._cells.cost_ns * real.itemsize / self._real.itemsize,
            )
            for index, real in enumerate(self._precisions)
        ]
        direct_ns = cost_ns(Method.DIRECT, self.kernel, self.accumulator)
        double = found[1] if self._has_double else None
        return Passes(found[0], double, self._direct, direct_ns, self.shift)

    def put_back(self, original: np.ndarray, sums: np.ndarray) -> None:
        """Give the sums that pixels not finite reach what they make of them."""
        self._reach.put_back(original[..., None], sums[..., None])

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        del shape, samples
        (kr, kc), (rows, columns) = self.kernel.shape, self._cells.step
        cell, window = rows * columns, (rows + kr - 1) * (columns + 2 * kc - 2)
        itemsize, level = self.accumulator.itemsize, 1 if self._real.itemsize == 4 else 2
        total = sum(self._window_bytes(real) for real in self._precisions)
        total += cast_bytes(cell, columns, self.accumulator, out)
        # Levels of pixels, and on the way to those of windows; those, and sums; and parts of all.
        total += 2 * level * window + (level + itemsize) * cell
        total += PART * (rows + columns + kr + kc) * (2 * itemsize + 16)
        patch = min(PATCH, rows), min(PATCH, columns)
        total += self._direct.workspace_bytes(patch, 1, block, self.accumulator)
        if block.kind in "fc":
            # A copy, what is finite, the pixels without the rest, and what that becomes.
            total += window * (2 * itemsize + 2) + cell * itemsize
            total += 2 * self._reach.workspace_bytes(self._cells.step, 1)
        return total + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out`, which starts on the lattice, from `block`; see `Engine`."""
        counts, (rows, columns, samples), (kr, kc) = CastCounts(), out.shape, self.kernel.shape
        if out.size == 0:
            return counts
        cells, whole = _Cells(self), stays_finite(self._gain, self.accumulator, block.dtype)
        for sample in range(samples):
            for top, bottom in pieces(rows, self._cells.step[0]):
                for left, right in pieces(columns, self._cells.step[1]):
                    source = block[top : bottom + kr - 1, left : right + kc - 1, sample]
                    part = out[top:bottom, left:right, sample]
                    for begin, sums in cells.sums(source):
                        into = part[:, begin : begin + sums.shape[1]]
                        finite = whole or cells.plain
                        counts = counts.plus(cast.store(sums, into, finite=finite))
        return counts


class _Cells:
    """Sums one cell after another, in the same memory.

    Parameters
    ----------
    engine : FftEngine

    Attributes
    ----------
    plain : bool
        Whether one transform was enough for the last cell, so that its sums are finite.
    """

    def __init__(self, engine: FftEngine) -> None:
        self.plain = False
        self._engine = engine
        engine.prepare()
        real = np.finfo(engine.accumulator).dtype
        self._accuracy = engine.prepared(real).accuracy
        self._windows = engine.windows(real)

    @cached_property
    def _passes(self) -> Passes:
        return self._engine.passes(self._windows)

    def sums(self, source: np.ndarray) -> Sums:
        """The sums of a cell; good until the next."""
        self._windows.fill(source)
        found = self._windows.pixels()
        if math.isfinite(found.total) or source.dtype.kind in "biu":
            return self._finite(source, found)
        accumulator = self._engine.accumulator
        original = source.astype(accumulator, copy=False)
        finite = np.isfinite(original)
        pixels = original if finite.all() else np.where(finite, original, accumulator.type(0))
        del finite
        self._windows.fill(pixels)
        parts = [part for _, part in self._finite(pixels, self._windows.pixels())]
        sums = np.concatenate(parts, axis=1)
        self.plain = False
        self._engine.put_back(original, sums)
        return [(0, sums)]

    def _finite(self, source: np.ndarray, found: Magnitudes) -> Sums:
        """The sums of a cell of finite pixels, which the windows hold."""
        windows, accuracy = self._windows, self._accuracy
        self.plain = True
        if found.peak == 0:
            kr, kc = self._engine.kernel.shape
            shape = source.shape[0] - kr + 1, source.shape[1] - kc + 1
            return [(0, np.zeros(shape, self._engine.accumulator))]
        most = 2.0**accuracy.easy
        if 1 / most < found.peak < most and not self._engine.shift:
            if accuracy.serves(accuracy.before(found), found.least):
                windows.transform()
                return windows.outputs()
            if math.sqrt(found.total / (2 * accuracy.points)) <= PLAIN_RATIO * found.least:
                densest = windows.densest()
                windows.transform()
                error = accuracy.after(found, densest, windows.sums())
                if accuracy.serves(error, found.least):
                    return windows.outputs()
                first = [(begin, sums.copy()) for begin, sums in windows.outputs()]
                self.plain = False
                return self._passes.sums(source, first, accuracy.served(error, 0))
        self.plain = False
        return self._passes.sums(source)
