"""What the processor can hold: it decides how compiled loops are written."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Processor(NamedTuple):
    """A processor, as LLVM knows it.

    Parameters
    ----------
    name, features : str
        What code is compiled for; it runs on no other.
    vector_bytes : int
        Bytes of a vector.
    registers : int
        Vectors it holds.
    """

    name: str
    features: str
    vector_bytes: int
    registers: int


@cache
def this_processor() -> Processor:
    """The one this runs on."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    vector_bytes = 64 if features.get("avx512f") else 32 if features.get("avx") else 16
    registers = 32 if vector_bytes == 64 or features.get("neon") else 16
    return Processor(llvm.get_host_cpu_name(), features.flatten(), vector_bytes, registers)
