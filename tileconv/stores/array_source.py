"""numpy arrays and .npy files as sources."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import InputError
from tileconv.stores.axes import raster_dims
from tileconv.stores.source import Source

BAND_BYTES = 1 << 20
"""Most bytes of a .npy that one thread has mapped at a time: mapped pages that were touched
count as the process's memory."""


class NumpySource(Source):
    """An array in memory as a source of windows; see `tileconv.stores.source.Source`.

    The array is looked at, not copied; a pickle of this source carries it whole.

    Parameters
    ----------
    array : ndarray
        Of any numbers, with any strides.
    dims : str or sequence of str, optional
        Names of the axes; see `raster_dims`.

    Raises
    ------
    InputError
        The array holds no numbers.
    ConfigError
        `dims` do not fit.
    """

    def __init__(self, array: np.ndarray, *, dims: str | Sequence[str] | None = None) -> None:
        dtype = numeric_dtype(array.dtype, "the array")
        self._array = array
        self._raster = Raster(
            shape=array.shape, dtype=dtype, dims=raster_dims(array.shape, dims=dims)
        )

    @property
    def raster(self) -> Raster:
        """Description of the raster."""
        return self._raster

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`; see `Source.read`."""
        index: tuple[int | slice, ...] = (*self._raster.plane_index(plane), *region.slices)
        pixels = self._array[index]
        out.reshape(out.shape[:2] + self._raster.sample_shape)[...] = pixels

    def __reduce__(self) -> tuple[Any, ...]:
        return _source_of, (self._array, self._raster.dims)


class NpySource(Source):
    """A .npy file as a source of windows; see `tileconv.stores.source.Source`.

    The file is mapped for each read and let go of after it, `BAND_BYTES` at a time, so that
    a file of any size costs no memory between reads.

    Parameters
    ----------
    path : path
    dims : str or sequence of str, optional
        Names of the axes; see `raster_dims`.

    Raises
    ------
    InputError
        It is not a .npy of numbers, or shorter than its header says.
    ConfigError
        `dims` do not fit.
    """

    def __init__(self, path: str | Path, *, dims: str | Sequence[str] | None = None) -> None:
        self._path = Path(path)
        self._dims = dims
        shape, fortran, self._stored, self._start = npy_header(self._path)
        dtype = numeric_dtype(self._stored, str(path))
        # Axes in the order they are stored in, slowest first.
        self._order = tuple(range(len(shape)))[:: -1 if fortran else 1]
        self._stop = self._start + math.prod(shape) * dtype.itemsize
        self._refuse_truncated()
        self._raster = Raster(shape=shape, dtype=dtype, dims=raster_dims(shape, dims=dims))
        self._closed = False

    @property
    def raster(self) -> Raster:
        """Description of the raster."""
        return self._raster

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out` with the pixels of `region`; see `Source.read`."""
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        if out.size == 0:
            return
        # A mapping of what is no longer there would end the process.
        self._refuse_truncated()
        index = self._raster.plane_index(plane)
        samples = self._raster.sample_shape
        lo = (*index, *region.start, *(0 for _ in samples))
        hi = (*(at + 1 for at in index), *region.stop, *samples)
        target = out.reshape((1,) * len(index) + out.shape[:2] + samples).transpose(self._order)
        window = [(lo[axis], hi[axis]) for axis in self._order]
        lengths = [self._raster.shape[axis] for axis in self._order]
        steps = [math.prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
        for box in _bands(window, steps, max(1, BAND_BYTES // self._stored.itemsize)):
            into = tuple(
                slice(a - start, b - start) for (a, b), (start, _) in zip(box, window, strict=True)
            )
            target[into] = self._map(box, steps)

    def close(self) -> None:
        """Reading afterwards is an error."""
        self._closed = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path.absolute(), self._dims)

    def _map(self, box: Sequence[tuple[int, int]], steps: Sequence[int]) -> np.ndarray:
        """The elements of `box`, in storage order, in a mapping that ends with the array."""
        first, last = _span(box, steps)
        size = self._stored.itemsize
        try:
            mapped = np.memmap(
                self._path,
                dtype=self._stored,
                mode="r",
                offset=self._start + first * size,
                shape=(last + 1 - first,),
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path} cannot be read: {error}; was it changed?") from error
        return np.lib.stride_tricks.as_strided(
            mapped, [b - a for a, b in box], [step * size for step in steps], writeable=False
        )

    def _refuse_truncated(self) -> None:
        try:
            size = self._path.stat().st_size
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror}") from error
        if size < self._stop:
            raise InputError(
                f"{self._path} has {size} bytes, its header asks for {self._stop}; "
                "it is truncated, restore it from its source"
            )


def _source_of(array: np.ndarray, dims: tuple[str, ...]) -> NumpySource:
    return NumpySource(array, dims=dims)


def _reopen(path: Path, dims: str | Sequence[str] | None) -> NpySource:
    return NpySource(path, dims=dims)


def _span(box: Sequence[tuple[int, int]], steps: Sequence[int]) -> tuple[int, int]:
    """Numbers of the first and the last element of a box in storage."""
    first = sum(a * step for (a, _), step in zip(box, steps, strict=True))
    last = sum((b - 1) * step for (_, b), step in zip(box, steps, strict=True))
    return first, last


def _bands(
    box: Sequence[tuple[int, int]], steps: Sequence[int], limit: int
) -> Iterator[Sequence[tuple[int, int]]]:
    """`box`, cut along its slowest axes until each part spans at most `limit` elements."""
    first, last = _span(box, steps)
    if last + 1 - first <= limit:
        yield box
        return
    axis = next(axis for axis, (a, b) in enumerate(box) if b - a > 1)
    a, b = box[axis]
    inner = _span([(0, 1)] * (axis + 1) + list(box[axis + 1 :]), steps)
    # As many along this axis as fit with all of the faster axes; at least one, to be cut on.
    count = max(1, (limit - (inner[1] - inner[0] + 1)) // steps[axis] + 1)
    for start in range(a, b, count):
        part = [*box[:axis], (start, min(b, start + count)), *box[axis + 1 :]]
        yield from _bands(part, steps, limit)


def npy_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran order, dtype, and position of the first pixel of a .npy.

    Raises
    ------
    InputError
        The file cannot be read, or is no .npy.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            # Both refuse headers longer than 10,000 characters, which could hang the parser.
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
            start = file.tell()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # The header is a Python literal; what may go wrong in one has no common error.
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a .npy that can be read: {reason}") from error
    if any(type(length) is not int or length < 0 for length in shape):
        raise InputError(f"{path} is not a .npy that can be read: its shape is {shape}")
    return shape, fortran, dtype, start


def numeric_dtype(dtype: np.dtype, label: str) -> np.dtype:
    """`dtype` in native byte order.

    Raises
    ------
    InputError
        It is not one of numbers: objects, records, text, dates.
    """
    if dtype.kind not in "biufc" or dtype.hasobject:
        raise InputError(
            f"{label} holds {dtype}, not numbers; tileconv reads bool, integer, float and complex"
        )
    return dtype.newbyteorder("=")


def is_npy(head: bytes) -> bool:
    """Whether a file that begins with `head` is a .npy."""
    return head.startswith(np.lib.format.MAGIC_PREFIX)
