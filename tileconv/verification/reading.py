"""Pixels read by somebody else's reader: tifffile, zarr-python or numpy.

tileconv's own reader opens the file first and refuses what it refuses: geometry, byte ranges and
stored sizes are looked at before another reader decodes anything. It also reads what the other
one cannot, within the memory that is planned; the result says so.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Protocol

import numpy as np

from tileconv.core.grid import Region
from tileconv.core.raster import Raster
from tileconv.errors import one_line
from tileconv.stores.chunk_cache import ChunkCache
from tileconv.stores.source import Source

BAND_ROWS = 64
"""Rows of a file that are mapped at a time: mapped pages count as memory, 64 KiB at least for
every row that is touched."""

BAND_BYTES = BAND_ROWS << 16


class Unreadable(Exception):  # noqa: N818 - not an error by itself: tileconv's reader is asked
    """Another reader cannot read this, or should not be asked to."""


class Reader(Protocol):
    """Reads windows of one raster, from any number of threads."""

    name: str
    """Of the library."""

    segment_bytes: int
    """Bytes of pixels decoded at a time."""

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out`, of shape region.shape + (samples,). Raises `Unreadable`."""

    def close(self) -> None:
        """Release the file."""


class Kept:
    """Decoded pieces, the last used ones within a number of bytes; any number of threads.

    Attributes
    ----------
    capacity_bytes : int
    """

    def __init__(self) -> None:
        self.capacity_bytes = 0
        self._held_bytes = 0
        self._pieces: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], np.ndarray]) -> np.ndarray:
        """The piece called `key`, from `load` if it is not held."""
        with self._lock:
            if (piece := self._pieces.get(key)) is not None:
                self._pieces.move_to_end(key)
                return piece
        piece = load()
        with self._lock:
            if key not in self._pieces and piece.nbytes <= self.capacity_bytes:
                self._held_bytes += piece.nbytes
                self._pieces[key] = piece
                while self._held_bytes > self.capacity_bytes:
                    self._held_bytes -= self._pieces.popitem(last=False)[1].nbytes
        return piece


class KeptChunks(ChunkCache):
    """A stand-in for the cache of tileconv's own reader."""

    def __init__(self) -> None:
        self.capacity_bytes = self.loads = self.hits = self.load_bytes = self.held_bytes = 0
        self.kept = Kept()

    def get(self, key: Hashable, load: Callable[[], np.ndarray]) -> np.ndarray:
        """The chunk called `key`, from `load` if it is not held."""
        return self.kept.get(key, load)


class Reading:
    """A raster as `verify` reads it, by another library, or by tileconv where that cannot.

    Parameters
    ----------
    source : Source
        tileconv's, opened and checked.
    reader : Reader or None
        The other one; None where there is none.
    why : str
        There is none.
    """

    def __init__(self, source: Source, reader: Reader | None, why: str = "") -> None:
        self.source, self.reader = source, reader
        self._why = why
        self._others = 0
        self._lock = threading.Lock()

    @property
    def raster(self) -> Raster:
        """Description of the raster."""
        return self.source.raster

    @property
    def decoded_bytes(self) -> int:
        """Most bytes of what is decoded at a time."""
        own = 0 if self.reader is None else self.reader.segment_bytes
        return max(own, self.raster.chunk_bytes)

    @property
    def name(self) -> str:
        """Who has read, for people; and where tileconv itself did, why."""
        if self.reader is None:
            return f"tileconv: {self._why}"
        if not self._others:
            return self.reader.name
        return f"{self.reader.name}, and {self._others} windows by tileconv: {self._why}"

    def without_other(self, why: str) -> Reading:
        """The same raster, read by tileconv alone."""
        self.close_other()
        return Reading(self.source, None, why)

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """Fill `out`; see `Source.read`, which may raise."""
        if self.reader is not None:
            try:
                self.reader.read(plane, region, out)
            except Unreadable as error:
                with self._lock:
                    self._others += 1
                    self._why = self._why or str(error)
            else:
                return
        self.source.read(plane, region, out)

    def keep(self, capacity_bytes: int) -> None:
        """Allow so many bytes of decoded pieces."""
        keeps = self.source.cache if self.reader is None else self.reader
        kept = getattr(keeps, "kept", None)
        if kept is not None:
            kept.capacity_bytes = capacity_bytes

    def close_other(self) -> None:
        """Release the file that the other reader has open."""
        if self.reader is not None:
            self.reader.close()


class NpyReader:
    """numpy's reading of a .npy; see `Reader`."""

    name = "numpy"

    def __init__(self, path: Path, raster: Raster) -> None:
        self._path, self._raster = path, raster
        self.segment_bytes = BAND_BYTES
        array = self._mapped()
        if array.shape != raster.shape or array.dtype.newbyteorder("=") != raster.dtype:
            raise Unreadable(f"numpy finds {array.shape} {array.dtype}")
        self._by_columns = array.flags.f_contiguous and not array.flags.c_contiguous

    def _mapped(self) -> np.ndarray:
        try:
            return np.asarray(np.load(self._path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError) as error:
            raise Unreadable(f"numpy: {one_line(error)}") from error

    def read(self, plane: int, region: Region, out: np.ndarray) -> None:
        """See `Reader.read`; a band at a time, each mapped by itself."""
        read_bands(self._mapped, self._raster, plane, region, out, by_columns=self._by_columns)

    def close(self) -> None:
        """Nothing is open."""


def read_bands(
    mapped: Callable[[], np.ndarray],
    raster: Raster,
    plane: int,
    region: Region,
    out: np.ndarray,
    *,
    by_columns: bool = False,
) -> None:
    """Copy a window out of an array that is mapped anew for every band of it."""
    target = out.reshape(out.shape[:2] + raster.sample_shape)
    (top, left), (bottom, right) = region.start, region.stop
    axis = 1 if by_columns else 0
    for at in range(0, region.shape[axis], BAND_ROWS):
        if by_columns:
            part = slice(top, bottom), slice(left + at, min(right, left + at + BAND_ROWS))
            into = target[:, at : at + BAND_ROWS]
        else:
            part = slice(top + at, min(bottom, top + at + BAND_ROWS)), slice(left, right)
            into = target[at : at + BAND_ROWS]
        place: tuple[int | slice, ...] = (*raster.plane_index(plane), *part)
        into[...] = mapped()[place]


def reading_of(source: Source, level: int = 0, *, refuse_absent: bool = False) -> Reading:
    """How a source's raster is read by somebody else.

    Parameters
    ----------
    source : Source
        tileconv's, opened and checked.
    level : int
        Of a pyramid.
    refuse_absent : bool
        Whether chunks that are not there are left to tileconv's reader, which refuses them.
    """
    path, raster = source.path, source.raster
    if path is None:
        return Reading(source, None, "a synthetic raster has no other reader")
    try:
        return Reading(source, _reader(path, raster, level, refuse_absent=refuse_absent))
    except Unreadable as error:
        return Reading(source, None, str(error))


def _reader(path: Path, raster: Raster, level: int, *, refuse_absent: bool) -> Reader:
    if path.is_dir():
        from tileconv.verification.zarr_reading import ZarrReader

        return ZarrReader(path, raster, level, refuse_absent=refuse_absent)
    with path.open("rb") as file:
        head = file.read(4)
    if head == np.lib.format.MAGIC_PREFIX[:4]:
        return NpyReader(path, raster)
    from tileconv.verification.tiff_reading import TiffReader

    return TiffReader(path, raster, level, refuse_absent=refuse_absent)
