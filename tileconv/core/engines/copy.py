"""Copy: pixels as they are, for what is stored without being convolved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tileconv.core.grid import Shape
from tileconv.core.pixels import Cast, CastCounts


@dataclass(frozen=True, slots=True, eq=False)
class CopyEngine:
    """Leaves every pixel as it is; its kernel is 1 x 1 and never multiplied.

    Not a method that can be asked for: a convolution with one weight of 1 sums in an
    accumulation dtype, this keeps bool, 64-bit integers and NaN payloads too.

    Parameters
    ----------
    accumulator : numpy.dtype
        Of block and output.
    """

    accumulator: np.dtype

    method = "copy"
    lattice: Shape = (1, 1)
    held_bytes = 0
    preparing_bytes = 0

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Nothing."""
        del shape, samples, block, out
        return 0

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Copy `block` to `out`; see `Engine`."""
        assert cast.dtype == block.dtype
        out[...] = block
        return CastCounts()
