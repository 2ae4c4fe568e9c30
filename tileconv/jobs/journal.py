"""The record of finished tiles: what a run that was killed has done, for the one that goes on.

A file of frames, only ever appended to, each written after the tiles it names are stored.
The first holds the settings of the run; every other one some tiles and where they are::

    "tcj1"  crc32  bytes of text, tiles, units   text   tiles   units
    4       4      4           + 8    + 8        json   <u8     <u8 x 3

A frame that was cut short, or whose checksum does not match, ends the record: what comes after
it was never promised.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tileconv.core.grid import TileGrid
from tileconv.errors import OutputExistsError, StorageError
from tileconv.jobs.batches import BatchResult
from tileconv.stores.absent import Absences
from tileconv.stores.disk import storage_error, write_all
from tileconv.stores.sink import Receipt

NAME = "journal"

FLUSH_S = 0.05
"""Tiles are recorded at once, but for those that took less than this and come faster than this
after one another: they wait for the next, which is near."""

FLUSH_TILES = 4096

_MAGIC = b"tcj1"
_HEAD = struct.Struct("<4sIIQQ")
_CHECKED_FROM = 8

Settings = Mapping[str, Any]
"""What a run must share with the one it goes on with; see `tileconv.jobs.fingerprint`."""


@dataclass(slots=True)
class Totals:
    """Counts of some tiles, for the report."""

    pixels: int = 0
    clipped: int = 0
    nans: int = 0
    absent: list[int] = field(default_factory=list)
    absent_names: list[str] = field(default_factory=list)

    @property
    def absences(self) -> Absences:
        """The chunks of the input that were absent."""
        return Absences(np.array(self.absent, np.int64), tuple(self.absent_names))


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Some finished tiles.

    Parameters
    ----------
    tiles : ndarray of uint64
        Their indices.
    receipt : Receipt
        Where their write units are, all in one part.
    totals : Totals
    """

    tiles: np.ndarray
    receipt: Receipt
    totals: Totals


class Journal:
    """The journal of one staging folder, which the caller has locked.

    Parameters
    ----------
    folder : Path
    settings : Settings
        Of this run.
    grid : TileGrid
        The tiles of this run, unless the folder holds a run that has others.

    Attributes
    ----------
    grid : TileGrid
        The tiles of the staged run.
    run : str
        Tells the staged run from any other: what is left of those that were dropped, on
        machines that have not heard of it, works under another name.
    resumed : bool
        Whether there is a run to go on with.

    Raises
    ------
    OutputExistsError
        The folder holds a run with other settings.
    StorageError
        The journal cannot be read or written, or is not one of such a run.
    """

    def __init__(self, folder: Path, settings: Settings, grid: TileGrid) -> None:
        self._path = folder / NAME
        self._waiting: dict[str, _Waiting] = {}
        self._flushed = float("-inf")
        found = self._read_settings()
        self.resumed = found is not None
        if found is not None:
            refuse_other_settings(found["settings"], settings, folder)
            self.run, self.grid = str(found["run"]), _grid_of(found["grid"])
            if (self.grid.shape, self.grid.planes) != (grid.shape, grid.planes):
                raise self._broken(f"its tiles are of {self.grid.shape}, not {grid.shape}")
        else:
            self.run, self.grid = os.urandom(8).hex(), grid
            text = {"settings": settings, "grid": _grid_text(grid), "run": self.run}
            self._end = 0
            self._append(text, np.empty(0, "<u8"), np.empty((0, 3), "<u8"))

    def frames(self) -> Iterator[Frame]:
        """What was recorded; afterwards the journal takes more."""
        with self._path.open("rb") as file:
            self._end = 0
            for text, tiles, units in _read_frames(file):
                self._end = file.tell()
                if "part" not in text:
                    continue
                if tiles.size and int(tiles.max()) >= len(self.grid):
                    raise self._broken(f"it names tile {tiles.max()} of {len(self.grid)}")
                receipt = Receipt(units, text.pop("part"))
                yield Frame(tiles, receipt, Totals(**text))

    def add(self, result: BatchResult) -> None:
        """Record the tiles of a batch, now or, if they are quick, with the next; see `FLUSH_S`."""
        for tile in result.tiles:
            waiting = self._waiting.setdefault(tile.receipt.part, _Waiting())
            waiting.tiles.append(tile.index)
            waiting.units.append(tile.receipt.units)
            totals = waiting.totals
            totals.pixels += tile.pixels
            totals.clipped += tile.clipped
            totals.nans += tile.nans
            totals.absent += tile.absent.numbers.tolist()
            totals.absent_names += tile.absent.names
        took = sum(tile.elapsed_s for tile in result.tiles)
        late = took >= FLUSH_S or time.monotonic() - self._flushed >= FLUSH_S
        if late or sum(len(w.tiles) for w in self._waiting.values()) >= FLUSH_TILES:
            self.flush()

    def flush(self) -> None:
        """Record what waits."""
        self._flushed = time.monotonic()
        for part, waiting in list(self._waiting.items()):
            receipt = Receipt(np.concatenate(waiting.units), part)
            self.record(Frame(np.array(waiting.tiles, np.uint64), receipt, waiting.totals))
            del self._waiting[part]

    def record(self, frame: Frame) -> None:
        """Record finished tiles at once."""
        text = {name: getattr(frame.totals, name) for name in Totals.__slots__}
        self._append({"part": frame.receipt.part, **text}, frame.tiles, frame.receipt.units)

    def committing(self, result: Path) -> None:
        """Record that `result` takes its final name next, and which file or folder it is."""
        text = {"committing": list(_identity(result))}
        self._append(text, np.empty(0, "<u8"), np.empty((0, 3), "<u8"))

    def _broken(self, why: str) -> StorageError:
        return StorageError(
            f"{self._path} is no record of this run: {why}; begin anew with --restart"
        )

    def _read_settings(self) -> dict[str, Any] | None:
        """The first frame; None where there is no journal, or one that ends before its first."""
        if not self._path.exists():
            return None
        try:
            with self._path.open("rb") as file:
                first = next(_read_frames(file), None)
        except OSError as error:
            raise storage_error(self._path, error, doing="read", needed_bytes=0) from error
        return None if first is None else first[0]

    def _append(self, text: Mapping[str, Any], tiles: np.ndarray, units: np.ndarray) -> None:
        """Write a frame after the last good one."""
        said = json.dumps(text).encode()
        body = said + tiles.astype("<u8").tobytes() + units.astype("<u8").tobytes()
        lengths = _HEAD.pack(_MAGIC, 0, len(said), len(tiles), len(units))[_CHECKED_FROM:]
        crc = zlib.crc32(body, zlib.crc32(lengths))
        frame = _MAGIC + struct.pack("<I", crc) + lengths + body
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if self._end == 0 or os.fstat(handle).st_size > self._end:
                    os.ftruncate(handle, self._end)
                write_all(handle, frame, self._end)
            finally:
                os.close(handle)
        except OSError as error:
            raise storage_error(
                self._path, error, doing="write", needed_bytes=len(frame)
            ) from error
        self._end += len(frame)


