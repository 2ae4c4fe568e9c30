"""What a disk holds after a loss of power: what was synced, and nothing else.

The bytes of a file are those of its last sync, none if there was none; a name is there if its
folder was synced since it was given.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from harness.disk import SYNCS, Watcher


@dataclass(frozen=True)
class Durable:
    """A disk as a loss of power would leave it; files and folders by their inodes.

    Parameters
    ----------
    root : int
    folders : dict of int to dict of str to int
        The names in each, and whose they are.
    files : dict of int to bytes
    """

    root: int
    folders: dict[int, dict[str, int]]
    files: dict[int, bytes]

    def build(self, place: Path) -> None:
        """Make it anew, at `place`."""
        self._build(self.root, place)

    def _build(self, inode: int, place: Path) -> None:
        if inode not in self.folders:
            place.write_bytes(self.files.get(inode, b""))
            return
        place.mkdir()
        for name, inner in self.folders[inode].items():
            self._build(inner, place / name)


class Power(Watcher):
    """Knows what would be left, after each sync; calls are made one at a time.

    Parameters
    ----------
    root : Path
    safe : bool
        Whether what is there at the start has been synced.

    Attributes
    ----------
    moments : list of (str, Durable)
        After each sync, of what it was and what was durable then.
    """

    def __init__(self, root: Path, *, safe: bool = True) -> None:
        self._root = root
        self._folders: dict[int, dict[str, int]] = {}
        self._files: dict[int, bytes] = {}
        self._turn = RLock()
        self.moments: list[tuple[str, Durable]] = []
        self._folders[root.stat().st_ino] = {}
        for path in [root, *root.rglob("*")]:
            self._sync(path) if safe else self._begin(path)

    def before(self, call):
        self._turn.acquire()

    def failed(self, call):
        self._turn.release()

    def after(self, call):
        self._note(call)
        self._turn.release()

    def _note(self, call) -> None:
        path = self._root / call.path
        if call.kind == "mkdir":
            self._begin(path)
        if call.kind == "open-write" and path.stat().st_size == 0:
            # Of one that had this inode before.
            self._files.pop(path.stat().st_ino, None)
            self._folders.pop(path.stat().st_ino, None)
        if call.kind in SYNCS:
            self._sync(path)
            self.moments.append((call.path, self.now))

    @property
    def now(self) -> Durable:
        """What would be left."""
        folders = {inode: dict(names) for inode, names in self._folders.items()}
        return Durable(self._root.stat().st_ino, folders, dict(self._files))

    def _begin(self, path: Path) -> None:
        if path.is_dir():
            self._folders[path.stat().st_ino] = {}

    def _sync(self, path: Path) -> None:
        inode = path.stat().st_ino
        if not path.is_dir():
            self._files[inode] = path.read_bytes()
            return
        with os.scandir(path) as entries:
            self._folders[inode] = {entry.name: entry.inode() for entry in entries}


def journal_moments(moments: list[tuple[str, Durable]]) -> Iterator[Durable]:
    """Those at which a journal was synced."""
    return (durable for path, durable in moments if path.endswith("/journal"))
