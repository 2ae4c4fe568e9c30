"""What scipy makes of a block in double precision: the second opinion `verify` asks for.

No code here is shared with the engines whose work it judges. Up to `CHAINED_TAPS` weights it
is ``scipy.ndimage.correlate``, beyond that ``scipy.fft``, whose error in double is far below
the bound of any job. What those two cannot do as scipy.signal does it (NaN times 0, infinity,
huge pixels in a transform) is taken out first and put back where the kernel reaches it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tileconv.core.engines.fft import USUAL
from tileconv.core.engines.slabs import SLACK_BYTES
from tileconv.core.factors import Factors
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.overlap_save import fast_length
from tileconv.core.pixels import CHAINED_TAPS, Cast, CastCounts

SIDE, WIDE_SIDE = 256, 512
"""Rows and columns computed at a time, at most; the second for kernels beyond half the first.
Arrays of 256 x 256 stay below the size that the allocator gives back and asks for anew."""

EXACT_DIRECT, EXACT_FFT = 2.0**53, 2.0**40
"""Sums of whole numbers up to here are exact: in double, and after rounding a transform's."""

_PIXELS_EXPONENT = 800
"""Pixels up to 2**800 times such weights stay far inside the range of a double."""

_WEIGHTS_EXPONENT = 100
"""scipy.ndimage leaves out weights up to 2e-16; with the largest at about 2**100, none counts."""


