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
"""Lengths a cell may have: powers of two, so that tiles are multiples of it."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of ``step`` outputs, computed by transforms of ``size`` pixels.

    Parameters
    ----------
    step, size : (int, int)
        Rows and columns; ``size >= step + k - 1``.
    cost_ns : float
        Estimated time for one output pixel.
    """

    step: Shape
    size: Shape
    cost_ns: float


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


def transform_ns(pixels: int, itemsize: int) -> float:
    """Time for one pixel of a window: forward and inverse transform with a ready spectrum.

    scipy.fft on one core of a 2-core AMD EPYC x86-64, 2026-11: float32 313, 309, 270 and
    139 Mpx/s for square windows of 256, 512, 1024 and 2048; other dtypes by their bytes.
    """
    nbytes = pixels * itemsize
    single = 3.2 if nbytes <= 2 << 20 else 3.7 if nbytes <= 6 << 20 else 7.2
    return single * itemsize / 4


@lru_cache(maxsize=256)
def plan_cells(kernel_shape: Shape, accumulator: np.dtype) -> Cells:
    """The cells that cost least for each output pixel; the smaller ones where two are equal."""
    kr, kc = kernel_shape
    best: Cells | None = None
    for rows in STEPS:
        for columns in STEPS:
            size = fast_length(rows + kr - 1), fast_length(columns + kc - 1)
            pixels = size[0] * size[1]
            cost = transform_ns(pixels, accumulator.itemsize) * pixels / (rows * columns)
            if best is None or cost < best.cost_ns:
                best = Cells((rows, columns), size, cost)
    assert best is not None
    return best
