"""Compiled: how large the pixels of two windows are, in one pass over both."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tileconv.core.loops.vectors import Rows, Vectors, contiguous_row, lanes_of


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
    scratch : ndarray, shape (3 + runs_down, columns of `re` or more), of the same dtype
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
    scratch[:2] = 0
    squares = contiguous_row(scratch, 0)
    peaks = contiguous_row(scratch, 1)
    least = np.inf
    for block in range((rows + down - 1) // down):
        top, bottom = block * down, min(block * down + down, rows)
        _columns(x, top, bottom, columns, scratch, 3 + block % runs_down, across)
        # Whole blocks only: no window has to hold any other.
        if bottom - top == down and block >= runs_down - 1:
            least = min(least, _least(scratch, columns // across, runs_down, runs_across))
    total = 0.0
    peak = 0.0
    for i in range(columns):
        total += np.float64(squares[i])
        peak = max(peak, np.float64(peaks[i]))
    found[at, 0] = total
    found[at, 1] = peak
    found[at, 2] = least


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
        vectors = Vectors(builder, number, lanes_of(np.dtype(str(number))), fused=True)
        zero, lanes = vectors.constant(0.0), vectors.lanes

        def constant(value):  # type: ignore[no-untyped-def]
            return ir.Constant(top.type, value)

        # Two vectors at a time, so that one's additions need not wait for the other's.
        sums, tops = ([vectors.variable() for _ in range(2)] for _ in range(2))
        steps = constant(0), columns, constant(2 * lanes)
        with cgutils.for_range_slice(builder, *steps) as (begin, _):
            places = [builder.add(begin, constant(n * lanes)) for n in range(2)]
            for i, total, top_of in zip(places, sums, tops, strict=True):
                total.value, top_of.value = vectors.load(scratch.at(constant(0), i)), zero
            with cgutils.for_range_slice(builder, top, bottom, constant(1)) as (y, _):
                for i, total, top_of in zip(places, sums, tops, strict=True):
                    value = vectors.load(x.at(y, i))
                    total.value = total.value + value * value
                    top_of.value = value.larger(zero - value).larger(top_of.value)
            for i, total, top_of in zip(places, sums, tops, strict=True):
                vectors.store(total.value, scratch.at(constant(0), i))
                peaks = scratch.at(constant(1), i)
                vectors.store(top_of.value.larger(vectors.load(peaks)), peaks)
                self_largest = top_of.value
                width = 1
                while width <= lanes:
                    with builder.if_then(builder.icmp_signed("==", across, constant(width))):
                        first = builder.sdiv(i, constant(width))
                        for n in range(lanes // width):
                            element = builder.extract_element(
                                self_largest.value, constant(n * width)
                            )
                            place = scratch.at(line, builder.add(first, constant(n)))
                            builder.store(element, place)
                    behind = [min(lane + width, lanes - 1) for lane in range(lanes)]
                    shifted = vectors.shuffle(self_largest, self_largest, behind)
                    self_largest = self_largest.larger(shifted)
                    width *= 2
        return context.get_dummy_value()

    return types.void(x, top, bottom, columns, scratch, line, across), generate


@njit
def _least(scratch, blocks, runs_down, runs_across):  # type: ignore[no-untyped-def]
    """The least maximum of any `runs_across` blocks of `runs_down` lines."""
    merged = contiguous_row(scratch, 2)
    for i in range(blocks):
        merged[i] = 0
    for run in range(runs_down):
        line = contiguous_row(scratch, 3 + run)
        for i in range(blocks):
            a, b = merged[i], line[i]
            merged[i] = a if a > b else b  # noqa: FURB136
    least = np.inf
    for i in range(blocks - runs_across + 1):
        top = merged[i]
        for run in range(1, runs_across):
            top = max(top, merged[i + run])
        least = min(least, np.float64(top))
    return least
