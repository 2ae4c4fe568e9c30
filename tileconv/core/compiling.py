"""How loops are compiled: once for each dtype, kept on disk, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def compiled(
    *signatures: Any,
    fastmath: set[str] | bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: Numba's ``njit`` with ``nogil`` and, where a folder can be written, ``cache``.

    Parameters
    ----------
    *signatures : Numba's signatures
        What to compile for, now; without any, for what it is called with, then.
    fastmath : set of str or False
        LLVM's flags, one by one. Never ``reassoc``, which makes a pixel's value depend on
        where its row begins, nor ``nnan`` and ``ninf``, which lose NaN and infinity.
    """
    given = [list(signatures)] if signatures else []

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(*given, nogil=True, cache=True, fastmath=fastmath)(function)
        except RuntimeError:  # Numba found no folder to keep compiled code in.
            return njit(*given, nogil=True, fastmath=fastmath)(function)

    return decorate


def rows_type(dtype: np.dtype, *, written: bool = False) -> Any:
    """Numba's type of an array of two axes with contiguous rows: one to compile for.

    Numba takes rows for strided unless the whole array is contiguous; see `contiguous_row`.
    """
    return types.Array(from_dtype(dtype), 2, "A", readonly=not written)


@intrinsic
def contiguous_row(context, array, y):  # type: ignore[no-untyped-def]
    """Row `y` of an array of two axes as an array that is contiguous, so that LLVM sees it."""
    del context
    row = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

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
