"""LLVM's vectors as values, for the loops that Numba cannot write: ``a * b + c`` is code.

Numba compiles loops and leaves vectors to LLVM, which finds them only in loops of one kind.
Where rates depend on what stays in registers, an intrinsic writes its vectors itself::

    vectors = Vectors(builder, number)
    x = Rows(context, builder, kind, array)
    vectors.store(vectors.load(x.at(y, i)) * vectors.spread(weight), x.at(y, i))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tileconv.core.processor import this_processor

FUSED = ("contract", "nsz")
"""LLVM's flags where a product and its addition may round once. Never ``reassoc``."""


def lanes_of(dtype: np.dtype) -> int:
    """Elements of a vector."""
    return this_processor().vector_bytes // dtype.itemsize


class Vectors:
    """Writes code on vectors of one kind of number.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    number : Numba's type of an integer or float
    lanes : int
        Elements of a vector; 1 for plain numbers.
    fused : bool
        Whether a product and its addition may round once.
    """

    def __init__(self, builder: Any, number: Any, lanes: int, *, fused: bool) -> None:
        self.builder = builder
        self.lanes = lanes
        self.real = isinstance(number, types.Float)
        self.flags = FUSED if fused else ()
        self._bytes = number.bitwidth // 8
        kinds: dict[int, Any] = {32: ir.FloatType(), 64: ir.DoubleType()}
        element = kinds[number.bitwidth] if self.real else ir.IntType(number.bitwidth)
        self.kind = ir.VectorType(element, lanes)

    def load(self, place: Any) -> Vector:
        """The vector that begins at an element, wherever that lies."""
        loaded = self.builder.load(self.builder.bitcast(place, self.kind.as_pointer()))
        loaded.align = self._bytes
        return Vector(self, loaded)

    def store(self, vector: Vector, place: Any) -> None:
        """Put a vector where an element begins."""
        place = self.builder.bitcast(place, self.kind.as_pointer())
        self.builder.store(vector.value, place).align = self._bytes

    def variable(self) -> Variable:
        """A vector of zeros that can be changed; LLVM keeps it in a register while it can."""
        memory = cgutils.alloca_once(self.builder, self.kind)
        self.builder.store(ir.Constant(self.kind, None), memory)
        return Variable(self, memory)

    def spread(self, place: Any) -> Vector:
        """A vector of one element throughout."""
        undefined = ir.Constant(self.kind, ir.Undefined)
        zero = ir.Constant(ir.IntType(32), 0)
        first = self.builder.insert_element(undefined, self.builder.load(place), zero)
        return self.shuffle(Vector(self, first), Vector(self, undefined), [0] * self.lanes)

    def constant(self, value: float) -> Vector:
        """A vector of a number that is known now."""
        return Vector(self, ir.Constant(self.kind, [value] * self.lanes))

    def of(self, other: Vector) -> Vector:
        """The same bits as elements of this kind."""
        return Vector(self, self.builder.bitcast(other.value, self.kind))

    def shuffle(self, a: Vector, b: Vector, take: Sequence[int]) -> Vector:
        """Elements of ``a`` followed by ``b``, by number."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), list(take))
        return Vector(self, self.builder.shuffle_vector(a.value, b.value, mask))


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """A vector in code that is being written."""

    vectors: Vectors
    value: Any

    def __add__(self, other: Vector) -> Vector:
        return self._write("add", other)

    def __sub__(self, other: Vector) -> Vector:
        return self._write("sub", other)

    def __mul__(self, other: Vector) -> Vector:
        return self._write("mul", other)

    def __and__(self, other: Vector) -> Vector:
        return Vector(self.vectors, self.vectors.builder.and_(self.value, other.value))

    def larger(self, other: Vector) -> Vector:
        """The larger of each pair of elements; of a NaN here, the other's."""
        builder = self.vectors.builder
        compare = builder.fcmp_ordered if self.vectors.real else builder.icmp_signed
        greater = compare(">", self.value, other.value)
        return Vector(self.vectors, builder.select(greater, self.value, other.value))

    def _write(self, what: str, other: Vector) -> Vector:
        vectors = self.vectors
        if vectors.real:
            write = getattr(vectors.builder, f"f{what}")
            return Vector(vectors, write(self.value, other.value, flags=vectors.flags))
        return Vector(vectors, getattr(vectors.builder, what)(self.value, other.value))


class Variable:
    """A vector that changes: memory by name only."""

    def __init__(self, vectors: Vectors, memory: Any) -> None:
        self._vectors, self._memory = vectors, memory

    @property
    def value(self) -> Vector:
        """What it is now."""
        return Vector(self._vectors, self._vectors.builder.load(self._memory))

    @value.setter
    def value(self, vector: Vector) -> None:
        self._vectors.builder.store(vector.value, self._memory)


class Rows:
    """An array of two axes with contiguous rows, as code sees it.

    Parameters
    ----------
    context, builder
        Numba's and LLVM's.
    kind : Numba's type of the array
    value : the array
    """

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self._builder = builder
        self._data = array.data
        self.shape = cgutils.unpack_tuple(builder, array.shape)
        size = ir.Constant(self.shape[0].type, kind.dtype.bitwidth // 8)
        self._stride = builder.sdiv(cgutils.unpack_tuple(builder, array.strides)[0], size)

    def at(self, row: Any, column: Any) -> Any:
        """Where an element is."""
        builder = self._builder
        return builder.gep(self._data, [builder.add(builder.mul(row, self._stride), column)])


@intrinsic
def contiguous_row(context, array, y):  # type: ignore[no-untyped-def]
    """Row `y` of an array of two axes as an array that is contiguous, so that LLVM sees it."""
    del context
    row = types.Array(array.dtype, 1, "C")

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        whole = context.make_array(signature.args[0])(context, builder, arguments[0])
        _, length = cgutils.unpack_tuple(builder, whole.shape)
        down, _ = cgutils.unpack_tuple(builder, whole.strides)
        place = cgutils.pointer_add(builder, whole.data, builder.mul(arguments[1], down))
        made = context.make_array(signature.return_type)(context, builder)
        size = context.get_constant(types.intp, array.dtype.bitwidth // 8)
        context.populate_array(
            made, data=place, shape=[length], strides=[size], itemsize=size, meminfo=None
        )
        return made._getvalue()  # noqa: SLF001 - Numba's own way

    return row(array, y), generate
