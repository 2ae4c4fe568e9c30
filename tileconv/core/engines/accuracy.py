"""How wrong a transform may be, and which outputs that is good enough for.

An output may be wrong by 64 eps S M: S is the sum of the kernel's magnitudes, M the largest pixel
of the output's own window. But the rounding of a transform is that of everything it computes.
For N points x, their sums y, and weights k, each output is wrong by less than::

    eps * (A * |k|2 * |x|2 / sqrt(N)  +  B * |y|2 / sqrt(N)  +  C * max|y|  +  D * |k|2 * |x|w)

with ``| |2`` the root of a sum of squares, and ``| |w`` the largest of those of windows. The first
term is the forward transform's, whose errors look like noise that the kernel then filters; the
second is the inverse's. The other two are parts of few large pixels or sums, or of regular ones,
that appear half a transform, a quarter, and so on, away from them, in space or in frequency:
behind a kernel that lets through what it had kept out before. The root of log N in the usual
bounds (N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, chapter 24) hardly varies,
and is in the constants. Before the sums are there, they are taken to be as large as they may be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tileconv.core.engines.magnitudes import Magnitudes
from tileconv.core.engines.transforms import Transform
from tileconv.core.roundings import error_factor

FORWARD, INVERSE, ECHO, MOVED = 4.0, 4.5, 3.2, 1.5
"""The constants A, B, C and D, in single precision.

No error above 0.82 of that was found in 6,000 cells of patterns of 14 kinds (noise, disks, stars,
combs, waves, ramps), under kernels of 8 kinds from 1 x 6 to 140 x 140, x86-64, 2026-11.
"""

DOUBLE = 2.0
"""They are so many times as large in double precision, where spectra and roots of unity have
errors of their own, instead of being rounded from something better."""

NOTHING = 1 << 15
"""More than the level of any pixel."""

EASY = {4: 40, 8: 300}
"""Exponents of pixels and of gains that are transformed as they are, at most, by the bytes of a
real number: no product or sum comes near the end of its range."""

SINGLE_BIAS, DOUBLE_BIAS = 127, 1023
"""Of exponents, as IEEE 754 stores them."""

SHARE = 0.95
"""Part of the bound that is left to a transform; weights and sums are rounded, too."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of transforms of a kernel in one precision, and the outputs they are small enough for.

    Parameters
    ----------
    gain, norm : float
        Sum of the magnitudes of the weights as they are transformed, and the root of the sum of
        their squares.
    most : float
        Largest magnitude of their spectrum.
    points : int
        Of the transform.
    eps : float
        Of what it is formed in, times `DOUBLE` in double precision.
    allowed : float
        Error that an output may have, as a part of `gain` and the largest pixel of its window.
    bias : int
        Of `magnitudes.levels`, in the dtype of sums.
    floor : float
        Logarithm, to base 2, of the error that an output may have whatever its window holds.
    """

    gain: float
    norm: float
    most: float
    points: int
    eps: float
    allowed: float
    bias: int
    floor: float

    @property
    def easy(self) -> int:
        """Pixels up to 2 to this power, and down to its reciprocal, are transformed as they are."""
        return EASY[4 if self.bias == SINGLE_BIAS else 8]

    def before(self, pixels: Magnitudes) -> float:
        """Largest error of any output, from what the pixels are."""
        rms = math.sqrt(pixels.total / self.points)
        peak = min(self.gain * pixels.peak, self.norm * math.sqrt(pixels.total))
        return self.eps * ((FORWARD * self.norm + INVERSE * self.most) * rms + ECHO * peak)

    def after(self, pixels: Magnitudes, densest: float, sums: Magnitudes) -> float:
        """The same, and less, once the sums are there.

        Parameters
        ----------
        pixels, sums : Magnitudes
        densest : float
            No window of pixels has a sum of squares above this.
        """
        rms, spread = (math.sqrt(found.total / self.points) for found in (pixels, sums))
        forward = FORWARD * self.norm * rms
        moved = MOVED * min(self.gain * pixels.peak, self.norm * math.sqrt(densest))
        return self.eps * (forward + moved + INVERSE * spread + ECHO * sums.peak)

    def serves(self, error: float, least: float) -> bool:
        """Whether an error is small enough where each window holds a magnitude of `least`."""
        return least > 0 and error <= self.limit * least

    @property
    def limit(self) -> float:
        """Error that an output may have, as a part of the largest pixel of its window."""
        return SHARE * self.allowed * self.gain

    @property
    def span(self) -> float:
        """Levels that a transform of pixels of any kind serves, from that of the largest down."""
        worst = self.eps * (FORWARD * self.norm + INVERSE * self.most + ECHO * self.gain)
        return math.log2(self.limit / worst) if worst else math.inf

    def served(self, error: float, exponent: int) -> int:
        """The least level of a window's largest pixel that an error is small enough for.

        Parameters
        ----------
        error : float
            Of sums over pixels that were divided by ``2**exponent``.
        exponent : int
        """
        if error == 0:
            return 1
        if not math.isfinite(error):
            return NOTHING
        size = math.log2(error) + exponent
        if size <= self.floor:
            return 1
        if self.limit == 0:
            return NOTHING
        return max(2, math.ceil(size - math.log2(self.limit)) + self.bias)


def accuracy_of(
    weights: np.ndarray, shift: int, transform: Transform, accumulator: np.dtype
) -> Accuracy:
    """The accuracy of the transform of a kernel.

    Parameters
    ----------
    weights : ndarray
        As they are transformed, divided by ``2**shift``.
    shift : int
    transform : Transform
    accumulator : numpy.dtype
        What the sums are rounded to.
    """
    sizes = np.abs(weights).astype(np.float64)
    info = np.finfo(accumulator)
    single = info.dtype.itemsize == 4
    return Accuracy(
        gain=float(sizes.sum()),
        norm=float(np.sqrt((sizes * sizes).sum())),
        most=transform.most,
        points=math.prod(transform.size),
        eps=float(np.finfo(transform.dtype).eps) * (1 if transform.dtype.itemsize == 4 else DOUBLE),
        allowed=error_factor(accumulator, transformed=True),
        bias=SINGLE_BIAS if single else DOUBLE_BIAS,
        floor=math.log2(SHARE * sizes.size) + math.log2(info.smallest_subnormal) - shift,
    )
