"""One tile of an output checked: read, extend, recompute with scipy, compare."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from tileconv.core.boundary import read_extended
from tileconv.core.factors import factorise
from tileconv.core.grid import Region, Tile, align_down
from tileconv.core.methods import Choice, Method
from tileconv.core.pixels import Cast, error_bound
from tileconv.core.raster import Raster
from tileconv.errors import InputError, TileconvError, VerificationError
from tileconv.jobs.work import Work
from tileconv.stores.source import Source
from tileconv.verification.comparison import Bound, Comparison, compare
from tileconv.verification.recomputation import ScipyEngine, sizes_of


def recomputing(work: Work, output: Raster) -> Work:
    """A job's work as it is checked: the engine is scipy, what was written is read.

    Parameters
    ----------
    work : Work
        The job's.
    output : Raster
        What stands where the job writes.
    """
    kernel, accumulator = work.operation.kernel, work.engine.accumulator
    separable = work.choice.method is Method.SEPARABLE
    factors = factorise(kernel, accumulator) if separable else None
    engine = ScipyEngine(kernel, accumulator, work.engine.lattice, factors)
    layout = replace(
        work.layout,
        # A chunk as it is stored, and as it comes out of the codec.
        write_bytes=2 * output.chunk_bytes,
        table_bytes=output.table_bytes + output.reader_bytes,
    )
    choice = Choice(Method.REFERENCE, "scipy is what is compared with", engine.ns_per_pixel)
    return replace(work, engine=engine, choice=choice, layout=layout)


class CheckTask:
    """Checks one tile, from any number of threads at once.

    Parameters
    ----------
    work : Work
        From `recomputing`.
    source, output : Source
    """

    def __init__(self, work: Work, source: Source, output: Source) -> None:
        assert isinstance(work.engine, ScipyEngine)
        self.work = work
        self.engine = work.engine
        self.source = source
        self.output = output
        weights = work.operation.kernel
        # The kernel is not asked again for each piece: it may have millions of weights.
        self._gain = weights.gain
        self._growth = self.engine.growth
        self._whole = (
            work.block_dtype.kind in "biu" and weights.is_integral and work.cast.dtype.kind in "iu"
        )

    def __call__(self, tile: Tile) -> Comparison:
        """Compare the pixels of one tile, piece by piece.

        Returns
        -------
        Comparison
            Its worst value at (plane, row, column, sample).

        Raises
        ------
        InputError
            The source cannot be read.
        VerificationError
            The output cannot be read.
        """
        work, samples = self.work, self.work.source.samples
        window = work.window(tile.region)
        block = np.empty((*window.shape, samples), work.block_dtype)
        read_extended(
            partial(self.source.read, tile.plane),
            window,
            work.source.spatial,
            work.operation.boundary,
            work.operation.fill_value,
            block,
        )
        found = np.empty((*tile.region.shape, samples), work.cast.dtype)
        self._read_output(tile, found)
        result = Comparison()
        # What the job's engine computes at once has one bound, and many pieces.
        sizes: dict[Region, tuple[float, float]] = {}
        for piece in self._pieces(tile.region):
            part = found[piece.within(tile.region).slices]
            cell = work.computed(piece)
            if cell not in sizes:
                seen = block[work.operation.window(cell).within(window).slices]
                sizes[cell] = magnitudes(seen, self.engine.usual)
            pixels = block[work.operation.window(piece).within(window).slices]
            compared = self._compare(pixels, part, *sizes[cell])
            if compared.worst is not None:
                row, column, sample = compared.worst.at
                at = tile.plane, piece.start[0] + row, piece.start[1] + column, sample
                compared = replace(compared, worst=replace(compared.worst, at=at))
            result = result.plus(compared)
        return result

    def _read_output(self, tile: Tile, found: np.ndarray) -> None:
        try:
            self.output.read(tile.plane, tile.region, found)
        except InputError as error:
            raise unreadable(error) from error

    def _pieces(self, region: Region) -> Iterator[Region]:
        """What is computed at a time: cells of a lattice fixed to the raster."""
        side = self.engine.side
        rows, columns = (
            range(align_down(a, side), b, side)
            for a, b in zip(region.start, region.stop, strict=True)
        )
        for y, x in product(rows, columns):
            yield Region((y, x), (y + side, x + side)).intersect(region)

    def _compare(
        self, pixels: np.ndarray, found: np.ndarray, usual: float, largest: float
    ) -> Comparison:
        """Compare one piece; `usual` and `largest` are `magnitudes` of what its engine saw."""
        work, engine = self.work, self.engine
        complex_output = work.cast.dtype.kind == "c"
        dtype = np.result_type(engine.accumulator, np.complex64 if complex_output else np.float64)
        sums = np.empty(found.shape, dtype)
        engine.apply(pixels, sums, Cast(dtype))
        unit: float | np.ndarray = self._error(usual)
        if largest > usual:
            near = engine.reached(np.isfinite(pixels) & (sizes_of(pixels) > engine.usual))
            unit = np.where(near, self._error(largest), unit)
        exact = self._whole and self._gain * largest <= engine.exact
        if exact:
            np.rint(sums, out=sums)
        above, below = self._overflow(pixels, sums, unit, largest)
        return compare(found, sums, Bound(0.0 if exact else unit, unit, above, below), work.cast)

    def _error(self, largest: float) -> float:
        """The error bound where pixels are up to `largest`."""
        return error_bound(self._gain, largest, self.engine.judged)

    def _overflow(
        self, pixels: np.ndarray, sums: np.ndarray, error: float | np.ndarray, largest: float
    ) -> tuple[bool | np.ndarray, bool | np.ndarray]:
        """Where the job's sums may have exceeded either end of their range on the way.

        Sums that end inside the range may leave it there, and never come back.
        """
        most = np.finfo(self.engine.judged).max
        if not math.isfinite(self._growth):
            return True, True
        # Most kernels cannot do that with any of these pixels.
        if self._growth * largest + np.max(error) < most:
            return False, False
        above, below = self.engine.swings(pixels)
        # Infinite pixels, too, meet sums that have left at the other end.
        up, down = sums == np.inf, sums == -np.inf
        return up | (above + error >= most), down | (below + error >= most)


def magnitudes(x: np.ndarray, usual: float) -> tuple[float, float]:
    """Largest magnitude up to `usual`, and largest finite magnitude; 0 for none."""
    if x.dtype.kind in "biu":
        largest = float(max(int(x.max()), -int(x.min())))
        return largest, largest
    most_usual = most = 0.0
    for top in range(0, x.shape[0], _BAND_ROWS):
        sizes = sizes_of(x[top : top + _BAND_ROWS])
        largest = float(sizes.max())
        if not math.isfinite(largest):
            sizes = sizes[np.isfinite(sizes)]
            largest = float(sizes.max(initial=0))
        most = max(most, largest)
        if largest > usual:
            largest = float(sizes[sizes <= usual].max(initial=0))
        most_usual = max(most_usual, largest)
    return most_usual, most


_BAND_ROWS = 16
"""Rows looked at a time, so that their magnitudes take no memory to speak of."""


def unreadable(error: TileconvError) -> VerificationError:
    """What a reader says of an output."""
    return VerificationError(f"the output cannot be read: {told(error)}; run the job again")


def told(error: TileconvError) -> str:
    """What happened, without the name and the advice that are for inputs."""
    what, _, _ = str(error).partition("; ")
    return what.replace("input ", "output ", 1) if what.startswith("input ") else what
