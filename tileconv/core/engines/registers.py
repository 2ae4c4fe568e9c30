"""Compiled: dense windows of weights, summed for blocks of outputs held in vector registers.

A loop along a row that LLVM vectorises by itself loads a pixel for every product, and the
loads are what it waits for. Here a block of 4 rows times 4 vectors of outputs stays in
registers while the window moves over it, and each vector of pixels that is loaded serves
every row of the block that a weight brings it to (the micro-kernel of K. Goto and R. van de
Geijn, Anatomy of high-performance matrix multiplication, 2008, for convolution)::

    rows of pixels      rows of outputs (4 x 4 vectors)
    ------------- r --> j = r - weight row, for each row of weights
                        sums[j] += weights[r - j, d] * pixels[r, i + d]

That reaches what the processor can multiply, about twice what the plain loop does. Numba has
no vectors, so the block is written in LLVM's own terms; everything around it is Numba.

The products of an output are added in the row-major order of the weights, one after another,
wherever its block begins: a pixel's value depends on its window alone, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tileconv.core.compiling import compiled, rows_type
from tileconv.core.engines.vectors import REGISTERS, VECTOR_BYTES, Rows, Vectors

ROWS = 4
"""Rows of outputs in a block."""

# 16 sums, 4 vectors of pixels and a weight need 21 registers; AVX2 and SSE have 16 in all.
VECTORS = 4 if REGISTERS == 32 else 2
"""Vectors of outputs in a row of a block."""


def block_width(dtype: np.dtype) -> int:
    """Outputs in a row of a block."""
    return VECTORS * VECTOR_BYTES // dtype.itemsize


def correlate(
    x: np.ndarray, weights: np.ndarray, out: np.ndarray, *, step: int = 1, add: bool = False
) -> None:
    """Set ``out[y, i]`` to ``sum over r, d of weights[r, d] * x[y + r, i + step * d]``.

    Parameters
    ----------
    x : ndarray, shape (rows + kr - 1, at least width + step * (kc - 1))
        Rows contiguous.
    weights : ndarray, shape (kr, kc)
        Rows contiguous, in the dtype of `x` and `out`: float32, float64 or an integer, which
        wraps. float64 products are rounded before they are added, as scipy.ndimage does.
    out : ndarray, shape (rows, width)
        Rows contiguous; a width below `block_width` is slow.
    step : int
        Elements from one pixel of a row to the next: samples are interleaved.
    add : bool
        Whether to add to what `out` holds, which takes a width in whole blocks.
    """
    width = block_width(out.dtype)
    assert not add or out.shape[1] % width == 0
    _loops(out.dtype)(x, weights, out, step, add, width)


@cache
def _loops(dtype: np.dtype) -> Callable[..., None]:
    """`_correlate`, compiled for a dtype, or loaded, whatever the layout of the arrays."""
    read, written = rows_type(dtype), rows_type(dtype, written=True)
    signature = types.void(read, read, written, types.intp, types.boolean, types.intp)
    loops: Callable[..., None] = compiled(signature)(_correlate)
    return loops


def _correlate(
    x: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
    step: int,
    add: bool,  # noqa: FBT001 - Numba passes arguments by position
    width: int,
) -> None:
    """See `correlate`."""
    rows, columns = out.shape
    for y in range(0, rows, ROWS):
        bottom = min(y + ROWS, rows)
        if columns < width:
            for z in range(y, bottom):
                for i in range(columns):
                    _one(x, z, i, step, weights, out, add)
            continue
        for begin in range(0, columns, width):
            # The last block may overlap the one before, and computes the same again.
            i = min(begin, columns - width)
            if bottom - y == ROWS:
                _block(x, y, i, step, weights, out, add)
            else:
                for z in range(y, bottom):
                    _row(x, z, i, step, weights, out, add)


def _block_of(rows: int, vectors: int) -> Callable[..., None]:
    """What computes `rows` times `vectors` of outputs, the first at ``out[y, i]``, for Numba.

    With no vector at all it is one output.
    """

    @intrinsic
    def block(context, x, y, i, step, weights, out, add):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - by position
        del context
        lanes = VECTOR_BYTES * 8 // out.dtype.bitwidth if vectors else 1
        shape = rows, max(vectors, 1), lanes

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            _BlockCode(context, builder, signature, arguments, shape).generate()
            return context.get_dummy_value()

        return types.void(x, y, i, step, weights, out, add), generate

    return block  # type: ignore[no-any-return]


_block, _row, _one = _block_of(ROWS, VECTORS), _block_of(1, VECTORS), _block_of(1, 0)


class _BlockCode:
    """Writes the code of one block.

    Parameters
    ----------
    context, builder, signature, arguments
        As Numba gives them to an intrinsic.
    shape : (int, int, int)
        Rows, vectors in a row, elements in a vector.
    """

    def __init__(
        self, context: Any, builder: Any, signature: Any, arguments: Any, shape: tuple[int, ...]
    ) -> None:
        self.builder = builder
        x, self.y, self.i, self.step, weights, out, self.adding = arguments
        kinds = signature.args
        self.x, self.weights, self.out = (
            Rows(context, builder, kinds[i], array) for i, array in ((0, x), (4, weights), (5, out))
        )
        self.rows, self.across, self.lanes = shape
        number = kinds[5].dtype
        self.vectors = Vectors(builder, number, self.lanes, fused=number == types.float32)
        self.places = [(j, v) for j in range(self.rows) for v in range(self.across)]
        self.sums = {place: self.vectors.variable() for place in self.places}

    def generate(self) -> None:
        """The whole block: sums of 0, each row of pixels, the outputs."""
        builder = self.builder
        height = self.weights.shape[0]
        first = self.number(self.rows - 1)
        with cgutils.for_range(builder, builder.add(height, first)) as loop:
            # The outputs j of this row's pixels: 0 <= row - j < height.
            above = builder.sub(loop.index, builder.sub(height, self.number(1)))
            least = self.larger(above, self.number(0))
            most = self.smaller(loop.index, first)
            # A body for each range of j, the whole block first.
            for low, high in sorted(self.ranges(), key=lambda pair: pair[0] - pair[1]):
                hit = builder.and_(
                    builder.icmp_signed("==", least, self.number(low)),
                    builder.icmp_signed("==", most, self.number(high)),
                )
                with builder.if_then(hit):
                    self.add_row(loop.index, range(low, high + 1))
        with builder.if_then(self.adding):
            for place, sums in self.sums.items():
                sums.value = self.vectors.load(self.output(place)) + sums.value
        for place, sums in self.sums.items():
            self.vectors.store(sums.value, self.output(place))

    def add_row(self, row: Any, outputs: range) -> None:
        """Add the products of one row of pixels to the rows of `outputs`."""
        builder, vectors = self.builder, self.vectors
        y = builder.add(self.y, row)
        with cgutils.for_range(builder, self.weights.shape[1]) as loop:
            across = builder.add(self.i, builder.mul(loop.index, self.step))
            pixels = [
                vectors.load(self.x.at(y, builder.add(across, self.number(v * self.lanes))))
                for v in range(self.across)
            ]
            for j in outputs:
                place = self.weights.at(builder.sub(row, self.number(j)), loop.index)
                weight = vectors.spread(place)
                for v, vector in enumerate(pixels):
                    sums = self.sums[j, v]
                    sums.value = sums.value + weight * vector

    def ranges(self) -> list[tuple[int, int]]:
        """First and last row of every run of rows of the block."""
        return [(low, high) for low in range(self.rows) for high in range(low, self.rows)]

    def output(self, place: tuple[int, int]) -> Any:
        """Where a vector of outputs belongs."""
        j, v = place
        return self.out.at(
            self.builder.add(self.y, self.number(j)),
            self.builder.add(self.i, self.number(v * self.lanes)),
        )

    def number(self, value: int) -> Any:
        """A number of rows or elements."""
        return ir.Constant(self.y.type, value)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger of two numbers."""
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        """The smaller of two numbers."""
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)
