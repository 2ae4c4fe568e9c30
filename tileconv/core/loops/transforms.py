"""Compiled: Fourier transforms of two windows at once, their product with a spectrum, and back.

Written for one thing, circular convolution, and so without what a library has to do besides.
Two real windows are the real and the imaginary part of one complex one: a real kernel leaves
them apart. Forward steps decimate in frequency and leave the frequencies out of order; inverse
steps decimate in time and take them so (W. Gentleman and G. Sande, 1966; J. Cooley and J. Tukey,
1965): nothing is ever put in order, the spectrum is stored as it comes. Every step works on
vectors, down the columns on neighbouring columns, along the rows on neighbouring elements, and
the last one of a row on a square of rows and elements, turned over in registers::

    windows -> steps down -> steps along -> turn, transform, times spectrum, and all of it back
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tileconv.core.loops import RADICES
from tileconv.core.loops.vectors import Rows, Vector, Vectors, lanes_of


def convolve(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917 - Numba's way
    re, im, down, down_re, down_im, along, along_re, along_im, spectrum_re, spectrum_im, lanes
):
    """See `tileconv.core.engines.transforms.Transform`: windows, two lines, and a spectrum."""
    rows, columns = re.shape
    lines_down, lines_along = (down, down_re, down_im), (along, along_re, along_im)
    for x in range(0, columns, lanes):
        _steps_down(re, im, x, lines_down, False)  # noqa: FBT003
    for y in range(0, rows, lanes):
        for z in range(y, y + lanes):
            _steps_along(re, im, z, lines_along, lanes, False)  # noqa: FBT003
        for x in range(0, columns, lanes):
            _square(re, im, y, x, spectrum_re, spectrum_im, y * columns + x * lanes)
        for z in range(y, y + lanes):
            _steps_along(re, im, z, lines_along, lanes, True)  # noqa: FBT003
    for x in range(0, columns, lanes):
        _steps_down(re, im, x, lines_down, True)  # noqa: FBT003


@njit
def _steps_down(re, im, x, line, inverse):  # type: ignore[no-untyped-def]
    """All steps of a vector of columns."""
    stages, roots_re, roots_im = line
    for n in range(len(stages)):
        radix, step, at = stages[len(stages) - 1 - n if inverse else n]
        for block in range(0, re.shape[0], radix * step):
            for j in range(step):
                y = block + j
                if inverse:
                    _down_inverse(re, im, y, x, step, radix, roots_re, roots_im, at + j)
                else:
                    _down_forward(re, im, y, x, step, radix, roots_re, roots_im, at + j)


@njit
def _steps_along(re, im, y, line, lanes, inverse):  # type: ignore[no-untyped-def]
    """All steps of a row but the last, of a vector's points."""
    stages, roots_re, roots_im = line
    for n in range(len(stages)):
        radix, step, at = stages[len(stages) - 1 - n if inverse else n]
        for block in range(0, re.shape[1], radix * step):
            for j in range(0, step, lanes):
                x = block + j
                if inverse:
                    _along_inverse(re, im, y, x, step, radix, roots_re, roots_im, at + j)
                else:
                    _along_forward(re, im, y, x, step, radix, roots_re, roots_im, at + j)


@dataclass(frozen=True, slots=True, eq=False)
class _Complex:
    """Vectors of real and imaginary parts, in code that is being written."""

    re: Vector
    im: Vector

    def __add__(self, other: _Complex) -> _Complex:
        return _Complex(self.re + other.re, self.im + other.im)

    def __sub__(self, other: _Complex) -> _Complex:
        return _Complex(self.re - other.re, self.im - other.im)

    def __mul__(self, other: _Complex) -> _Complex:
        return _Complex(
            self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re
        )

    def times_conjugate(self, other: _Complex) -> _Complex:
        """The product with the conjugate of another."""
        return _Complex(
            self.re * other.re + self.im * other.im, self.im * other.re - self.re * other.im
        )

    def turned(self, root: complex) -> _Complex:
        """The product with a root of unity that is known now."""
        vectors = self.re.vectors
        if abs(root - 1) < 1e-12:
            return self
        if abs(root + 1) < 1e-12:
            zero = vectors.constant(0.0)
            return _Complex(zero - self.re, zero - self.im)
        if abs(root - 1j) < 1e-12:
            return _Complex(vectors.constant(0.0) - self.im, self.re)
        if abs(root + 1j) < 1e-12:
            return _Complex(self.im, vectors.constant(0.0) - self.re)
        return self * _Complex(vectors.constant(root.real), vectors.constant(root.imag))

    def scaled(self, factor: float) -> _Complex:
        """The product with a real number that is known now."""
        constant = self.re.vectors.constant(factor)
        return _Complex(self.re * constant, self.im * constant)


