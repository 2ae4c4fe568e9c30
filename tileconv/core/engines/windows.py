"""The two windows of a cell: pixels go in, are measured and transformed, and sums come out."""

from __future__ import annotations

import numpy as np

from tileconv.core.buffers import aligned
from tileconv.core.engines.magnitudes import Magnitudes, Meter, levels, parts_of
from tileconv.core.engines.transforms import Transform
from tileconv.core.grid import Shape
from tileconv.core.overlap_save import UNIT, Cells

PADDING = UNIT
"""Elements between the rows of a window: rows a power of two apart would share their places in
the cache."""

Sums = list[tuple[int, np.ndarray]]
"""Sums of a cell, side by side: the first column of each, and the sums."""


class Windows:
    """Memory for the windows of a cell, real ones side by side or the parts of a complex one.

    Parameters
    ----------
    cells : Cells
    kernel_shape : (int, int)
    transform : Transform
        Of the kernel, in the dtype that the windows get.
    """

    def __init__(self, cells: Cells, kernel_shape: Shape, transform: Transform) -> None:
        (height, width), dtype = cells.size, transform.dtype
        self._cells, self._kernel_shape = cells, kernel_shape
        self.dtype = dtype
        memory = aligned((2, height, width + PADDING), dtype)
        # What lies beyond the rows is measured, too.
        memory[..., width:] = 0
        self._planes = memory[..., :width]
        self._meter = Meter(self._planes, kernel_shape)
        self._transform = transform.bound(*self._planes)
        self._shapes: list[Shape] = []

    @staticmethod
    def nbytes(cells: Cells, kernel_shape: Shape, dtype: np.dtype) -> int:
        """Bytes of the windows of cells, in a real dtype."""
        rows, columns = cells.size
        return (2 * rows + kernel_shape[0] + 4) * (columns + 3 * PADDING) * dtype.itemsize

    @property
    def together(self) -> bool:
        """Whether both hold the same pixels, real and imaginary parts."""
        return self._cells.windows == 1

    def _parts(self, pixels: np.ndarray) -> list[np.ndarray]:
        """The pixels of a cell that each of the two windows holds."""
        if self.together:
            return [pixels.real, pixels.imag]
        width = self._cells.width
        parts = [pixels[:, : width + self._kernel_shape[1] - 1], pixels[:, width:]]
        # A narrow cell, at the end of the output, has no second one.
        return parts if parts[1].shape[1] >= self._kernel_shape[1] else [parts[0], parts[1][:, :0]]

    def fill(self, pixels: np.ndarray, exponent: int = 0) -> None:
        """Take the pixels of a cell, divided by ``2**exponent``."""
        parts = self._parts(pixels)
        self._shapes = [part.shape for part in parts]
        for plane, part in zip(self._planes, parts, strict=True):
            down, across = part.shape
            if exponent:
                with np.errstate(over="ignore"):  # Of pixels that are dropped.
                    np.ldexp(part.astype(self.dtype, copy=False), -exponent, plane[:down, :across])
            else:
                plane[:down, :across] = part
            plane[:down, across:] = 0
            plane[down:] = 0

    def levels(self) -> list[np.ndarray]:
        """The `magnitudes.levels` of the pixels that each window holds; of both, if together."""
        found = [
            levels(plane[:down, :across])
            for plane, (down, across) in zip(self._planes, self._shapes, strict=True)
            if across
        ]
        return [np.asarray(np.maximum(*found))] if self.together else found

    def drop(self, levels: list[np.ndarray], most: int) -> None:
        """Set the pixels above a level to 0; `levels` is what the method of that name found."""
        shared = levels * 2 if self.together else levels
        for plane, of_pixels in zip(self._planes, shared, strict=False):
            held = plane[: of_pixels.shape[0], : of_pixels.shape[1]]
            for part in parts_of(len(held)):
                np.copyto(held[part], 0, where=of_pixels[part] > most)

    def pixels(self) -> Magnitudes:
        """How large the pixels are that they hold."""
        (down, across), (_, second) = self._shapes
        return self._measured(down, (across, second))

    def densest(self) -> float:
        """No window of the kernel's shape has a sum of squares above this."""
        (down, across), (_, second) = self._shapes
        return self._meter.densest(down, (across, second))

    def sums(self) -> Magnitudes:
        """How large the sums are that they hold, those that are no outputs among them."""
        height, width = self._cells.size
        return self._measured(height, (width, width))

    def _measured(self, rows: int, columns: tuple[int, int]) -> Magnitudes:
        found = self._meter.measure(rows, columns, together=self.together)
        # Squares of small values are lost in single precision: no value exceeds the largest.
        if found.total < _LOST[self.dtype.itemsize]:
            found = found._replace(total=found.peak**2 * self._planes[0].size * 2)
        return found

    def transform(self) -> None:
        """Turn the pixels into sums."""
        self._transform()

    def outputs(self) -> Sums:
        """The sums of a cell's outputs; good until the windows are filled again."""
        kr, kc = self._kernel_shape
        rows = self._shapes[0][0] - kr + 1
        if self.together:
            columns = self._shapes[0][1] - kc + 1
            sums = np.empty((rows, columns), np.result_type(self.dtype, np.complex64))
            sums.real, sums.imag = self._planes[:, :rows, :columns]
            return [(0, sums)]
        return [
            (n * self._cells.width, plane[:rows, : across - kc + 1])
            for n, (plane, (_, across)) in enumerate(zip(self._planes, self._shapes, strict=True))
            if across
        ]


_LOST = {4: 2.0**-80, 8: 2.0**-900}
"""Sums of squares below which the squares of single values may be subnormal, by bytes."""
