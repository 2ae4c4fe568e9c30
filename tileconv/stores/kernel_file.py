"""Kernels from files: .npy, text and TIFF, each read as numbers and nothing else."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.kernels import MAX_WEIGHTS
from tileconv.errors import ConfigError, InputError
from tileconv.stores.absent import Missing
from tileconv.stores.array_source import npy_header, numeric_dtype

MAX_BYTES = 1 << 29
"""Largest kernel file that is opened: `MAX_WEIGHTS` in the widest of numpy's dtypes."""

LINE_MAX = 1 << 20
"""Most characters of a line of text that are read at a time."""


def read_kernel(path: str | Path) -> tuple[np.ndarray, str]:
    """The weights in a file.

    Parameters
    ----------
    path : path
        ``.npy``; ``.csv`` or ``.txt``, rows of numbers separated by commas, semicolons or
        spaces, with ``#`` before comments; ``.tif`` or ``.tiff``, whose pixels are the weights.

    Returns
    -------
    weights : ndarray, 2-D
        In native byte order; text is float64, or integers where that would round them.
    name : str
        The file's name.

    Raises
    ------
    ConfigError
        The file is not there, cannot be read, or holds anything but a finite 2-D array of
        1 to `MAX_WEIGHTS` numbers.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"kernel file {path} ends in {path.suffix or 'nothing'}; "
            f"give one of {', '.join(_READERS)}"
        )
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise ConfigError(f"kernel file {path} {what}; check the path")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"kernel file {path} has {size} bytes, more than {MAX_BYTES}")
        weights = reader(path)
    except OSError as error:
        raise ConfigError(
            f"kernel file {path} cannot be read: {error.strerror or error}; check its permissions"
        ) from error
    _check_shape(path, weights.shape)
    if weights.dtype.kind not in "biufc":
        raise ConfigError(f"kernel file {path} holds {weights.dtype}, not numbers; save numbers")
    weights = weights.astype(weights.dtype.newbyteorder("="))
    bad = np.argwhere(~np.isfinite(weights))
    if len(bad):
        y, x = (int(i) for i in bad[0])
        raise ConfigError(
            f"kernel file {path} has {weights[y, x]} at row {y}, column {x}; weights must be finite"
        )
    return weights, path.name


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse what is no kernel, where the format tells before its weights are read."""
    if len(shape) != 2:
        raise ConfigError(
            f"kernel file {path} has {len(shape)} axes (shape {shape}); a kernel has 2, y and x"
        )
    if math.prod(shape) == 0:
        raise ConfigError(f"kernel file {path} is empty (shape {shape}); give at least 1 x 1")
    if math.prod(shape) > MAX_WEIGHTS:
        raise ConfigError(
            f"kernel file {path} has {shape[0]} x {shape[1]} weights, more than {MAX_WEIGHTS}"
        )


def _read_npy(path: Path) -> np.ndarray:
    try:
        shape, _, dtype, _ = npy_header(path)
        numeric_dtype(dtype, str(path))
    except InputError as error:
        raise ConfigError(
            f"kernel file {error}; write it with numpy.save from a plain numeric array"
        ) from error
    _check_shape(path, shape)
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except ValueError as error:
        raise ConfigError(
            f"kernel file {path} is shorter than its header says; restore it from its source"
        ) from error


def _read_text(path: Path) -> np.ndarray:
    weights, rounded = array("d"), dict[int, int]()
    columns = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(partial(file.readline, LINE_MAX + 1), ""), start=1):
                if len(line) > LINE_MAX:
                    raise ConfigError(
                        f"kernel file {path}, line {number} has more than {LINE_MAX} characters; "
                        "save the weights with numpy.save"
                    )
                row = _parse_row(path, number, line.partition("#")[0])
                if row is None:
                    continue
                rounded |= {
                    len(weights) + at: weight
                    for at, weight in enumerate(row)
                    if type(weight) is int and float(weight) != weight
                }
                columns = columns or len(row)
                if len(row) != columns:
                    raise ConfigError(
                        f"kernel file {path}, line {number}: {len(row)} numbers where the rows "
                        f"before have {columns}; give every row as many"
                    )
                weights.extend(row)
                _check_shape(path, (1, len(weights)))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"kernel file {path} is not text: {_one_line(error)}; write rows of numbers"
        ) from error
    found = _whole(np.array(weights, np.float64), rounded)
    return found.reshape(len(weights) // max(1, columns), columns)


def _whole(weights: np.ndarray, rounded: Mapping[int, int]) -> np.ndarray:
    """`weights` in 64-bit integers where they are whole and float64 has rounded some of them.

    Parameters
    ----------
    weights : ndarray of float64, 1-D
    rounded : mapping of int to int
        The ones that were rounded, as they are written, by their places.
    """
    if not rounded or not np.isfinite(weights).all() or (weights != np.rint(weights)).any():
        return weights
    for dtype in (np.int64, np.uint64):
        info, others = np.iinfo(dtype), np.delete(weights, list(rounded))
        inside = (others >= float(info.min)) & (others < float(info.max))
        if inside.all() and all(info.min <= n <= info.max for n in rounded.values()):
            whole = np.zeros(weights.shape, dtype)
            whole[np.delete(np.arange(weights.size), list(rounded))] = others.astype(dtype)
            whole[list(rounded)] = np.array(list(rounded.values()), dtype)
            return whole
    return weights


def _parse_row(path: Path, number: int, line: str) -> list[float] | None:
    """The numbers of a line, integers as they are; None for a line without any."""
    line = line.strip()
    if not line:
        return None
    separator = next((mark for mark in (";", ",") if mark in line), None)
    try:
        return [_number(word) for word in line.split(separator)]
    except ValueError as error:
        raise ConfigError(
            f"kernel file {path}, line {number}: {_one_line(error):.80}; write numbers with a "
            "decimal point, separated by commas, semicolons or spaces"
        ) from error


def _number(word: str) -> float:
    """A float, or an integer if it is written as one that float64 may round."""
    value = float(word)
    if _EXACT <= abs(value) < _WIDEST and word.strip().lstrip("+-").isdecimal():
        return int(word)
    return value


_EXACT, _WIDEST = 2.0**53, 2.0**65
"""Whole numbers up to the first are exact in float64, those above the second in no integers."""


def _read_tiff(path: Path) -> np.ndarray:
    from tileconv.stores.tiff.reader import TiffSource

    try:
        with TiffSource(path, missing=Missing.ERROR) as source:
            raster = source.raster
            _check_shape(path, raster.shape)
            weights = np.empty((*raster.spatial, 1), raster.dtype)
            source.read(0, Region.of_shape(raster.spatial), weights)
    except InputError as error:
        raise ConfigError(f"kernel file: {error}") from error
    return weights[..., 0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


_READERS: Mapping[str, Callable[[Path], np.ndarray]] = {
    ".npy": _read_npy,
    ".csv": _read_text,
    ".txt": _read_text,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}
