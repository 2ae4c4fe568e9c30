"""The record of finished tiles: what a run that was killed has done, for the one that goes on.

Frames in a file, each written after the tiles it names are stored. The first holds the settings
of the run; every other one some tiles and where they are, or what befell the run.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from tileconv.core.grid import TileGrid
from tileconv.errors import OutputExistsError, StorageError
from tileconv.jobs.batches import BatchResult
from tileconv.jobs.frames import FrameFile, Stored, frames_in
from tileconv.jobs.tile_task import TileResult
from tileconv.stores.absent import Absences
from tileconv.stores.disk import storing
from tileconv.stores.sink import Receipt

NAME = "journal"

FLUSH_S = 0.05
"""Tiles are recorded at once, but for those that took less than this and come faster than this
after one another: they wait for the next, which is near."""

FLUSH_TILES = 4096

GATHER_FRAMES = 50_000
"""Frames that may come together, a second or so of reading, before few are made of them."""

LARGE_TILES, LARGE_UNITS = 4096, 1 << 16
"""Tiles, or write units, of which a frame is large."""

INPUT = "input"
"""The setting that tells the input from any other, and from what it was before it changed."""

VERSION = "version"
"""The setting that tells by which version of tileconv pixels and journal are made."""

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
    bad: list[int] = field(default_factory=list)
    bad_names: list[str] = field(default_factory=list)

    @property
    def absences(self) -> Absences:
        """The chunks of the input that were absent."""
        return Absences(np.array(self.absent, np.int64), tuple(self.absent_names))

    @property
    def damage(self) -> Absences:
        """The chunks of the input that could not be read, and were filled."""
        return Absences(np.array(self.bad, np.int64), tuple(self.bad_names))


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Some finished tiles.

    Parameters
    ----------
    number : int
        Of the frame, in the order in which they were recorded.
    tiles : ndarray of uint64, shape (tiles, 2)
        Their indices, and the checksum of the pixels that each was made of.
    receipt : Receipt
        Where their write units are, all in one part.
    totals : Totals
    """

    number: int
    tiles: np.ndarray
    receipt: Receipt
    totals: Totals

    @property
    def indices(self) -> np.ndarray:
        """Of the tiles."""
        return self.tiles[:, 0].astype(np.int64)


