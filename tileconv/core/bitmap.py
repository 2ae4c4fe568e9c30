"""A bit for each of very many things."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tileconv.core.grid import ceil_div


class Bitmap:
    """`size` bits, all clear at first; takes ``size / 8`` bytes. Not thread-safe.

    Parameters
    ----------
    size : int
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._bytes = np.zeros(ceil_div(size, 8), np.uint8)

    def __getitem__(self, number: int) -> bool:
        return bool(self._bytes[number >> 3] >> (number & 7) & 1)

    def set(self, numbers: np.ndarray | int) -> None:
        """Set the bits of these numbers, each in ``0 .. size - 1``."""
        numbers = np.asarray(numbers)
        bits = np.left_shift(1, numbers & 7).astype(np.uint8)
        np.bitwise_or.at(self._bytes, numbers >> 3, bits)

    def unset(self, numbers: np.ndarray) -> None:
        """Clear the bits of these numbers, each in ``0 .. size - 1``."""
        bits = np.left_shift(1, numbers & 7).astype(np.uint8)
        np.bitwise_and.at(self._bytes, numbers >> 3, ~bits)

    def count(self) -> int:
        """How many bits are set."""
        return int(np.bitwise_count(self._bytes).sum(dtype=np.int64))

    def clear(self) -> Iterator[int]:
        """Numbers of the bits that are not set now, ascending; looked up as they are asked for."""
        step = 1 << 13
        for first in range(0, self.size, 8 * step):
            part = self._bytes[first >> 3 : (first >> 3) + step]
            if (part == 255).all():
                continue
            bits = np.unpackbits(part, bitorder="little")[: self.size - first]
            yield from (first + np.flatnonzero(bits == 0)).tolist()