def _transformed(values: list[_Complex], sign: int) -> list[_Complex]:
    """The Fourier transform of a few points, forward with sign -1; frequencies in order."""
    n = len(values)
    if n == 1:
        return values
    if n == 2:
        return [values[0] + values[1], values[0] - values[1]]
    if n in (3, 5):
        return _of_prime(values, sign)
    radix = 4 if n % 4 == 0 and n > 4 else 2
    step = n // radix
    columns = []
    for j in range(step):
        column = _transformed([values[j + p * step] for p in range(radix)], sign)
        root = cmath.exp(sign * 2j * math.pi * j / n)
        columns.append([value.turned(root**q) for q, value in enumerate(column)])
    rows = [_transformed([column[q] for column in columns], sign) for q in range(radix)]
    return [rows[k % radix][k // radix] for k in range(n)]


def _of_prime(values: list[_Complex], sign: int) -> list[_Complex]:
    """Of 3 or 5 points: sums and differences of points that lie opposite."""
    n = len(values)
    half = range(1, n // 2 + 1)
    sums = [values[p] + values[n - p] for p in half]
    differences = [values[p] - values[n - p] for p in half]
    first = values[0]
    for value in sums:
        first += value
    found = [first] * n
    for k in half:
        even, odd = values[0], None
        for p in half:
            angle = 2 * math.pi * k * p / n
            even += sums[p - 1].scaled(math.cos(angle))
            part = differences[p - 1].scaled(sign * math.sin(angle))
            odd = part if odd is None else odd + part
        assert odd is not None
        found[k] = _Complex(even.re - odd.im, even.im + odd.re)
        found[n - k] = _Complex(even.re + odd.im, even.im - odd.re)
    return found


class _Code:
    """What every step of a transform is written with.

    Parameters
    ----------
    context, builder, signature, arguments
        As Numba gives them to an intrinsic: arrays of real and imaginary parts first.
    tables : int
        Where among the arguments the arrays of roots, or of the spectrum, are.
    """

    def __init__(
        self, context: Any, builder: Any, signature: Any, arguments: Any, tables: int
    ) -> None:
        self.builder = builder
        kinds = signature.args
        self.planes, self.tables = (
            [Rows(context, builder, kinds[i], arguments[i]) for i in (first, first + 1)]
            for first in (0, tables)
        )
        number = kinds[0].dtype
        self.vectors = Vectors(builder, number, lanes_of(np.dtype(str(number))), fused=True)

    def number(self, value: int) -> Any:
        """A number of elements."""
        return ir.Constant(ir.IntType(64), value)

    def load(self, y: Any, x: Any) -> _Complex:
        """A vector of points."""
        return _Complex(*(self.vectors.load(plane.at(y, x)) for plane in self.planes))

    def store(self, value: _Complex, y: Any, x: Any) -> None:
        """Put a vector of points back."""
        for part, plane in zip((value.re, value.im), self.planes, strict=True):
            self.vectors.store(part, plane.at(y, x))

    def entry(self, at: Any, *, spread: bool) -> _Complex:
        """A vector of a table, or one of its entries throughout."""
        read = self.vectors.spread if spread else self.vectors.load
        return _Complex(*(read(table.at(self.number(0), at)) for table in self.tables))


def _step(*, down: bool, inverse: bool) -> Callable[..., None]:
    """One step for one vector of columns (`down`), or of elements of a row, for Numba."""

    @intrinsic
    def step(context, re, im, y, x, step, radix, roots_re, roots_im, at):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
        del context

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            code = _Code(context, builder, signature, arguments, 6)
            _, _, y, x, step, radix, _, _, at = arguments
            after = builder.append_basic_block("after")
            chosen = builder.switch(radix, after)
            for points in RADICES:
                block = builder.append_basic_block(f"radix{points}")
                chosen.add_case(ir.Constant(radix.type, points), block)
                with builder.goto_block(block):
                    _write_step(code, (y, x, step, at), points, down=down, inverse=inverse)
                    builder.branch(after)
            builder.position_at_end(after)
            return context.get_dummy_value()

        arrays = re, im, y, x, step, radix, roots_re, roots_im, at
        return types.void(*arrays), generate

    return step  # type: ignore[no-any-return]


def _write_step(
    code: _Code, where: tuple[Any, ...], points: int, *, down: bool, inverse: bool
) -> None:
    """The code of one step of so many points."""
    y, x, step, at = where
    builder = code.builder
    far = [builder.mul(step, code.number(p)) for p in range(points)]
    places = [(builder.add(y, d), x) if down else (y, builder.add(x, d)) for d in far]
    values = [code.load(*place) for place in places]
    roots = [code.entry(builder.add(at, d), spread=down) for d in far[:-1]]
    if inverse:
        turned = [v.times_conjugate(root) for v, root in zip(values[1:], roots, strict=True)]
        values = _transformed([values[0], *turned], 1)
    else:
        values = _transformed(values, -1)
        values[1:] = [value * root for value, root in zip(values[1:], roots, strict=True)]
    for value, place in zip(values, places, strict=True):
        code.store(value, *place)


_down_forward, _down_inverse = (_step(down=True, inverse=inverse) for inverse in (False, True))
_along_forward, _along_inverse = (_step(down=False, inverse=inverse) for inverse in (False, True))


@intrinsic
def _square(context, re, im, y, x, spectrum_re, spectrum_im, at):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    """The last points of as many rows as a vector is long: there, times the spectrum, and back."""
    del context

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        code = _Code(context, builder, signature, arguments, 4)
        _, _, y, x, _, _, at = arguments
        lanes = code.vectors.lanes
        rows = [builder.add(y, code.number(row)) for row in range(lanes)]
        values = _turned_over([code.load(row, x) for row in rows])
        values = _transformed(values, -1)
        for k in range(lanes):
            entry = code.entry(builder.add(at, code.number(k * lanes)), spread=False)
            values[k] *= entry
        values = _turned_over(_transformed(values, 1))
        for value, row in zip(values, rows, strict=True):
            code.store(value, row, x)
        return context.get_dummy_value()

    return types.void(re, im, y, x, spectrum_re, spectrum_im, at), generate


def _turned_over(values: list[_Complex]) -> list[_Complex]:
    """A square of vectors with its rows as columns."""
    re, im = (_transposed([getattr(v, part) for v in values]) for part in ("re", "im"))
    return [_Complex(*pair) for pair in zip(re, im, strict=True)]


def _transposed(vectors: list[Vector]) -> list[Vector]:
    """The square that `vectors` are the rows of, by its columns.

    Of squares of four, the upper right and the lower left change places; then inside each.
    """
    lanes = len(vectors)
    width = lanes // 2
    while width:
        swap = [
            [i if i & width == 0 else lanes + i - width for i in range(lanes)],
            [i + width if i & width == 0 else lanes + i for i in range(lanes)],
        ]
        for low in range(lanes):
            if low & width == 0:
                a, b = vectors[low], vectors[low + width]
                shuffle = a.vectors.shuffle
                vectors[low], vectors[low + width] = (shuffle(a, b, take) for take in swap)
        width //= 2
    return vectors
