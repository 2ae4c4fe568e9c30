"""Compiled: dense windows of weights, summed for blocks of outputs held in vector registers.

A loop along a row that LLVM vectorises by itself loads a pixel for every product, and the
loads are what it waits for. Here a block of 4 rows times 4 vectors of outputs stays in
registers while the window moves over it, and each vector of pixels that is loaded serves
every row of the block that a weight brings it to (the micro-kernel of K. Goto and R. van de
Geijn, Anatomy of high-performance matrix multiplication, 2008, for convolution)::

    rows of pixels      rows of outputs (4 x 4 vectors; 4 x 2 where there are 16 registers)
    ------------- r --> j = r - weight row, for each row of weights
                        sums[j] += weights[r - j, d] * pixels[r, i + d]

That reaches what the processor can multiply, about twice what the plain loop does. Numba has
no vectors, so the block is written in LLVM's own terms; everything around it is Numba.

The products of an output are added in the row-major order of the weights, one after another,
wherever its block begins: a pixel's value depends on its window alone, to the last bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tileconv.core.loops import vectors_in_block
from tileconv.core.loops.vectors import Rows, Vector, Vectors, lanes_of

ROWS = 4
"""Rows of outputs in a block."""

SHARED = 2
"""Weights of a single row whose pixels come from the same loads."""


def correlate(
    x: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
    step: int,
    add: int,
    width: int,
) -> None:
    """See `tileconv.core.engines.summation.correlate`; `width` is that of a block."""
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
        lanes = lanes_of(np.dtype(str(out.dtype))) if vectors else 1
        shape = rows, max(vectors, 1), lanes

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            _BlockCode(context, builder, signature, arguments, shape).generate()
            return context.get_dummy_value()

        return types.void(x, y, i, step, weights, out, add), generate

    return block  # type: ignore[no-any-return]


_block, _row, _one = (
    _block_of(*shape) for shape in ((ROWS, vectors_in_block()), (1, vectors_in_block()), (1, 0))
)


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
        x, self.y, self.i, self.step, weights, out, add = arguments
        self.adding = builder.icmp_signed("!=", add, ir.Constant(add.type, 0))
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
        """The whole block: sums of 0, the products, the outputs."""
        builder = self.builder
        line = builder.and_(
            builder.icmp_signed("==", self.weights.shape[0], self.number(1)),
            builder.icmp_signed("==", self.step, self.number(1)),
        )
        with builder.if_else(line) as (then, otherwise):
            with then:
                self.add_line()
            with otherwise:
                self.add_window()
        with builder.if_then(self.adding):
            for place, sums in self.sums.items():
                sums.value = self.vectors.load(self.output(place)) + sums.value
        for place, sums in self.sums.items():
            self.vectors.store(sums.value, self.output(place))

    def add_window(self) -> None:
        """Add the products of every row of pixels, which may serve several of outputs."""
        builder = self.builder
        height, beyond = self.weights.shape[0], self.number(self.rows - 1)
        # Rows of pixels that do not reach every row of outputs: above those that do, and below.
        above = self.smaller(beyond, height)
        with cgutils.for_range(builder, self.number(2)) as part:
            below = builder.icmp_signed("==", part.index, self.number(1))
            first = builder.select(below, self.larger(height, above), self.number(0))
            stop = builder.select(below, builder.add(height, beyond), above)
            with self.counting(first, stop, 1) as row:
                self.add_edge(row)
            with builder.if_then(builder.not_(below)), self.counting(beyond, height, 1) as row:
                self.add_row(row, range(self.rows))

    def add_edge(self, row: Any) -> None:
        """Add a row of pixels to those rows of outputs that it reaches."""
        builder = self.builder
        # The outputs j: 0 <= row - j < height.
        above = builder.sub(row, builder.sub(self.weights.shape[0], self.number(1)))
        least = self.larger(above, self.number(0))
        most = self.smaller(row, self.number(self.rows - 1))
        for low, high in self.ranges():
            hit = builder.and_(
                builder.icmp_signed("==", least, self.number(low)),
                builder.icmp_signed("==", most, self.number(high)),
            )
            with builder.if_then(hit):
                self.add_row(row, range(low, high + 1))

    def add_row(self, row: Any, outputs: range) -> None:
        """Add the products of one row of pixels to the rows of `outputs`."""
        builder = self.builder
        y = builder.add(self.y, row)
        with self.counting(self.number(0), self.weights.shape[1], 1) as column:
            pixels = self.pixels(y, builder.add(self.i, builder.mul(column, self.step)))
            for j in outputs:
                weight = self.weight(builder.sub(row, self.number(j)), column)
                self.add_products(j, weight, pixels)

    def add_line(self) -> None:
        """Add the products of a single row of weights.

        No row of pixels serves two of outputs, so it is the loads that are waited for: every
        second vector is put together from others instead.
        """
        builder, width = self.builder, self.weights.shape[1]
        shared = self.number(SHARED if self.lanes >= SHARED else 1)
        whole = builder.mul(builder.sdiv(width, shared), shared)
        for first, stop, group in (
            (self.number(0), whole, int(shared.constant)),
            (whole, width, 1),
        ):
            with self.counting(first, stop, group) as column:
                across = builder.add(self.i, column)
                weights = [
                    self.weight(self.number(0), builder.add(column, self.number(shift)))
                    for shift in range(group)
                ]
                for j in range(self.rows):
                    pixels = self.neighbours(builder.add(self.y, self.number(j)), across, group)
                    for weight, vectors in zip(weights, pixels, strict=True):
                        self.add_products(j, weight, vectors)

    def neighbours(self, y: Any, x: Any, count: int) -> list[list[Vector]]:
        """The vectors of a row from ``x``, from ``x + 1``, and so on; loaded nearly once."""
        loaded = self.pixels(y, x)
        found = [loaded]
        if count == 1:
            return found
        # No farther than the last is needed: there may be nothing behind it.
        last = self.lanes * (self.across - 1) + count - 1
        end = self.vectors.load(self.x.at(y, self.builder.add(x, self.number(last))))
        for shift in range(1, count):
            take = list(range(shift, shift + self.lanes))
            behind = [i if i < self.lanes else i + self.lanes - (count - 1) for i in take]
            found.append(
                [self.vectors.shuffle(a, b, take) for a, b in pairwise(loaded)]
                + [self.vectors.shuffle(loaded[-1], end, behind)]
            )
        return found

    def pixels(self, y: Any, x: Any) -> list[Vector]:
        """The vectors of a row from an element on."""
        starts = [self.builder.add(x, self.number(v * self.lanes)) for v in range(self.across)]
        return [self.vectors.load(self.x.at(y, start)) for start in starts]

    def weight(self, row: Any, column: Any) -> Vector:
        """A vector of one weight throughout."""
        return self.vectors.spread(self.weights.at(row, column))

    def add_products(self, j: int, weight: Vector, pixels: list[Vector]) -> None:
        """Add the products of a weight to a row of sums."""
        for v, vector in enumerate(pixels):
            sums = self.sums[j, v]
            sums.value = sums.value + weight * vector

    @contextlib.contextmanager
    def counting(self, first: Any, stop: Any, step: int) -> Iterator[Any]:
        """A loop, and its number."""
        with cgutils.for_range_slice(self.builder, first, stop, self.number(step)) as (index, _):
            yield index

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
