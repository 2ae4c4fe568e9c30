"""How loops are compiled: once for each dtype, kept on disk, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(fastmath: set[str] | bool = False) -> Callable[[Callable[..., Any]], Any]:  # noqa: FBT001, FBT002 - Numba's own parameter
    """A decorator: Numba's ``njit`` with ``nogil`` and, where a folder can be written, ``cache``.

    Parameters
    ----------
    fastmath : set of str or False
        LLVM's flags, one by one. Never ``reassoc``, which makes a pixel's value depend on
        where its row begins, nor ``nnan`` and ``ninf``, which lose NaN and infinity.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, cache=True, fastmath=fastmath)(function)
        except RuntimeError:  # Numba found no folder to keep compiled code in.
            return njit(nogil=True, fastmath=fastmath)(function)

    return decorate
