"""How loops are compiled: by Numba, once for each dtype and processor, and then without it.

To import Numba and to have it load what it has compiled takes half a second and 60 MiB, more
than many a job. But what it makes is machine code that needs nothing of Numba, so that is kept,
and loaded by LLVM alone: the modules of `tileconv.core.loops` are imported where something has
to be compiled, and nowhere else.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tileconv.core.processor import this_processor

_FIELDS = (ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_ssize_t] * 2, ctypes.c_void_p)
"""Numba's array: owner and parent (none here), elements, bytes of one, data; shape and strides
follow."""

_OWNER_LEAVES = "NRT_MemInfo_call_dtor"
"""What compiled code would call when the owner of an array has no other use."""

_LOOPS: dict[tuple[object, ...], Loop] = {}
_MAKING = threading.Lock()


class Loop:
    """A function of `tileconv.core.loops`, compiled for some dtypes; thread-safe.

    It runs without the interpreter's lock. What it is given is not copied, and has to stay.

    Parameters
    ----------
    module, name : str
        Where it is.
    dtypes : tuple of numpy.dtype
        Of its first arguments, arrays of two axes with any strides.
    numbers : int
        How many whole numbers follow.
    fused : bool
        Whether a product and its addition may round once.
    """

    def __init__(
        self, module: str, name: str, dtypes: tuple[np.dtype, ...], numbers: int, *, fused: bool
    ) -> None:
        self._dtypes = dtypes
        symbol, code = _machine_code(module, name, dtypes, numbers, fused=fused)
        # Where Numba's functions put what they return, here nothing, and what they raise.
        self._returned = (ctypes.c_void_p * 2)()
        array = (*_FIELDS, *[ctypes.c_ssize_t] * 4)
        kinds = [*[ctypes.c_void_p] * 2, *array * len(dtypes), *[ctypes.c_ssize_t] * numbers]
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)
        # The engine owns the code.
        self._engine, address = _loaded(symbol, code)
        self._function = prototype(address)

    def __call__(self, *arguments: Any) -> None:
        """Run it.

        Raises
        ------
        TypeError
            An array has another dtype or number of axes than the loop was compiled for.
        """
        count = len(self._dtypes)
        self.bound(*arguments[:count])(*arguments[count:])

    def bound(self, *arrays: np.ndarray) -> Callable[..., None]:
        """The loop over these arrays, which have to stay; called with the numbers that follow.

        To look at arrays takes longer than many a call: where they are the same for many, once
        is enough.

        Raises
        ------
        TypeError
            An array has another dtype or number of axes than the loop was compiled for.
        """
        place = ctypes.addressof(self._returned)
        flat = [place, place + ctypes.sizeof(ctypes.c_void_p)]
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if array.dtype != dtype or array.ndim != 2:
                raise TypeError(f"an array of {array.ndim} axes of {array.dtype}, not 2 of {dtype}")
            data = array.__array_interface__["data"][0]
            flat += (0, 0, array.size, array.itemsize, data, *array.shape, *array.strides)
        function = self._function

        def run(*numbers: int) -> None:
            status = function(*flat, *numbers)
            if status:
                raise RuntimeError(f"a compiled loop failed with status {status}")

        return run


def loop(
    module: str, name: str, dtypes: tuple[np.dtype, ...], numbers: int = 0, *, fused: bool = False
) -> Loop:
    """The `Loop` of these arguments, compiled or loaded when it is first asked for."""
    key = module, name, dtypes, numbers, fused
    found = _LOOPS.get(key)
    if found is not None:
        return found
    # One thread makes it, the others wait.
    with _MAKING:
        if key not in _LOOPS:
            where = f"tileconv.core.loops.{module}"
            _LOOPS[key] = Loop(where, name, dtypes, numbers, fused=fused)
        return _LOOPS[key]


def compile_ahead(
    module: str, name: str, dtypes: tuple[np.dtype, ...], numbers: int = 0, *, fused: bool = False
) -> None:
    """Have a `loop` compiled and kept, not loaded: that takes milliseconds when it is used."""
    where = f"tileconv.core.loops.{module}"
    path = _cache_path(where, name, dtypes, numbers, fused=fused)
    if path is None or not path.exists():
        loop(module, name, dtypes, numbers, fused=fused)


def compiled(function: Callable[..., Any]) -> Any:
    """A decorator for what few runs need: Numba's ``njit``, with Numba's own cache."""
    from numba import njit

    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # Numba found no folder to keep compiled code in.
        return njit(nogil=True)(function)


def cache_folder() -> Path | None:
    """Where machine code is kept: ``$TILECONV_CACHE_DIR``, or the user's folder for caches.

    None for a user without a home, like those of some containers.
    """
    if named := os.environ.get("TILECONV_CACHE_DIR"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tileconv"
    except RuntimeError:
        return None


def _cache_path(
    module: str, name: str, dtypes: tuple[np.dtype, ...], numbers: int, *, fused: bool
) -> Path | None:
    """Where the object code of a loop is kept; None where none is."""
    folder = cache_folder()
    if folder is None:
        return None
    signature = f"{','.join(dtype.str for dtype in dtypes)};{numbers};{fused}"
    key = hashlib.sha256(f"{_state()};{module};{name};{signature}".encode()).hexdigest()
    return folder / f"{name}-{key[:32]}.o"


def _machine_code(
    module: str, name: str, dtypes: tuple[np.dtype, ...], numbers: int, *, fused: bool
) -> tuple[str, bytes]:
    """Name and object code of a loop: from the cache, or compiled and kept there."""
    path = _cache_path(module, name, dtypes, numbers, fused=fused)
    if path is None:
        return _compile(module, name, dtypes, numbers, fused=fused)
    with contextlib.suppress(OSError):
        kept = path.read_bytes()
        digest, content = kept[:32], kept[32:]
        if hashlib.sha256(content).digest() == digest:
            symbol, _, code = content.partition(b"\0")
            return symbol.decode(), code
    made, code = _compile(module, name, dtypes, numbers, fused=fused)
    _keep(path, b"\0".join((made.encode(), code)))
    return made, code


@cache
def _state() -> str:
    """Whatever decides what a loop is compiled to."""
    import llvmlite.binding as llvm

    digest, here = hashlib.sha256(), Path(__file__).parent
    for path in (Path(__file__), here / "processor.py", *sorted((here / "loops").glob("*.py"))):
        digest.update(path.read_bytes())
    settings = [f"{name}={value}" for name, value in os.environ.items() if name[:6] == "NUMBA_"]
    versions = version("llvmlite"), version("numba")
    return f"{digest.hexdigest()};{versions};{sorted(settings)};{llvm.get_default_triple()};" + str(
        this_processor()
    )


def _compile(
    module: str, name: str, dtypes: tuple[np.dtype, ...], numbers: int, *, fused: bool
) -> tuple[str, bytes]:
    """Name and object code of a loop, made by Numba."""
    from numba import config, from_dtype, njit, types

    # What NUMBA_DISABLE_JIT asks for would leave nothing to load.
    config.DISABLE_JIT = 0
    arrays = [types.Array(from_dtype(dtype), 2, "A") for dtype in dtypes]
    signature = types.void(*arrays, *[types.intp] * numbers)
    dispatcher = njit(
        signature,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        error_model="numpy",  # nothing is raised, which would need the interpreter
        # Never reassoc, which makes a pixel's value depend on where its row begins, nor nnan
        # and ninf, which lose NaN and infinity.
        fastmath={"contract", "nsz"} if fused else False,
    )(getattr(import_module(module), name))
    (made,) = dispatcher.overloads.values()
    _, _, (code, _) = made.library.serialize_using_object_code()
    return made.fndesc.llvm_func_name, code


def _keep(path: Path, content: bytes) -> None:
    """Put compiled code into the cache, whole or not at all; where that fails it is made anew."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            Path(part).replace(path)
        except OSError:
            Path(part).unlink()
            raise


def _loaded(symbol: str, code: bytes) -> tuple[Any, int]:
    """The engine that holds some object code, and the address of its function."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Called for arrays that have an owner, which ours do not; Numba's own if it is there.
    if llvm.address_of_symbol(_OWNER_LEAVES) is None:
        never = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
        llvm.add_symbol(_OWNER_LEAVES, never)
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine, engine.get_function_address(symbol)
