"""Compiled: how large the pixels of two windows are, in one pass over both."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tileconv.core.loops.vectors import Rows, Vector, Vectors, contiguous_row, lanes_of

_LINES = 5
"""Rows of scratch before those that hold the maxima of blocks."""


def measure(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - Numba's way
    re, im, scratch, found, rows, re_columns, im_columns, down, across, runs_down, runs_across
):
    """Sum of squares, largest magnitude, and a lower bound of the windows' largest magnitudes.

    A window of the kernel holds `runs_down` x `runs_across` whole blocks next to each other, of
    those that begin at multiples of `down` and `across`: the least of what any such run of blocks
    holds at most is a lower bound of what any window does.

    Parameters
    ----------
    re, im : ndarray of float32 or float64
        Rows contiguous. The first `rows` rows and `re_columns` or `im_columns` columns count, and
        zeros follow up to a multiple of 64 bytes.
    scratch : ndarray, shape (5 + runs_down, columns of `re` or more), of the same dtype
    found : ndarray of float64, shape (2, 3)
        A row for each array: sum of squares, largest magnitude, least of the maxima. Only the sum
        shows NaN.
    rows, re_columns, im_columns : int
    down, across : int
        Rows and columns of a block; `across` is a power of two, and a vector at most.
    runs_down, runs_across : int
    """
    sides = (down, across, runs_down, runs_across)
    _measure(re, scratch, found, 0, rows, re_columns, sides)
    _measure(im, scratch, found, 1, rows, im_columns, sides)


@njit
def _measure(x, scratch, found, at, rows, columns, sides):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    """`measure` of one window."""
    down, across, runs_down, runs_across = sides
    blocks = columns // across
    scratch[:2] = 0
    scratch[2] = np.inf
    for block in range((rows + down - 1) // down):
        top, bottom = block * down, min(block * down + down, rows)
        _columns(x, top, bottom, columns, scratch, _LINES + block % runs_down, across)
        # Whole blocks only: no window has to hold any other.
        if bottom - top == down and block >= runs_down - 1:
            _lessen(scratch, blocks, runs_down, runs_across)
    squares, peaks = contiguous_row(scratch, 0), contiguous_row(scratch, 1)
    least = contiguous_row(scratch, 2)
    total = 0.0
    peak = 0.0
    for i in range(columns):
        total += np.float64(squares[i])
        peak = max(peak, np.float64(peaks[i]))
    found[at, 0] = total
    found[at, 1] = peak
    found[at, 2] = np.inf
    for i in range(blocks - runs_across + 1):
        found[at, 2] = min(found[at, 2], np.float64(least[i]))


@intrinsic
def _columns(context, x, top, bottom, columns, scratch, line, across):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    """Of some rows of `x`: the squares of each column, and the largest magnitudes of blocks.

    In `scratch` row 0 gathers squares, row 1 keeps the largest magnitude of each column, and row
    `line` gets those of blocks of `across` columns. Vectors of columns stay in registers.
    """
    del context

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        _, top, bottom, columns, _, line, across = arguments
        x, scratch = (Rows(context, builder, signature.args[n], arguments[n]) for n in (0, 4))
        number = signature.args[0].dtype
        whole = {32: types.int32, 64: types.int64}[number.bitwidth]
        lanes = lanes_of(np.dtype(str(number)))
        floats = Vectors(builder, number, lanes, fused=True)
        # Without their signs floats are ordered as the integers of the same bits, which processors
        # compare faster.
        bits = Vectors(builder, whole, lanes, fused=False)
        unsigned = bits.constant((1 << number.bitwidth - 1) - 1)

        one, width = (ir.Constant(top.type, number) for number in (1, lanes))
        rows = [ir.Constant(top.type, row) for row in (0, 1)]
        total, largest = floats.variable(), bits.variable()
        with cgutils.for_range_slice(builder, rows[0], columns, width) as (i, _):
            squares, peaks = (scratch.at(row, i) for row in rows)
            total.value, largest.value = floats.load(squares), bits.constant(0)
            with cgutils.for_range_slice(builder, top, bottom, one) as (y, _):
                value = floats.load(x.at(y, i))
                total.value = total.value + value * value
                largest.value = largest.value.larger(bits.of(value) & unsigned)
            floats.store(total.value, squares)
            bits.store(bits.load(peaks).larger(largest.value), peaks)
            tops = largest.value
            for power in range(lanes.bit_length()):
                chosen = builder.icmp_signed("==", across, ir.Constant(across.type, 1 << power))
                with builder.if_then(chosen):
                    _store_every(floats.of(tops), 1 << power, scratch, (line, i))
                behind = [min(lane + (1 << power), lanes - 1) for lane in range(lanes)]
                tops = tops.larger(bits.shuffle(tops, tops, behind))
        return context.get_dummy_value()

    return types.void(x, top, bottom, columns, scratch, line, across), generate


def _store_every(vector: Vector, step: int, scratch: Rows, place: tuple[Any, Any]) -> None:
    """Store every `step`-th element of a vector of columns, next to each other.

    They go to the row and, divided by `step`, from the column on that `place` names.
    """
    row, column = place
    builder = vector.vectors.builder
    first = builder.sdiv(column, ir.Constant(column.type, step))
    for n in range(vector.vectors.lanes // step):
        element = builder.extract_element(vector.value, ir.Constant(column.type, n * step))
        at = builder.add(first, ir.Constant(column.type, n))
        builder.store(element, scratch.at(row, at))


@njit
def _lessen(scratch, blocks, runs_down, runs_across):  # type: ignore[no-untyped-def]
    """Lessen row 2 of `scratch` to the maxima of `runs_across` blocks of `runs_down` lines."""
    merged, wide = contiguous_row(scratch, 3), contiguous_row(scratch, 4)
    merged[:blocks] = 0
    wide[:blocks] = 0
    for run in range(runs_down):
        line = contiguous_row(scratch, _LINES + run)
        for i in range(blocks):
            merged[i] = line[i] if line[i] > merged[i] else merged[i]  # noqa: FURB136
    for run in range(runs_across):
        moved = merged[run:blocks]
        for i in range(moved.size):
            wide[i] = moved[i] if moved[i] > wide[i] else wide[i]  # noqa: FURB136
    least = contiguous_row(scratch, 2)
    for i in range(blocks):
        least[i] = wide[i] if wide[i] < least[i] else least[i]  # noqa: FURB136


def levels(x, out, shift):  # type: ignore[no-untyped-def]
    """See `tileconv.core.engines.magnitudes.levels`.

    Parameters
    ----------
    x : ndarray of int32 or int64
        The bits of floats; rows contiguous.
    out : ndarray of uint8 or uint16
        Rows contiguous.
    shift : int
        Bits of a significand.
    """
    exponent, significand = 255 if shift == 23 else 2047, (1 << shift) - 1
    for y in range(x.shape[0]):
        row, out_row = contiguous_row(x, y), contiguous_row(out, y)
        for i in range(row.size):
            subnormal = 1 if row[i] & significand != 0 else 0
            out_row[i] = max((row[i] >> shift) & exponent, subnormal)


def energies(x, scratch, out, rows, columns, side):  # type: ignore[no-untyped-def]
    """Sums of squares of blocks.

    Parameters
    ----------
    x : ndarray of float32 or float64
        Rows contiguous. The first `rows` rows and `columns` columns count.
    scratch : ndarray, shape (any, columns or more), of the same dtype
    out : ndarray of float64
        Of each block of `side` rows and columns, or less at the ends, its sum is added to.
    rows, columns, side : int
    """
    line = contiguous_row(scratch, 0)
    for block in range((rows + side - 1) // side):
        line[:columns] = 0
        for y in range(block * side, min(block * side + side, rows)):
            row = contiguous_row(x, y)
            for i in range(columns):
                line[i] += row[i] * row[i]
        out_row = contiguous_row(out, block)
        for i in range(columns):
            out_row[i // side] += np.float64(line[i])
