"""Complex sums part by part: real ones of either part of pixels and weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from tileconv.core.engines.base import Engine
from tileconv.core.grid import Shape
from tileconv.core.kernels import Kernel
from tileconv.core.pixels import Cast, CastCounts


@dataclass(frozen=True, slots=True, eq=False)
class PartsEngine:
    """Complex sums as scipy.ndimage forms them, each part skipping its own weights of 0.

    What is infinite or NaN in one part of a pixel reaches the other part of a sum only where
    a weight brings it there; a complex product would bring it everywhere.

    Parameters
    ----------
    kernel : Kernel
    accumulator : numpy.dtype
        complex64 or complex128.
    method : str
        That of the engine which costs most.
    real, imaginary : Engine or None
        Of either part of the weights, in real sums; None for a part without weights.
    """

    kernel: Kernel
    accumulator: np.dtype
    method: str
    real: Engine | None
    imaginary: Engine | None

    @property
    def _engines(self) -> list[Engine]:
        return [engine for engine in (self.real, self.imaginary) if engine is not None]

    @property
    def _part(self) -> np.dtype:
        """The dtype of either part of a sum."""
        return _part_of(self.accumulator)

    @property
    def lattice(self) -> Shape:
        """Rows and columns of the lattice; where both engines have one, it is the same."""
        lattices = [engine.lattice for engine in self._engines]
        return max((rows for rows, _ in lattices), default=1), max(
            (columns for _, columns in lattices), default=1
        )

    @property
    def held_bytes(self) -> int:
        """Bytes the engines hold."""
        return sum(engine.held_bytes for engine in self._engines)

    @property
    def preparing_bytes(self) -> int:
        """See `Engine`."""
        return sum(engine.preparing_bytes for engine in self._engines)

    def workspace_bytes(self, shape: Shape, samples: int, block: np.dtype, out: np.dtype) -> int:
        """Bytes it allocates besides block and output, for an output of `shape`."""
        pixels, part = _part_of(block), _part_of(out)
        most = max(
            (
                engine.workspace_bytes(shape, samples, pixels, dtype)
                for engine in self._engines
                for dtype in (part, self._part)
            ),
            default=0,
        )
        # Two sums whose difference, or sum, is one part; and what casting it takes.
        sums = shape[0] * shape[1] * samples
        return most + sums * (2 * self._part.itemsize + 2 * part.itemsize)

    def apply(self, block: np.ndarray, out: np.ndarray, cast: Cast) -> CastCounts:
        """Compute `out` from `block`; see `Engine`."""
        re, im = (block.real, block.imag) if block.dtype.kind == "c" else (block, None)
        into = partial(self._part_into, cast=Cast(_part_of(cast.dtype), cast.rule))
        counts = into(out.real, (re, self.real), (im, self.imaginary), sign=-1)
        return counts.plus(into(out.imag, (im, self.real), (re, self.imaginary), sign=1))

    def _part_into(
        self,
        out: np.ndarray,
        first: tuple[np.ndarray | None, Engine | None],
        second: tuple[np.ndarray | None, Engine | None],
        *,
        sign: int,
        cast: Cast,
    ) -> CastCounts:
        """One part of the sums: what `first` gives, and `second` added with a sign."""
        terms = [
            (pixels, engine, by)
            for (pixels, engine), by in ((first, 1), (second, sign))
            if pixels is not None and engine is not None
        ]
        if len(terms) == 1 and terms[0][2] == 1:
            pixels, engine, _ = terms[0]
            return engine.apply(pixels, out, cast)
        total = np.zeros(out.shape, self._part)
        sums = np.empty(out.shape, self._part)
        for pixels, engine, by in terms:
            engine.apply(pixels, sums, Cast(self._part))
            with np.errstate(over="ignore", invalid="ignore"):
                np.add(total, sums, out=total) if by > 0 else np.subtract(total, sums, out=total)
        return cast.store(total, out)


def _part_of(dtype: np.dtype) -> np.dtype:
    """The dtype of a part of complex numbers; of others their own."""
    part: np.dtype = dtype.type(0).real.dtype
    return part.newbyteorder(dtype.byteorder) if dtype.kind == "c" else dtype
