"""What a raster is, without its pixels: the description the planner works from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tileconv.core.grid import Shape


@dataclass(frozen=True, slots=True)
class Raster:
    """Shape, dtype, axes and storage layout of a raster.

    The kernel runs over `y` and `x`, which stand next to each other. The axes before
    them are *planes* (pages, channels, z, time), counted in C order by one integer;
    the axes after them are *samples* (interleaved bands), which stay interleaved.
    A block of one plane therefore has the shape ``(rows, columns, samples)``, whatever
    the raster's own axes are.

    Parameters
    ----------
    shape : tuple of int
        Length of every axis, in the file's own order.
    dtype : numpy.dtype
    dims : tuple of str
        A name for each axis, lower case, ``"y"`` and ``"x"`` among them; ``"s"`` for
        interleaved samples, ``"c"``, ``"z"``, ``"t"`` where they are known.
    chunk : (int, int) or None
        Rows and columns of a storage chunk; None where any window costs the same.
    chunk_planes : int
        Planes that one chunk holds.
    whole_chunks : bool
        Whether chunks at the far edges are stored whole, beyond the raster; strips are not.
    compression : str
        How chunks are encoded; ``"none"`` for raw pixels.
    table_bytes : int
        Memory the reader holds for this raster besides pixels (offset tables).
    reader_bytes : int
        Memory of the libraries and compiled code that only this kind of reader loads.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...]
    chunk: Shape | None = None
    chunk_planes: int = 1
    whole_chunks: bool = True
    compression: str = "none"
    table_bytes: int = 0
    reader_bytes: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.dims):
            raise ValueError(f"{len(self.shape)} axes but {len(self.dims)} names: {self.dims}")
        if self.dims.count("y") != 1 or self.dims.index("y") + 1 >= len(self.dims):
            raise ValueError(f"a raster has one y axis followed by x, got {self.dims}")
        if self.dims[self.dims.index("y") + 1] != "x":
            raise ValueError(f"x must follow y, got axes {self.dims}")
        if min(self.shape) < 0:
            raise ValueError(f"negative axis length in {self.shape}")

    @property
    def y_axis(self) -> int:
        """Position of the y axis; x is the next."""
        return self.dims.index("y")

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Lengths of the axes before y, that `planes` counts."""
        return self.shape[: self.y_axis]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Lengths of the axes after x."""
        return self.shape[self.y_axis + 2 :]

    @property
    def spatial(self) -> Shape:
        """Rows and columns."""
        return self.shape[self.y_axis], self.shape[self.y_axis + 1]

    @property
    def planes(self) -> int:
        """Number of planes."""
        return math.prod(self.plane_shape)

    @property
    def samples(self) -> int:
        """Number of interleaved samples at a pixel."""
        return math.prod(self.sample_shape)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel of one plane, all its samples."""
        return self.samples * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded raster."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk; 0 where the raster has none."""
        if self.chunk is None:
            return 0
        return math.prod(self.chunk) * self.chunk_planes * self.pixel_bytes

    def plane_index(self, plane: int) -> tuple[int, ...]:
        """Index on the plane axes of the plane numbered `plane`."""
        return tuple(int(i) for i in np.unravel_index(plane, self.plane_shape))