class Journal:
    """The journal of one staging folder, which the caller has locked.

    Parameters
    ----------
    folder : Path
    settings : Settings
        Of this run.
    grid : TileGrid
        The tiles of this run, unless the folder holds a run that has others.
    durable : bool
        Whether what is recorded must survive a loss of power.

    Attributes
    ----------
    folder : Path
    grid : TileGrid
        The tiles of the staged run.
    resumed : bool
        Whether there is a run to go on with.
    numbered : bool
        Whether somebody refers to frames by their numbers, which must stay.
    input_changed : bool
        Whether the input was found to be damaged, and is no longer the file that it was.

    Raises
    ------
    OutputExistsError
        The folder holds a run with other settings.
    StorageError
        The journal cannot be read or written, or is not one of such a run.
    """

    def __init__(
        self, folder: Path, settings: Settings, grid: TileGrid, *, durable: bool = False
    ) -> None:
        self.folder = folder
        self._file = FrameFile(folder / NAME, durable=durable)
        self._waiting: dict[str, list[TileResult]] = {}
        self._flushed = float("-inf")
        self._gathered_at = 0
        self.numbered = self.input_changed = False
        found = next((frame.text for frame in self._file), None)
        self.resumed = found is not None
        if found is None:
            self.grid = grid
            self._file.append({"settings": settings, "grid": _grid_text(grid)})
            return
        differing = _differing(found["settings"], settings)
        if VERSION in differing:
            raise _another_version(folder, found["settings"], settings)
        if list(differing) == [INPUT] and self._may_be_repaired(settings[INPUT]):
            self.input_changed = True
        elif differing:
            raise refusal(folder, differing.values())
        if self._file.frames >= GATHER_FRAMES:
            self._gather()
        self.grid = _grid_of(found["grid"])
        if (self.grid.shape, self.grid.planes) != (grid.shape, grid.planes):
            raise self._broken(f"its tiles are of {self.grid.shape}, not {grid.shape}")

    @contextlib.contextmanager
    def flushing(self) -> Iterator[None]:
        """Record what waits at the end; where a run has failed, why it has counts for more."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(StorageError):
                self.flush()
            raise
        self.flush()

    @property
    def damaged(self) -> bool:
        """Whether it was found to be damaged within, so that some of it is not known."""
        return self._file.damaged

    def frames(self) -> Iterator[Frame]:
        """What is recorded now."""
        for number, (text, tiles, units) in enumerate(self._file):
            if "part" not in text:
                continue
            if tiles.size and int(tiles[:, 0].max()) >= len(self.grid):
                raise self._broken(f"it names tile {tiles[:, 0].max()} of {len(self.grid)}")
            receipt = Receipt(units, text.pop("part"))
            yield Frame(number, tiles, receipt, Totals(**text))

    def add(self, result: BatchResult) -> None:
        """Record the tiles of a batch, now or, if they are quick, with the next; see `FLUSH_S`.

        A signal may end this anywhere: a tile waits as a whole, or not at all.
        """
        for tile in result.tiles:
            self._waiting.setdefault(tile.receipt.part, []).append(tile)
        took = sum(tile.elapsed_s for tile in result.tiles)
        late = took >= FLUSH_S or time.monotonic() - self._flushed >= FLUSH_S
        if late or sum(map(len, self._waiting.values())) >= FLUSH_TILES:
            self.flush()

    def flush(self) -> None:
        """Record what waits."""
        self._flushed = time.monotonic()
        while self._waiting:
            part, waiting = self._waiting.popitem()
            tiles = np.array([(one.index, one.input_checksum) for one in waiting], np.uint64)
            units = np.concatenate([one.receipt.units for one in waiting])
            self.record(tiles, Receipt(units, part), _totals(waiting))

    def record(self, tiles: np.ndarray, receipt: Receipt, totals: Totals) -> None:
        """Record finished tiles at once; see `Frame`."""
        text = {one.name: getattr(totals, one.name) for one in fields(Totals)}
        self._file.append({"part": receipt.part, **text}, tiles, receipt.units)
        if self._file.frames - self._gathered_at >= GATHER_FRAMES and not self.numbered:
            self._gather()

    def drop(self, numbers: Container[int]) -> None:
        """Let the frames of these numbers never have been: their tiles are not done."""
        self._file.rewrite(
            frame for number, frame in enumerate(self._file) if number not in numbers
        )
        self.numbered = False

    def _gather(self) -> None:
        """Make few large frames of many small ones, so that they are read in seconds."""
        self._file.rewrite(_gathered(self._file))
        self._gathered_at = self._file.frames

    def committing(self, result: Path) -> None:
        """Record that `result` takes its final name next, and which file or folder it is."""
        with storing(result, "look at"):
            identity = _identity(result)
        self._file.append({"committing": list(identity)})

    def accept_input(self, identity: str) -> None:
        """Record that a repaired input has the pixels that finished tiles were made of."""
        self._file.append({INPUT: identity})

    def _may_be_repaired(self, identity: str) -> bool:
        """Whether the input was bad, or is already another than the first, by the same right."""
        return any(
            "bad_input" in frame.text or frame.text.get("bad") or frame.text.get(INPUT) == identity
            for frame in self._file
        )

    def _broken(self, why: str) -> StorageError:
        return StorageError(
            f"{self._file.path} is no record of this run: {why}; begin anew with --restart"
        )


def _totals(tiles: list[TileResult]) -> Totals:
    """The counts of some tiles."""
    return Totals(
        pixels=sum(tile.pixels for tile in tiles),
        clipped=sum(tile.clipped for tile in tiles),
        nans=sum(tile.nans for tile in tiles),
        absent=[number for tile in tiles for number in tile.absent.numbers.tolist()],
        absent_names=[name for tile in tiles for name in tile.absent.names],
        bad=[number for tile in tiles for number in tile.bad.numbers.tolist()],
        bad_names=[name for tile in tiles for name in tile.bad.names],
    )


def _gathered(frames: Iterable[Stored]) -> Iterator[Stored]:
    """The same tiles in fewer frames; what is said besides stays behind what was before it."""
    small: dict[str, list[Stored]] = {}
    size: Counter[str] = Counter()
    for frame in frames:
        part = frame.text.get("part")
        if part is None:
            yield from map(_joined, small.values())
            small.clear()
            size.clear()
            yield frame
            continue
        small.setdefault(part, []).append(frame)
        size[part] += max(len(frame.tiles), len(frame.units) * LARGE_TILES // LARGE_UNITS)
        if size[part] >= LARGE_TILES:
            yield _joined(small.pop(part))
            size[part] = 0
    yield from map(_joined, small.values())


def _joined(frames: list[Stored]) -> Stored:
    """One frame of several of the same part; counts are added, and lists put together."""
    text = dict(frames[0].text)
    for frame in frames[1:]:
        for one in fields(Totals):
            text[one.name] = text[one.name] + frame.text[one.name]
    return Stored(text, *(np.concatenate([frame[n] for frame in frames]) for n in (1, 2)))


def has_tiles(folder: Path) -> bool:
    """Whether a staging folder holds a run with at least one finished tile."""
    return any("part" in frame.text for frame in frames_in(folder / NAME))


def settings_in(folder: Path) -> Settings | None:
    """The settings of the run of a staging folder, if there is one."""
    return next((frame.text["settings"] for frame in frames_in(folder / NAME)), None)


def filled_in(folder: Path) -> tuple[bool, bool]:
    """Whether absent chunks of the input, and bad ones, were filled for tiles that are done."""
    texts = [frame.text for frame in frames_in(folder / NAME)]
    return any(text.get("absent") for text in texts), any(text.get("bad") for text in texts)


def is_finished(folder: Path, output: Path) -> bool:
    """Whether the run of a staging folder has given its result the final name already."""
    try:
        there = _identity(output)
    except OSError:  # As a rule: the record, which may be long, need not be read.
        return False
    said = [
        frame.text["committing"] for frame in frames_in(folder / NAME) if "committing" in frame.text
    ]
    return bool(said) and said[-1] == there


def note_bad_input(folder: Path, why: str) -> None:
    """Record that a run has ended at a bad chunk of its input; see `Journal.input_changed`."""
    file = FrameFile(folder / NAME)
    if file.frames:
        file.append({"bad_input": why[:1000]})


def _identity(path: Path) -> list[int]:
    """What stays the same when a file or an array's folder is renamed, and not when it changes."""
    found = path.lstat()
    inner = path / "zarr.json" if path.is_dir() else path
    written = inner.stat() if inner.exists() else found
    return [found.st_dev, found.st_ino, written.st_size, written.st_mtime_ns]


def _differing(found: Settings, settings: Settings) -> dict[str, str]:
    """What differs between the settings of two runs, by name, for people."""
    return {
        name: f"{name}: {_shown(found.get(name))} there, {_shown(settings.get(name))} here"
        for name in {**found, **settings}
        if found.get(name) != settings.get(name)
    }


def _shown(value: object) -> str:
    text = str(value)
    # Of a long path the end tells more than the beginning.
    return text if len(text) <= 120 else f"...{text[-117:]}"


def refusal(folder: Path, differing: Iterable[str]) -> OutputExistsError:
    """The error of a staged run that has other settings."""
    return OutputExistsError(
        f"{folder} holds an unfinished run with other settings ({'; '.join(differing)}); "
        "go on with those, or drop it with --restart"
    )


def _another_version(folder: Path, found: Settings, settings: Settings) -> OutputExistsError:
    """The error of a run that another version has staged: its pixels may have other bits."""
    there, here = found.get(VERSION), settings.get(VERSION)
    return OutputExistsError(
        f"{folder} holds an unfinished run of tileconv {there}, this is tileconv {here}; "
        f"finish it with tileconv {there}, or drop it with --restart"
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
