"""A cell whose pixels are of very different sizes: transformed in passes, the largest first.

Beside a pixel of 1e20 a transform loses all that is small, also where that pixel is out of reach.
So each pass serves the outputs it is accurate enough for, those whose windows hold the largest
pixels; these pixels are then in no window of the outputs that are left, and the next pass does
without them::

    pixels    1 2 1 9e9 1 1 2 1        1 2 1 0 1 1 2 1
    outputs   . . x  x  x . . .        x x . . . x x x

Outputs whose windows hold only zeros are 0. What would take more passes than it is worth is
summed directly. All of it depends on the pixels of the cell alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from tileconv.core.engines.accuracy import Accuracy
from tileconv.core.engines.direct import DirectEngine
from tileconv.core.engines.magnitudes import exponents, window_maxima
from tileconv.core.engines.slabs import pieces
from tileconv.core.engines.windows import Sums, Windows
from tileconv.core.grid import Shape
from tileconv.core.pixels import Cast
from tileconv.core.roundings import scaled

PATCH = 64
"""Rows and columns of outputs that are summed directly at a time."""

EASY = {4: 40, 8: 300}
"""Pixels up to 2 to this power, and down to its reciprocal, are transformed as they are; by the
bytes of a real number."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell's pixels, and how large they are in the window of each output.

    A level is an exponent as `magnitudes.exponents` has them.

    Parameters
    ----------
    pixels : ndarray, shape (rows + kr - 1, columns + kc - 1)
        Finite, in the accumulation dtype.
    levels : list of ndarray
        Of the pixels of each window.
    highest : list of ndarray
        The highest level in the window of each output, for each part of the sums.
    """

    pixels: np.ndarray
    levels: list[np.ndarray]
    highest: list[np.ndarray]

    @classmethod
    def of(cls, pixels: np.ndarray, windows: Windows, kernel_shape: Shape) -> Cell:
        """The cell of these pixels."""
        levels = [exponents(part) for part in windows.parts(pixels)]
        if pixels.dtype.kind == "c":
            levels = [np.maximum(*levels)] * 2
            return cls(pixels, levels, [window_maxima(levels[0], kernel_shape)])
        highest = [window_maxima(part, kernel_shape) for part in levels if part.size]
        return cls(pixels, levels, highest)

    @property
    def top(self) -> int:
        """The highest level of any window."""
        return max(int(part.max()) for part in self.highest)

    @property
    def bottom(self) -> int:
        """The lowest level of any window but those that hold only zeros."""
        # Level 0, that of zeros, becomes more than any.
        return min(int((part - part.dtype.type(1)).min()) for part in self.highest) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Precision:
    """Transforms in one precision.

    Parameters
    ----------
    windows : Windows
    accuracy : Accuracy
    cost_ns : float
        Of a pass, for each output of the cell.
    """

    windows: Windows
    accuracy: Accuracy
    cost_ns: float

    def load(self, cell: Cell, level: int) -> int:
        """Fill the windows with the pixels up to a level; the power of 2 they are divided by."""
        exponent = level - self.accuracy.bias
        if abs(exponent) <= EASY[cell.pixels.real.itemsize]:
            exponent = 0
        self.windows.fill(cell.pixels, exponent)
        self.windows.drop([levels > level for levels in cell.levels])
        return exponent

    def expected(self, exponent: int) -> int:
        """The least level that a pass over the pixels that are loaded is sure to serve."""
        return self.accuracy.served(self.accuracy.before(self.windows.pixels()), exponent)

    def run(self, exponent: int) -> int:
        """Transform what is loaded; the least level that is served."""
        pixels = self.windows.pixels()
        self.windows.transform()
        return self.accuracy.served(self.accuracy.after(pixels, self.windows.sums()), exponent)

    def passes(self, levels: int) -> int:
        """How many passes so many levels take, at most."""
        return math.ceil(levels / max(1.0, self.accuracy.span))


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Sums the cells of one kernel.

    Parameters
    ----------
    single : Precision
        In the precision of the sums.
    double : Precision or None
        In double precision, where that is more.
    direct : DirectEngine
        For what is left.
    direct_ns : float
        What it takes for an output.
    shift : int
        The power of 2 that the kernel was divided by.
    """

    single: Precision
    double: Precision | None
    direct: DirectEngine
    direct_ns: float
    shift: int

    def sums(self, pixels: np.ndarray) -> Sums:
        """The sums of a cell.

        Parameters
        ----------
        pixels : ndarray, shape (rows + kr - 1, columns + kc - 1)
            Finite, in the accumulation dtype.
        """
        cell = Cell.of(pixels, self.single.windows, self.direct.kernel.shape)
        out = [np.zeros(part.shape, pixels.dtype) for part in cell.highest]
        level, bottom = cell.top, cell.bottom
        while level >= bottom:
            precision, exponent = self._chosen(cell, level, bottom)
            served = level + 1
            if not self._is_sooner_direct(cell, precision, level):
                served = precision.run(exponent)
            if served > level:
                self._sum_directly(cell, level, out)
                break
            self._keep(precision, exponent, cell, (served, level), out)
            level = served - 1
        begins = np.cumsum([0, *(part.shape[1] for part in out)]).tolist()
        return list(zip(begins, out, strict=False))

    def _is_sooner_direct(self, cell: Cell, precision: Precision, level: int) -> bool:
        """Whether direct sums of the outputs up to a level cost less than passes over the cell."""
        outputs = sum(part.size for part in cell.highest)
        left = sum(1 for part in cell.highest for _ in patches(part, level))
        passes = precision.passes(level - cell.bottom + 1)
        return left * PATCH**2 * self.direct_ns < passes * precision.cost_ns * outputs

    def _chosen(self, cell: Cell, level: int, bottom: int) -> tuple[Precision, int]:
        """The precision of the next pass, whose windows are filled, and their exponent."""
        single = self.single
        exponent = single.load(cell, level)
        served = single.expected(exponent)
        if served <= bottom or self.double is None:
            return single, exponent
        if served <= level:
            # Two passes cost less than one in double precision.
            if single.expected(single.load(cell, served - 1)) <= bottom:
                return single, single.load(cell, level)
        return self.double, self.double.load(cell, level)

    def _keep(
        self,
        precision: Precision,
        exponent: int,
        cell: Cell,
        levels: tuple[int, int],
        out: list[np.ndarray],
    ) -> None:
        """Take over the sums of the outputs of some levels."""
        first, last = levels
        power = exponent + self.shift
        found = precision.windows.outputs()
        for into, highest, (_, sums) in zip(out, cell.highest, found, strict=True):
            where = (highest >= first) & (highest <= last)
            with np.errstate(over="ignore"):
                values = scaled(sums, power) if power else sums
                np.copyto(into, values, where=where, casting="same_kind")

    def _sum_directly(self, cell: Cell, level: int, out: list[np.ndarray]) -> None:
        """The sums of all outputs up to a level."""
        (kr, kc), cast, begin = self.direct.kernel.shape, Cast(cell.pixels.dtype), 0
        for into, highest in zip(out, cell.highest, strict=True):
            pixels = cell.pixels[:, begin : begin + into.shape[1] + kc - 1]
            for rows, columns in patches(highest, level):
                window = (slice(s.start, s.stop + k - 1) for s, k in ((rows, kr), (columns, kc)))
                sums = np.empty(into[rows, columns].shape, into.dtype)
                self.direct.apply(pixels[tuple(window)][..., None], sums[..., None], cast)
                np.copyto(into[rows, columns], sums, where=highest[rows, columns] <= level)
            begin += into.shape[1]


def patches(highest: np.ndarray, level: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a cell's outputs, `PATCH` a side, in which some are left up to a level."""
    down, across = (pieces(length, PATCH) for length in highest.shape)
    for (top, bottom), (left, right) in product(down, tuple(across)):
        part = highest[top:bottom, left:right]
        if ((part > 0) & (part <= level)).any():
            yield slice(top, bottom), slice(left, right)

