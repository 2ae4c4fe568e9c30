"""Blocks that reach beyond a raster, by index maps of their own.

Every position along an axis is given the pixel that numpy.pad would put there. What is needed
of the raster is read once, in as few rectangles as there are runs of pixels, and spread by
`numpy.take`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from tileconv.core.grid import Region, Shape

ReadBox = Callable[[Region, np.ndarray], None]
"""Fills an array of shape (rows, columns, samples) with a region inside the raster."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Pixels in the raster's dtype, and which rows and columns lie outside under ``fill``.

    Parameters
    ----------
    pixels : ndarray, shape (rows, columns, samples)
        0 where there is no pixel.
    outside_rows, outside_columns : ndarray of bool
    """

    pixels: np.ndarray
    outside_rows: np.ndarray
    outside_columns: np.ndarray

    def sample(self, number: int, dtype: np.dtype, fill: object) -> np.ndarray:
        """One sample in `dtype`, with `fill` where there is no pixel."""
        values = self.pixels[..., number].astype(dtype)
        values[self.outside_rows] = fill
        values[:, self.outside_columns] = fill
        return values


def pixel_at(rule: str, positions: np.ndarray, length: int) -> np.ndarray:
    """Pixel of an axis that a position stands for; -1 for none.

    Parameters
    ----------
    rule : str
        ``fill``, ``wrap``, ``symm``, ``nearest`` or ``mirror``.
    positions : ndarray of int64
    length : int
        Of the axis, 1 or more.
    """
    last = length - 1
    match rule:
        case "wrap":
            found = positions - length * np.floor_divide(positions, length)
        case "nearest":
            found = np.maximum(np.minimum(positions, last), 0)
        case "symm":
            # A wave that rises over the axis and falls over its image, in halves of a pixel.
            height = np.abs(np.remainder(2 * positions + 1, 4 * length) - 2 * length)
            found = (2 * length - height) // 2
        case "mirror":
            # A single pixel is its own image.
            found = last - np.abs(np.remainder(positions, max(1, 2 * last)) - last)
        case _:
            found = np.where((positions < 0) | (positions > last), -1, positions)
    return np.asarray(found)


def extended(
    read: ReadBox, window: Region, shape: Shape, samples: int, rule: str, dtype: np.dtype
) -> Block:
    """The pixels of a window, which may lie anywhere.

    Parameters
    ----------
    read : callable
    window : Region
    shape : (int, int)
        Rows and columns of the raster.
    samples : int
    rule : str
        See `pixel_at`.
    dtype : numpy.dtype
        Of the raster.
    """
    maps = [
        pixel_at(rule, np.arange(lo, hi, dtype=np.int64), length)
        for lo, hi, length in zip(window.start, window.stop, shape, strict=True)
    ]
    needed = [np.unique(found[found >= 0]) for found in maps]
    pixels = np.zeros((len(needed[0]), len(needed[1]), samples), dtype)
    for (top, bottom), (left, right) in product(*map(_runs, needed)):
        box = Region(
            (int(needed[0][top]), int(needed[1][left])),
            (int(needed[0][bottom - 1]) + 1, int(needed[1][right - 1]) + 1),
        )
        read(box, pixels[top:bottom, left:right])
    for axis, (found, there) in enumerate(zip(maps, needed, strict=True)):
        if not len(there):
            sides = [len(found) if axis == n else pixels.shape[n] for n in (0, 1)]
            pixels = np.zeros((*sides, samples), dtype)
        elif not np.array_equal(found, there):
            pixels = np.take(pixels, np.searchsorted(there, np.maximum(found, there[0])), axis)
    outside = [found < 0 for found in maps]
    pixels[outside[0]] = 0
    pixels[:, outside[1]] = 0
    return Block(pixels, *outside)


def _runs(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each stretch of numbers that follow each other."""
    if not len(numbers):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
    return list(pairwise(cuts))
