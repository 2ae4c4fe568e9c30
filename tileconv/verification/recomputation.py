"""Independent sums of a block, and how far a job's sums may be from them.

The bound is each pixel's own: ``64 eps S M + n t``, with S the sum of the magnitudes of n
weights, M the largest pixel of the window, eps and t of the dtype the job forms its sums in.
The sums here are off by a small part of that at most, wherever in a block they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tileconv.core.grid import Shape
from tileconv.core.methods import Method
from tileconv.verification.extending import Block
from tileconv.verification.sums import Found, Sums, modulo, resolved, whole_sums
from tileconv.verification.transforms import window_most
from tileconv.verification.weights import Weights

ERROR_FACTOR, TRANSFORM_ERROR = 64, 2.0**-40
"""Of the bound: eps are multiplied by it, and what stands for that in transforms in double."""

OWN_PART = 2.0**-6
"""How much of a bound the sums here may be off at most; most are off by far less."""

_DOUBLE_NS, _WIDE_NS = 100.0, 650.0
"""Time of a pixel besides its sum, in double and in long double; 2-core x86-64, 2026-11."""

_MODERATE = 1e100
"""Weights up to here, and sums of weights down to its inverse, are safe in double."""


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Expected sums; every array has the shape (rows, columns, samples).

    Parameters
    ----------
    sums : ndarray
        Real or complex. NaN and infinite where scipy.signal's would be.
    allowed : ndarray
        How far the job's may be off; 0 where they must be exact.
    unit : ndarray
        What errors are measured in: the bound, also where sums must be exact.
    beyond : ndarray of bool
        Where S M is outside the accumulator's range: infinity and NaN are right there too.
    """

    sums: np.ndarray
    allowed: np.ndarray
    unit: np.ndarray
    beyond: np.ndarray


@dataclass(frozen=True, slots=True)
class Judged:
    """Properties of a job that decide how far its sums may be off.

    Parameters
    ----------
    accumulator : numpy.dtype
        What it forms its sums in.
    method : str
        How it applies its kernel.
    fill : number or None
        What pixels outside the raster are, as the user wrote it; None under any other rule
        than ``fill``.
    pixels, output : numpy.dtype
        Of the rasters.
    """

    accumulator: np.dtype
    method: str
    fill: float | None
    pixels: np.dtype
    output: np.dtype


