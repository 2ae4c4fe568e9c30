"""The geometry of overlap-save: cells of output, and the transforms that compute them.

A transform of length N of a window of N pixels yields ``N - k + 1`` outputs of a kernel
of k weights that no wrapping around has touched. The outputs are therefore cut into cells
of ``step`` pixels, each computed from its own window of ``step + k - 1``::

    windows   |-------------------|
                           |-------------------|
    cells     |------------|------------|-----
              0          step       2 * step

Cells lie on a lattice fixed to output pixel (0, 0), so that nothing depends on tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tileconv.core.grid import Shape, ceil_div

STEPS = (64, 128, 256, 512, 1024, 2048)
"""Lengths a window's outputs may have: powers of two, so that tiles are multiples of it."""

UNIT = 16
"""Transforms have multiples of it: the most elements a processor's vector has."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of ``step`` outputs, computed by one transform of ``size`` points.

    Real pixels come in pairs of windows, next to each other, as the real and the imaginary
    part of one transform: a cell is as wide as both.

    Parameters
    ----------
    step, size : (int, int)
        Rows and columns; ``size >= step / (1, windows) + k - 1``.
    windows : int
        2 for real pixels, 1 for complex ones.
    cost_ns : float
        Estimated time for one output pixel.
    """

    step: Shape
    size: Shape
    windows: int
    cost_ns: float

    @property
    def width(self) -> int:
        """Columns of output of one window."""
        return self.step[1] // self.windows


def fast_length(n: int) -> int:
    """Least number not below `n` with no prime factor but 2, 3 and 5.

    ``scipy.fft.next_fast_len(n, real=True)``, without importing it to plan.
    """
    best = 1 << max(n - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            best = min(best, three << (ceil_div(n, three) - 1).bit_length())
            three *= 3
        five *= 5
    return best


def transform_length(n: int) -> int:
    """Least multiple of `UNIT` not below `n` with no prime factor but 2, 3 and 5."""
    return UNIT * fast_length(ceil_div(n, UNIT))


TRANSFORM_NS = ((4 << 20, 1.75), (8 << 20, 2.1), (24 << 20, 3.5))
"""Time for a float32 of a window: forward and inverse transform with a ready spectrum, by the
bytes of the pair of windows; on one core of a 2-core AMD EPYC x86-64 (AVX-512) with 1 MiB of
cache a core and 32 MiB for both, 2026-11."""

SLOWEST_NS = 16.0
"""For windows larger than any of these."""

LONGEST = 1280
"""Points of a line, above which windows of any size take what those of 24 MiB do."""


def transform_ns(size: Shape, itemsize: int) -> float:
    """Time for one real number of a pair of windows of `size` points of 2 x `itemsize` bytes."""
    nbytes = 2 * size[0] * size[1] * itemsize
    long = 0 if max(size) <= LONGEST else TRANSFORM_NS[-1][0]
    fitting = (ns for most, ns in TRANSFORM_NS if max(nbytes, long) <= most)
    return next(fitting, SLOWEST_NS) * itemsize / 4


@lru_cache(maxsize=256)
def plan_cells(kernel_shape: Shape, accumulator: np.dtype) -> Cells:
    """The cells that cost least for each output pixel; the smaller ones where two are equal."""
    kr, kc = kernel_shape
    windows = 1 if accumulator.kind == "c" else 2
    itemsize = accumulator.itemsize * windows // 2
    best: Cells | None = None
    for rows in STEPS:
        for columns in STEPS:
            size = transform_length(rows + kr - 1), transform_length(columns + kc - 1)
            points, outputs = size[0] * size[1], rows * columns * windows
            cost = transform_ns(size, itemsize) * 2 * points / outputs
            if best is None or cost < best.cost_ns:
                best = Cells((rows, columns * windows), size, windows, cost)
    assert best is not None
    return best
