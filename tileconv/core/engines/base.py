"""What an engine is: it applies one kernel to extended blocks."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tileconv.core.grid import Shape
from tileconv.core.pixels import Cast, CastCounts


class Engine(Protocol):
    """Applies a prepared kernel to blocks, one at a time, from any number of threads.

    An engine sees an *extended block*, the output region grown by the kernel's reach
    with the edge rule already applied, and returns the valid part. It knows nothing of
    files, edges or tiles. It is immutable once made, and picklable.
    """

    @property
    def method(self) -> str:
        """Its name: reference, direct, separable or fft."""

    @property
    def accumulator(self) -> np.dtype:
        """The dtype sums are formed in."""

    @property
    def lattice(self) -> Shape:
        """Rows and columns of the lattice, fixed to output pixel (0, 0), its work lies on.

        ``(1, 1)`` where a pixel's value depends on nothing but its window. An engine that
        works in larger cells (fft) must be given output regions that start on the lattice
        and stop on it or at the end of the output; then its values do not depend on tiles.
        """

    @property
    def held_bytes(self) -> int:
        """Bytes the engine itself holds: weights, factors, a spectrum. Once in a process."""

    @property
    def preparing_bytes(self) -> int:
        """Bytes it takes besides, once, before its first block."""

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Upper bound of what `apply` allocates for an output of `shape`."""

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out` from `block`.

        Parameters
        ----------
        block : ndarray, shape (rows + kr - 1, columns + kc - 1, samples)
            Any real or complex dtype; not changed.
        out : ndarray, shape (rows, columns, samples)
            Written, in ``cast.dtype``. May be a view.
        cast : Cast
            How accumulated values become output pixels.
        """