@dataclass(frozen=True, slots=True, eq=False)
class _Correlation:
    """``out[i] = sum over t of weights[t] * x[i + t]`` for one array of real weights.

    Parameters
    ----------
    weights : ndarray, 2-D
        float64 or longdouble, scaled by a power of two.
    exponent : int
        Of the power of two that takes the scale back.
    size : (int, int) or None
        Of transforms; None for scipy.ndimage.
    spectrum : ndarray or None
        The conjugate of the weights' transform.
    """

    weights: np.ndarray
    exponent: int
    size: Shape | None
    spectrum: np.ndarray | None

    @classmethod
    def of(cls, weights: np.ndarray, size: Shape | None) -> _Correlation:
        """The correlation with `weights`, finite ones."""
        shift = _WEIGHTS_EXPONENT - math.frexp(float(np.abs(weights).max()))[1]
        scaled = np.ldexp(weights, shift)
        if size is None:
            return cls(scaled, -shift, None, None)
        from scipy import fft

        return cls(scaled, -shift, size, np.conj(fft.rfft2(scaled, size, workers=1)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The valid part for finite real pixels; overflows only where the result does."""
        x = x.astype(self.weights.dtype)
        # No more than that needs: small pixels beside huge ones would lose their last bits.
        exponent = max(0, math.frexp(float(max(x.max(), -x.min())))[1] - _PIXELS_EXPONENT)
        x = np.ldexp(x, -exponent)
        (kr, kc), (rows, columns) = self.weights.shape, x.shape
        if self.size is None:
            from scipy import ndimage

            sums = ndimage.correlate(x, self.weights, mode="constant")[kr // 2 :, kc // 2 :]
        else:
            from scipy import fft

            spectrum = fft.rfft2(x, self.size, workers=1)
            spectrum *= self.spectrum
            sums = fft.irfft2(spectrum, self.size, overwrite_x=True, workers=1)
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(
                np.ldexp(sums[: rows - kr + 1, : columns - kc + 1], exponent + self.exponent)
            )


class ScipyEngine:
    """An `Engine` that is scipy, in double precision or the accumulator's if that is wider.

    Parameters
    ----------
    kernel : Kernel
        A job's: weights of 0 count.
    judged : numpy.dtype
        What the job that is verified forms its sums in; it has seen the weights in that.
    lattice : (int, int)
        Of the job's engine, so that a tile's window holds all that engine has seen.
    factors : Factors or None
        What the job's engine has made of the kernel, where it is a sum of terms.
    """

    method = "reference"

    def __init__(
        self, kernel: Kernel, judged: np.dtype, lattice: Shape, factors: Factors | None = None
    ) -> None:
        self.kernel = kernel
        self.factors = factors
        self.judged = judged
        self.lattice = lattice
        self.accumulator = np.result_type(judged, np.float64)
        real = self.accumulator.type(0).real.dtype
        # scipy.ndimage sums in double only.
        self.direct = kernel.weights.size <= CHAINED_TAPS and real == np.float64
        kr, kc = kernel.shape
        self.side = SIDE if max(kr, kc) <= SIDE // 2 else WIDE_SIDE
        self._size = (
            None
            if self.direct
            else (fast_length(self.side + kr - 1), fast_length(self.side + kc - 1))
        )
        weights = kernel.weights.astype(self.accumulator)
        self._real = _Correlation.of(weights.real.astype(real), self._size)
        self._imaginary = (
            _Correlation.of(weights.imag.astype(real), self._size) if weights.imag.any() else None
        )
        single = judged.itemsize // (1 + (judged.kind == "c")) == 4
        # Of numpy, lest comparing narrower floats with it makes it one of them.
        self.usual = np.float64(USUAL[4 if single else 8])

    preparing_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of weights and spectra."""
        return sum(
            part.weights.nbytes + (0 if part.spectrum is None else part.spectrum.nbytes)
            for part in (self._real, self._imaginary)
            if part is not None
        )

    @property
    def exact(self) -> float:
        """Sums of whole numbers up to here are exact once they are rounded."""
        return EXACT_DIRECT if self.direct else EXACT_FFT

    @property
    def ns_per_pixel(self) -> float:
        """Roughly, on one core, 2-core x86-64, 2026-11; comparing included."""
        parts = 4 if self.accumulator.kind == "c" else 1
        if self._size is None:
            return parts * (15 + 0.45 * self.kernel.weights.size)
        return parts * (15 + 15 * math.prod(self._size) / self.side**2)

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes that judging a block of `shape` allocates, piece by piece."""
        rows, columns = (min(self.side, length) for length in shape)
        (kr, kc), item = self.kernel.shape, self.accumulator.itemsize
        window = (rows + kr - 1) * (columns + kc - 1)
        # Pixels, scaled pixels, sums; or padded pixels, their spectrum, and sums.
        sums = (3 * window if self._size is None else 4 * math.prod(self._size) + window) * item
        if block.kind in "fc":
            # What is taken out, where it was, and sums of that.
            sums += window * (2 * item + 16)
        # The sums, both limits, what is expected, its error, and masks.
        compared = rows * columns * samples * (8 * max(item, out.itemsize) + 32)
        return sums + compared + SLACK_BYTES

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out`, of at most `side` rows and columns, from `block`; see `Engine`."""
        counts = CastCounts()
        for sample in range(block.shape[2]):
            counts = counts.plus(cast.store(self._sums(block[..., sample]), out[..., sample]))
        return counts

    def reached(self, marked: np.ndarray) -> np.ndarray:
        """Outputs, of shape (rows, columns, samples), with a marked pixel under the kernel."""
        everywhere = np.ones(self.kernel.shape, dtype=bool)
        parts = [self._hits(marked[..., s], everywhere) for s in range(marked.shape[2])]
        return np.stack(parts, axis=-1)

    def swings(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far above and below 0 the job's sums of finite pixels may be on the way.

        In whatever order products are added, no partial sum exceeds that of the positive ones.
        What is complex swings both ways, as far as magnitudes go.

        Returns
        -------
        (ndarray, ndarray)
            Of shape (rows, columns, samples).
        """
        above, below = self._signed_weights()
        parts = [self._swings(block[..., s], above, below) for s in range(block.shape[2])]
        up, down = zip(*parts, strict=True)
        return np.stack(up, axis=-1), np.stack(down, axis=-1)

    @property
    def growth(self) -> float:
        """No sum swings further than this times the largest pixel; infinite if a weight is."""
        if self.factors is None:
            with np.errstate(over="ignore"):
                held = np.isfinite(self.kernel.weights.astype(self.judged))
            return self.kernel.gain if held.all() else math.inf
        columns, rows = (
            np.abs(f).sum(axis=1, dtype=np.float64)
            for f in (self.factors.columns, self.factors.rows)
        )
        return float(columns @ rows)

    def _signed_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Positive weights, and the magnitudes of negative ones, summed over terms."""
        terms = [self.kernel.weights.astype(self.accumulator)]
        if self.factors is not None:
            columns, rows = (
                f.astype(self.accumulator) for f in (self.factors.columns, self.factors.rows)
            )
            terms = [np.outer(c, r) for c, r in zip(columns, rows, strict=True)]
        if self.accumulator.kind == "c":
            sizes = np.asarray(sum(np.abs(term) for term in terms))
            return sizes, np.zeros_like(sizes)
        above, below = (sum(np.maximum(s * term, 0) for term in terms) for s in (1, -1))
        return np.asarray(above), np.asarray(below)

    def _swings(
        self, x: np.ndarray, above: np.ndarray, below: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`swings` of one sample."""

        def correlated(weights: np.ndarray, pixels: np.ndarray) -> np.ndarray:
            return _Correlation.of(weights, self._size)(pixels)

        finite = np.isfinite(x)
        if self.accumulator.kind == "c":
            both = correlated(above, np.where(finite, sizes_of(x), 0))
            return both, both
        plus, minus = (np.where(finite & part, x, x.dtype.type(0)) for part in (x > 0, x < 0))
        return (
            correlated(above, plus) - correlated(below, minus),
            correlated(below, plus) - correlated(above, minus),
        )

    def _sums(self, x: np.ndarray) -> np.ndarray:
        """Sums of one sample, as scipy.signal would form them."""
        finite = np.isfinite(x)
        if finite.all():
            return self._finite(x)
        sums = self._finite(np.where(finite, x, x.dtype.type(0)))
        everywhere = np.ones(self.kernel.shape, dtype=bool)
        if self.accumulator.kind == "c":
            # Which parts become NaN depends on how products are formed; none stays finite.
            sums[self._hits(~finite, everywhere)] = complex(np.nan, np.nan)
            return sums
        weights = self.kernel.weights.astype(self.judged)
        plus, minus = x == np.inf, x == -np.inf
        up = self._hits(plus, weights > 0) | self._hits(minus, weights < 0)
        down = self._hits(plus, weights < 0) | self._hits(minus, weights > 0)
        lost = self._hits(np.isnan(x), everywhere) | self._hits(plus | minus, weights == 0)
        sums[up], sums[down] = np.inf, -np.inf
        sums[lost | (up & down)] = np.nan
        return sums

    def _finite(self, x: np.ndarray) -> np.ndarray:
        """Sums of finite pixels; in a transform, huge ones apart, that they drown nothing."""
        if self.direct or x.dtype.kind not in "fc":
            return self._complex(x)
        huge = np.abs(x) > self.usual
        if not huge.any():
            return self._complex(x)
        sums = self._complex(np.where(huge, x.dtype.type(0), x))
        far = self._complex(np.where(huge, x, x.dtype.type(0)))
        touched = self._hits(huge, np.ones(self.kernel.shape, dtype=bool))
        return np.asarray(np.where(touched, sums + far, sums))

    def _complex(self, x: np.ndarray) -> np.ndarray:
        """Sums of finite pixels of any kind: real ones, of each part with each part."""
        if self.accumulator.kind != "c":
            return self._real(x)
        # Part by part: infinity times 1j would be NaN in the other.
        real, imaginary = self._real(x.real), self._real(x.imag)
        if self._imaginary is not None:
            real -= self._imaginary(x.imag)
            imaginary += self._imaginary(x.real)
        sums = np.empty(real.shape, self.accumulator)
        sums.real, sums.imag = real, imaginary
        return sums

    def _hits(self, marked: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Outputs with a marked pixel under a weight of the footprint."""
        (kr, kc), (rows, columns) = self.kernel.shape, marked.shape
        if not marked.any() or not footprint.any():
            return np.zeros((rows - kr + 1, columns - kc + 1), dtype=bool)
        count = _Correlation.of(footprint.astype(np.float64), self._size)(marked)
        return count > 0.5


def sizes_of(x: np.ndarray) -> np.ndarray:
    """Magnitudes of pixels; those of finite complex ones are finite as well."""
    if x.dtype.kind != "c":
        return np.asarray(np.abs(x))
    with np.errstate(over="ignore"):
        sizes = np.asarray(np.abs(x))
    # 3e38 in both parts exceeds what its dtype holds; the bound has room for the root of 2.
    return np.where(np.isfinite(x), np.minimum(sizes, np.finfo(sizes.dtype).max), sizes)
