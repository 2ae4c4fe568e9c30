"""One tile of an output checked: read, extend, recompute, compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from tileconv.core.grid import Region, Tile
from tileconv.errors import InputError, TileconvError, VerificationError
from tileconv.verification.comparison import Bound, Comparison, Target, compare
from tileconv.verification.extending import extended
from tileconv.verification.planning import CheckPlan, patches, pieces


class CheckTask:
    """Checks one tile, from any number of threads at once.

    Parameters
    ----------
    plan : CheckPlan
    rule : str
        At the edges.
    target : Target
        What sums become.
    seed : int or None
        Of which pixels of a tile are taken, where not all are; None for all.
    """

    def __init__(self, plan: CheckPlan, rule: str, target: Target, seed: int | None) -> None:
        self.plan = plan
        self._rule, self._target, self._seed = rule, target, seed

    def __call__(self, tile: Tile) -> Comparison:
        """Compare the pixels of one tile, piece by piece.

        Returns
        -------
        Comparison
            Its worst value at (plane, row, column, sample).

        Raises
        ------
        InputError
            The input cannot be read.
        VerificationError
            The output cannot be read.
        """
        result = Comparison()
        if not self.plan.input.raster.samples:
            return result
        for piece in self._pieces(tile):
            compared = self._compare(tile.plane, piece)
            if compared.worst is not None:
                row, column, sample = compared.worst.at
                at = tile.plane, piece.start[0] + row, piece.start[1] + column, sample
                compared = replace(compared, worst=replace(compared.worst, at=at))
            result = result.plus(compared)
        return result

    def _pieces(self, tile: Tile) -> Iterable[Region]:
        """The regions computed one at a time: all of the tile, or some squares of it."""
        side = self.plan.recomputation.side
        if self._seed is None or self.plan.share >= 1:
            return pieces(tile.region, side)
        return patches(tile, side, self.plan.share, self._seed)

    def _compare(self, plane: int, piece: Region) -> Comparison:
        recomputation, raster = self.plan.recomputation, self.plan.input.raster
        block = extended(
            partial(self.plan.input.read, plane),
            recomputation.weights.window(piece),
            raster.spatial,
            raster.samples,
            self._rule,
            raster.dtype,
        )
        expected = recomputation.expect(block)
        found = np.empty((*piece.shape, raster.samples), self._target.dtype)
        try:
            self.plan.output.read(plane, piece, found)
        except InputError as error:
            raise unreadable(error) from error
        bound = Bound(expected.allowed, expected.unit, expected.beyond)
        return compare(found, expected.sums, bound, self._target)


def unreadable(error: TileconvError) -> VerificationError:
    """The error about an output that cannot be read."""
    return VerificationError(f"the output cannot be read: {told(error)}; run the job again")


def told(error: TileconvError) -> str:
    """What happened, without the name and the advice that are for inputs."""
    what, _, _ = str(error).partition("; ")
    return what.replace("input ", "output ", 1) if what.startswith("input ") else what
