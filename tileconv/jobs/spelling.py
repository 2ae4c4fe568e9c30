"""How sizes, shapes, dtypes, kernels and weights are written in configs and in commands."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np

from tileconv.core.kernels import NAMED_KERNELS, named_weights
from tileconv.errors import ConfigError

Size = int | str
"""Bytes, or a size with a unit like ``512MiB``."""

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT")
}


def parse_size(size: Size, key: str = "run.memory") -> int:
    """Bytes of a size written ``512MiB``, ``2GB`` or as a number of bytes.

    Raises
    ------
    ConfigError
        If it is not a positive size.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", str(size))
    units = {unit.lower(): factor for unit, factor in _UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise ConfigError(f"{key} {size!r} is not a size; write it as 512MiB, 2GB or 800000000")
    value = int(float(match[1]) * units[match[2].lower()])
    if value < 1:
        raise ConfigError(f"{key} {size!r} is not a positive size; write it as 512MiB or 2GB")
    return value


def parse_shape(shape: str | list[int], key: str = "input.shape") -> tuple[int, ...]:
    """Axis lengths written ``16384x16384``, or as a list.

    Raises
    ------
    ConfigError
        If they are not two or more positive integers.
    """
    try:
        lengths = tuple(int(part) for part in shape.split("x")) if isinstance(shape, str) else shape
    except ValueError:
        lengths = ()
    if len(lengths) < 2 or min(lengths) < 1:
        raise ConfigError(f"{key} {shape!r} is not a shape; write it as 16384x16384")
    return tuple(lengths)


def parse_dtype(name: str, key: str) -> np.dtype:
    """The number dtype called `name`.

    Raises
    ------
    ConfigError
        If numpy knows none of that name, or it does not hold numbers.
    """
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biufc":
        raise ConfigError(f"{key} {name!r} is not a number type; use one like uint8 or float32")
    return dtype.newbyteorder("=")


def parse_kernel(spec: str) -> dict[str, object]:
    """The table ``[kernel]`` of a kernel written ``gaussian:sigma=2``, or as a file's name.

    Raises
    ------
    ConfigError
        If a parameter is not ``key=value``.
    """
    name, colon, rest = spec.partition(":")
    if name not in NAMED_KERNELS:
        if colon and not Path(spec).suffix:
            named_weights(name, {})  # Raises, with the names there are.
        return {"file": spec} if Path(spec).suffix else {"name": spec}
    table: dict[str, object] = {"name": name}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"kernel {spec!r}: {part!r} is not key=value, like sigma=2")
        wanted = NAMED_KERNELS[name].parameters.get(key)
        if wanted is None or key in table:
            allowed = ", ".join(NAMED_KERNELS[name].parameters) or "no parameters"
            raise ConfigError(f"kernel {spec!r}: {key!r} is given twice or not one of {allowed}")
        try:
            table[key] = wanted(value)
        except ValueError:
            raise ConfigError(
                f"kernel.{key} must be of type {wanted.__name__}, got {value!r}"
            ) from None
    return table


def parse_weights(rows: list[list[int | float]]) -> np.ndarray:
    """Weights as they are written, in float64, or in integers where that would round one.

    Raises
    ------
    ConfigError
        No dtype holds them.
    """
    flat = [weight for row in rows for weight in row]
    rounded = [weight for weight in flat if as_float(weight, "kernel.weights") != weight]
    if not rounded or not all(float(weight).is_integer() for weight in flat):
        return np.array(rows, dtype=np.float64)
    whole = [[int(weight) for weight in row] for row in rows]
    for dtype in (np.int64, np.uint64):
        with contextlib.suppress(OverflowError):
            return np.array(whole, dtype=dtype)
    raise ConfigError(
        f"kernel.weights holds {rounded[0]}, and neither float64 nor a 64-bit integer dtype "
        "holds all weights; write those as floats, with a decimal point"
    )


def as_float(number: float, key: str) -> float:
    """The nearest float64.

    Raises
    ------
    ConfigError
        It is beyond the range of float64.
    """
    try:
        return float(number)
    except OverflowError:
        raise ConfigError(f"{key} has an integer beyond 1.8e308; give a smaller one") from None