class Recomputation:
    """The sums of blocks under one kernel.

    Parameters
    ----------
    weights : Weights
    judged : Judged
    side : int
        Rows and columns of what is computed at a time, at most.
    """

    def __init__(self, weights: Weights, judged: Judged, side: int) -> None:
        self.weights, self.side = weights, side
        accumulator = self.accumulator = judged.accumulator
        fill = 0.0 if judged.fill is None else judged.fill
        self._fill: Any = _as_summed(fill, accumulator)
        self._total = weights.total
        self._is_complex = accumulator.kind == "c"
        self._set_bound(judged.method)
        self._real = self._precision()
        self._whole = (
            judged.pixels.kind in "biu"
            and (judged.output.kind in "iu" or accumulator.kind in "iu")
            and weights.are_whole
            and math.isfinite(fill)
            and math.floor(fill) == fill
        )
        wide = accumulator.itemsize // (1 + self._is_complex) > np.dtype(np.float64).itemsize
        slack = OWN_PART * (self._factor or float(np.finfo(np.float64).eps))
        values = weights.values
        self._parts = [
            Sums(part.astype(self._real), slack, side, compensated=wide)
            for part in ([values.real, values.imag] if values.dtype.kind == "c" else [values])
        ]
        # Whole sums come from what they are modulo 2**64, and nearly.
        self._by_remainder = self._whole and self._real != np.float64
        self._remainders = modulo(values) if self._by_remainder else None

    def _set_bound(self, method: str) -> None:
        """The numbers of the bound, and how large whole sums are exact in the accumulator."""
        if self.accumulator.kind not in "fc":
            self._factor, self._least, self._most = 0.0, np.longdouble(0), np.longdouble(np.inf)
            self._exact = np.longdouble(np.inf)
            return
        info = np.finfo(self.accumulator)
        self._factor = ERROR_FACTOR * float(info.eps)
        if method == Method.FFT and info.bits == 64:
            self._factor = max(self._factor, TRANSFORM_ERROR)
        self._least = self.weights.values.size * np.longdouble(info.smallest_subnormal)
        self._most = np.longdouble(info.max)
        self._exact = np.longdouble(2.0) ** (info.nmant + 1)

    def _precision(self) -> np.dtype:
        """Double where a job sums in single precision, else long double."""
        moderate = self.weights.largest < _MODERATE and (
            not self._total or self._total > 1 / _MODERATE
        )
        single = self.accumulator in (np.float32, np.complex64)
        return np.dtype(np.float64 if single and moderate else np.longdouble)

    @property
    def held_bytes(self) -> int:
        """Bytes of weights and spectra."""
        return sum(part.held_bytes for part in self._parts) + 24 * self.weights.values.size

    @property
    def ns_per_pixel(self) -> float:
        """Roughly, on one core, 2-core x86-64, 2026-11; comparing included."""
        inputs = 2 if self._is_complex else 1
        besides = (_DOUBLE_NS if self._real == np.float64 else _WIDE_NS) * inputs
        if self._by_remainder:
            return besides + 1.2 * self.weights.values.size
        return besides + inputs * sum(part.ns_per_pixel for part in self._parts)

    def workspace_bytes(self, shape: Shape, samples: int, pixels: np.dtype, out: np.dtype) -> int:
        """Bytes that judging `shape` outputs allocates, their block included."""
        rows, columns = (min(self.side, length) for length in shape)
        (kr, kc), item = self.weights.shape, self._real.itemsize
        window = (rows + kr - 1) * (columns + kc - 1)
        # As it is read, spread along one axis, and along both.
        block = 3 * window * samples * pixels.itemsize
        # Pixels of both parts, their magnitudes and maxima, and masks.
        sample = (6 + 3 * self._is_complex) * window * item + 8 * window
        if pixels.kind in "fc":
            sample += 6 * 8 * window  # transforms of masks
        sums = max(part.workspace_bytes(window) for part in self._parts)
        # The sums, both limits, what is expected, its error, and masks.
        wide = max(item * (1 + self._is_complex), out.itemsize)
        compared = rows * columns * samples * (12 * wide + 32)
        return block + sample + sums + compared

    def prepare(self) -> None:
        """Load what scipy needs, before threads would."""
        x = np.ones(self.weights.shape, self._real)
        for part in self._parts:
            part(x, np.ones((1, 1), self._real))

    def expect(self, block: Block) -> Expected:
        """Expected sums of a block."""
        samples = [self._sample(block, number) for number in range(block.pixels.shape[2])]
        return Expected(*(np.stack(arrays, axis=-1) for arrays in zip(*samples, strict=True)))

    def _sample(self, block: Block, number: int) -> tuple[np.ndarray, ...]:
        """Sums, allowed errors, units and where they are beyond the range, of one sample."""
        parts = self._pixels(block, number)
        finite = np.logical_and.reduce([np.isfinite(part) for part in parts])
        clean = parts
        if not finite.all():
            clean = [np.where(finite, part, part.dtype.type(0)) for part in parts]
        with np.errstate(over="ignore"):
            sizes = np.abs(clean[0]) if len(parts) == 1 else np.hypot(*clean)
        most = window_most(sizes, self.weights.shape)
        # In long double nothing overflows.
        reach = self._total.astype(self._real) * most
        unit = np.where(most > 0, self._factor * reach + self._least.astype(self._real), 0)
        allowed = unit
        if self._whole:
            allowed = np.where(reach <= self._exact, 0, unit).astype(self._real)
        beyond = reach > self._most
        if self._by_remainder:
            sums = self._whole_sums(block, number, clean[0], float(reach.max(initial=0)))
        else:
            sums = self._sums(clean, allowed, unit)
            sums[most == 0] = 0
        if not finite.all():
            self._put_back(sums, parts, ~finite, beyond)
        if self.accumulator.kind in "iu":
            unit = np.ones_like(unit)
        return sums, allowed, unit, beyond

    def _pixels(self, block: Block, number: int) -> list[np.ndarray]:
        """Real pixels, or the parts of complex ones, in the precision of the sums here."""
        if block.pixels.dtype.kind != "c":
            fill = self._fill.real if self._is_complex else self._fill
            return [block.sample(number, self._real, fill)]
        wide = np.result_type(self._real, np.complex64)
        values = block.sample(number, wide, self._fill)
        return [np.ascontiguousarray(values.real), np.ascontiguousarray(values.imag)]

    def _sums(self, x: list[np.ndarray], allowed: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Sums of finite pixels, each within a small part of what is allowed."""
        enough = OWN_PART * unit
        if self._whole:
            # Off by less than a half, whole sums come out exact.
            enough = np.where(allowed > 0, enough, 0.25)
        real = self._added(x[0], self._parts[0], enough)
        if not self._is_complex:
            if self._whole:
                np.rint(real, where=allowed == 0, out=real)
            return real
        sums = np.empty(real.shape, np.result_type(self._real, np.complex64))
        sums.real, sums.imag = real, 0
        if len(x) > 1:
            sums.imag += self._added(x[1], self._parts[0], enough)
        if len(self._parts) > 1:
            sums.imag += self._added(x[0], self._parts[1], enough)
            if len(x) > 1:
                sums.real -= self._added(x[1], self._parts[1], enough)
        return sums

    def _added(self, x: np.ndarray, part: Sums, enough: np.ndarray) -> np.ndarray:
        """Sums of one part, those anew, product by product, that may be too far off."""
        found: Found = part(x, enough)
        doubtful = (found.error > enough) & (enough > 0)
        if doubtful.any():
            found.sums[doubtful] = part.at(x, np.argwhere(doubtful))
        return found.sums

    def _whole_sums(self, block: Block, number: int, x: np.ndarray, reach: float) -> np.ndarray:
        """Exact sums of whole numbers, in long double."""
        assert self._remainders is not None
        values = modulo(block.pixels[..., number])
        fill = np.uint64(int(self._fill) % (1 << 64))
        values[block.outside_rows] = fill
        values[:, block.outside_columns] = fill
        near = self._parts[0](x, np.ones((1, 1))).sums if reach >= 2.0**62 else None
        return resolved(whole_sums(values, self._remainders), near)

    def _put_back(
        self, sums: np.ndarray, x: list[np.ndarray], lost: np.ndarray, beyond: np.ndarray
    ) -> None:
        """Set what scipy.signal makes of pixels that are infinite or NaN, in place."""
        if self._is_complex:
            # Which parts become NaN depends on how products are formed; none stays finite.
            sums[window_most(lost, self.weights.shape)] = complex(np.nan, np.nan)
            return
        weights, pixels = self.weights.values, x[0]
        plus, minus, nan = pixels == np.inf, pixels == -np.inf, np.isnan(pixels)
        above, below = weights > 0, weights < 0
        up = _hits(plus, above) | _hits(minus, below)
        down = _hits(plus, below) | _hits(minus, above)
        none = window_most(nan, weights.shape) | _hits(plus | minus, weights == 0)
        sums[up], sums[down] = np.inf, -np.inf
        sums[none | (up & down)] = np.nan
        with np.errstate(over="ignore", under="ignore"):
            held = weights.astype(self.accumulator)
        unheld = ((held == 0) & (weights != 0)) | ~np.isfinite(held)
        # Infinity times a weight that the accumulator may not hold is whatever it is.
        beyond |= _hits(plus | minus, unheld)


def _as_summed(fill: float, accumulator: np.dtype) -> Any:
    """A fill value in the dtype that sums are formed in."""
    if accumulator.kind in "iu":
        return int(fill)
    with np.errstate(over="ignore"):
        return np.asarray(fill).astype(accumulator)[()]


def _hits(marked: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Outputs with a marked pixel under a weight of the footprint; those are counted."""
    rows, columns = (n - k + 1 for n, k in zip(marked.shape, footprint.shape, strict=True))
    if not marked.any() or not footprint.any():
        return np.zeros((rows, columns), dtype=bool)
    from scipy import fft

    size = [fft.next_fast_len(length, real=True) for length in marked.shape]
    spectrum = fft.rfft2(marked.astype(np.float64), size, workers=1)
    spectrum *= np.conj(fft.rfft2(footprint.astype(np.float64), size, workers=1))
    count = fft.irfft2(spectrum, size, workers=1)[:rows, :columns]
    return np.asarray(count > 0.5)
