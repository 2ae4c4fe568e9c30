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

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tileconv.core.engines.accuracy import NOTHING, Accuracy
from tileconv.core.engines.direct import DirectEngine
from tileconv.core.engines.magnitudes import PART, Magnitudes, parts_of, window_maxima
from tileconv.core.engines.windows import Sums, Windows
from tileconv.core.grid import Shape
from tileconv.core.pixels import Cast
from tileconv.core.roundings import scaled

PATCH = PART
"""Rows and columns of outputs that are summed directly at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell's pixels, and how large they are in the window of each output.

    Levels are those of `magnitudes.levels`.

    Parameters
    ----------
    pixels : ndarray, shape (rows + kr - 1, columns + kc - 1)
        Finite.
    levels : list of ndarray
        Of the pixels of each window.
    highest : list of ndarray
        The highest level in the window of each output, for each part of the sums.
    usual : list of int
        Levels of a sample of windows, the highest first.
    """

    pixels: np.ndarray
    levels: list[np.ndarray]
    highest: list[np.ndarray]
    usual: list[int]

    @classmethod
    def of(cls, pixels: np.ndarray, windows: Windows, kernel_shape: Shape) -> Cell:
        """The cell of these pixels, which the windows get."""
        windows.fill(pixels)
        levels = windows.levels()
        highest = [window_maxima(part, kernel_shape) for part in levels]
        counts = sum(np.bincount(part[::4, ::4].ravel(), minlength=1 << 11) for part in highest)
        return cls(pixels, levels, highest, np.flatnonzero(counts)[::-1].tolist())

    def below(self, level: int) -> int:
        """The highest level of any window that is less than one."""
        return max(int(part.max(initial=0, where=part < level)) for part in self.highest)

    @property
    def bottom(self) -> int:
        """The lowest level of any window but those that hold only zeros."""
        # Level 0, that of zeros, becomes more than any in its dtype.
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
        if abs(exponent) <= self.accuracy.easy:
            exponent = 0
        self.windows.fill(cell.pixels, exponent)
        self.windows.drop(cell.levels, level)
        return exponent

    def expected(self, exponent: int) -> int:
        """The least level that a pass over the pixels that are loaded is sure to serve."""
        return self.accuracy.served(self.accuracy.before(self.windows.pixels()), exponent)

    def run(self, exponent: int) -> int:
        """Transform what is loaded; the least level that is served."""
        return self.accuracy.served(self.transformed(self.windows.pixels()), exponent)

    def transformed(self, pixels: Magnitudes) -> float:
        """Transform what is loaded, pixels of these magnitudes; the largest error of any sum."""
        densest = self.windows.densest()
        self.windows.transform()
        return self.accuracy.after(pixels, densest, self.windows.sums())

    def passes(self, cell: Cell, level: int) -> int:
        """How many passes the windows of a cell up to a level should take, at most."""
        count, served = 0, level + 1.0
        for present in cell.usual:
            if 0 < present < served:
                count, served = count + 1, present - max(0.0, self.accuracy.span - 1)
        return max(1, count)


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

    def sums(self, pixels: np.ndarray, first: Sums | None = None, served: int = 0) -> Sums:
        """The sums of a cell.

        Parameters
        ----------
        pixels : ndarray, shape (rows + kr - 1, columns + kc - 1)
            Finite.
        first : Sums or None
            Those of a first pass over all of them; changed.
        served : int
            The least level that they serve.
        """
        cell = Cell.of(pixels, self.single.windows, self.direct.kernel.shape)
        if first is None:
            level = cell.below(NOTHING)
            out = [np.zeros(part.shape, self.direct.accumulator) for part in cell.highest]
        else:
            level, out = cell.below(served), [sums for _, sums in first]
            for sums, highest in zip(out, cell.highest, strict=True):
                np.copyto(sums, 0, where=highest == 0)
        bottom = cell.bottom
        while level >= bottom:
            precision, exponent = self._chosen(cell, level, bottom)
            served = level + 1
            if not self._is_sooner_direct(cell, precision, level):
                served = precision.run(exponent)
            if served > level:
                self._sum_directly(cell, level, out)
                break
            self._keep(precision, exponent, cell, (served, level), out)
            level = cell.below(served)
        begins = np.cumsum([0, *(part.shape[1] for part in out)]).tolist()
        return list(zip(begins, out, strict=False))

    def _is_sooner_direct(self, cell: Cell, precision: Precision, level: int) -> bool:
        """Whether direct sums of the outputs up to a level cost less than passes over the cell."""
        outputs = sum(part.size for part in cell.highest)
        left = PATCH**2 * sum(int(_left(part, level).sum()) for part in cell.highest)
        return left * self.direct_ns < precision.passes(cell, level) * precision.cost_ns * outputs

    def _chosen(self, cell: Cell, level: int, bottom: int) -> tuple[Precision, int]:
        """The precision of the next pass, whose windows are filled, and their exponent."""
        single = self.single
        exponent = single.load(cell, level)
        served = single.expected(exponent)
        if served <= bottom or self.double is None:
            return single, exponent
        # Two passes cost less than one in double precision.
        if served <= level and single.expected(single.load(cell, cell.below(served))) <= bottom:
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
            for part in parts_of(len(into)):
                where = (highest[part] >= first) & (highest[part] <= last)
                with np.errstate(over="ignore"):
                    values = scaled(sums[part], power) if power else sums[part]
                    np.copyto(into[part], values, where=where, casting="same_kind")

    def _sum_directly(self, cell: Cell, level: int, out: list[np.ndarray]) -> None:
        """The sums of all outputs up to a level."""
        (kr, kc), cast, begin = self.direct.kernel.shape, Cast(self.direct.accumulator), 0
        for into, highest in zip(out, cell.highest, strict=True):
            pixels = cell.pixels[:, begin : begin + into.shape[1] + kc - 1]
            for rows, columns in patches(highest, level):
                window = pixels[
                    rows.start : rows.stop + kr - 1, columns.start : columns.stop + kc - 1
                ]
                sums = np.empty(into[rows, columns].shape, into.dtype)
                self.direct.apply(window[..., None], sums[..., None], cast)
                np.copyto(into[rows, columns], sums, where=highest[rows, columns] <= level)
            begin += into.shape[1]


def patches(highest: np.ndarray, level: int) -> Iterator[tuple[slice, slice]]:
    """Parts of a cell's outputs, `PATCH` a side, in which some are left up to a level."""
    for down, across in np.argwhere(_left(highest, level)).tolist():
        rows, columns = (slice(n * PATCH, (n + 1) * PATCH) for n in (down, across))
        yield rows, columns


def _left(highest: np.ndarray, level: int) -> np.ndarray:
    """Which of the patches of a cell hold outputs up to a level."""
    starts = range(0, highest.shape[1], PATCH)
    found = []
    for part in parts_of(len(highest)):
        left = ((highest[part] > 0) & (highest[part] <= level)).any(axis=0)
        found.append(np.logical_or.reduceat(left, starts))
    return np.array(found)
