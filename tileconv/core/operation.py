"""What is done to a raster: a kernel under an edge rule, and which outputs are kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tileconv.core.boundary import Boundary
from tileconv.core.grid import Region, Shape
from tileconv.core.kernels import Kernel


class Mode(StrEnum):
    """Which outputs are kept, as scipy.signal names them."""

    FULL = "full"
    SAME = "same"
    VALID = "valid"


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A kernel, the rule at the edges, and which outputs are kept.

    Output pixel o reads the input positions ``o + offset .. o + offset + k - 1``, so
    everything about modes is one integer for each axis:

    =====  ==============  ============
    mode   output length   offset
    =====  ==============  ============
    full   n + k - 1       1 - k
    same   n               -anchor
    valid  max(n-k+1, 0)   0
    =====  ==============  ============
    """

    kernel: Kernel
    mode: Mode = Mode.SAME
    boundary: Boundary = Boundary.SYMM
    fill_value: complex = 0

    @property
    def offset(self) -> Shape:
        """First input position that output pixel (0, 0) reads."""
        (rows, columns), (ay, ax) = self.kernel.shape, self.kernel.anchor
        match self.mode:
            case Mode.FULL:
                return 1 - rows, 1 - columns
            case Mode.SAME:
                return -ay, -ax
            case Mode.VALID:
                return 0, 0

    @property
    def placement(self) -> Shape:
        """Input position that output pixel (0, 0) lies on."""
        (dy, dx), (ay, ax) = self.offset, self.kernel.anchor
        return dy + ay, dx + ax

    def output_shape(self, shape: Shape) -> Shape:
        """Rows and columns of the output for an input of `shape`."""
        (rows, columns), (kr, kc) = shape, self.kernel.shape
        match self.mode:
            case Mode.FULL:
                return rows + kr - 1, columns + kc - 1
            case Mode.SAME:
                return shape
            case Mode.VALID:
                return max(rows - kr + 1, 0), max(columns - kc + 1, 0)

    def window(self, region: Region) -> Region:
        """Input positions that the outputs of `region` read; it may leave the raster."""
        (dy, dx), (rows, columns) = self.offset, self.kernel.shape
        (y0, x0), (y1, x1) = region.start, region.stop
        return Region((y0 + dy, x0 + dx), (y1 + dy + rows - 1, x1 + dx + columns - 1))