@dataclass(slots=True)
class _Waiting:
    """Tiles of one part that are not recorded yet."""

    tiles: list[int] = field(default_factory=list)
    units: list[np.ndarray] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)


def has_tiles(folder: Path) -> bool:
    """Whether a staging folder holds a run with at least one finished tile."""
    try:
        with (folder / NAME).open("rb") as file:
            frames = _read_frames(file)
            return next(frames, None) is not None and next(frames, None) is not None
    except OSError:
        return False


def is_finished(folder: Path, output: Path) -> bool:
    """Whether the run of a staging folder has given its result the final name already."""
    try:
        with (folder / NAME).open("rb") as file:
            said = [text["committing"] for text, _, _ in _read_frames(file) if "committing" in text]
        return bool(said) and said[-1] == list(_identity(output))
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int]:
    """What stays the same when a file or a folder is renamed."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def refuse_other_settings(found: Settings, settings: Settings, folder: Path) -> None:
    """Raise OutputExistsError with what differs, if anything does."""
    differing = [
        f"{name}: {found.get(name)!s:.60} there, {settings.get(name)!s:.60} here"
        for name in {**found, **settings}
        if found.get(name) != settings.get(name)
    ]
    if differing:
        raise OutputExistsError(
            f"{folder} holds an unfinished run with other settings ({'; '.join(differing)}); "
            "go on with those, or drop it with --restart"
        )


def _read_frames(file: BinaryIO) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Text, tiles and units of every whole frame."""
    size = os.fstat(file.fileno()).st_size
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        magic, crc, said, tiles, units = _HEAD.unpack(head)
        length = said + 8 * tiles + 24 * units
        if magic != _MAGIC or length > size - file.tell():
            return
        body = file.read(length)
        if zlib.crc32(body, zlib.crc32(head[_CHECKED_FROM:])) != crc:
            return
        yield (
            json.loads(body[:said]),
            np.frombuffer(body, "<u8", tiles, said),
            np.frombuffer(body, "<u8", 3 * units, said + 8 * tiles).reshape(units, 3),
        )


def _grid_text(grid: TileGrid) -> dict[str, Any]:
    return {
        "shape": list(grid.shape),
        "tile": list(grid.tile),
        "planes": grid.planes,
        "panel": grid.panel,
    }


def _grid_of(text: dict[str, Any]) -> TileGrid:
    try:
        rows, columns = text["shape"]
        down, across = text["tile"]
        return TileGrid((rows, columns), (down, across), text["planes"], text["panel"])
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"a journal holds no grid of tiles: {error}; use --restart") from None
