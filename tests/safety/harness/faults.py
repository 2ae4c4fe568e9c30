"""A disk that fails: one call of it, or all like it from then on; and one that writes little."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from harness.disk import CHANGES, LOOKS, SYNCS, Watcher

LASTING = {
    errno.ENOSPC: {"open-write", "pwrite", "copy_file_range", "mkdir"},
    errno.EDQUOT: {"open-write", "pwrite", "copy_file_range", "mkdir", *SYNCS},
    errno.EIO: CHANGES | SYNCS | LOOKS,
    errno.EACCES: {"open-write", "mkdir", "rmdir", "unlink", "rename", "replace", "renameat2"},
}
"""What else fails from then on, beside the call that was first, where a fault lasts."""


@dataclass
class Fault(Watcher):
    """Lets one call fail, or, if it lasts, also those like it that come after."""

    root: Path
    number: int
    code: int
    lasting: bool
    kinds: set[str] = field(default_factory=lambda: CHANGES | SYNCS | LOOKS)
    met: list[tuple[str, str]] = field(default_factory=list)

    def before(self, call):
        if call.kind not in self.kinds:
            return
        if call.kind == "mkdir" and (self.root / call.path).exists():
            return  # It makes nothing.
        self.met.append((call.kind, call.path))
        if len(self.met) == self.number and call.kind not in LASTING[self.code]:
            self.code = errno.EIO  # Reading needs no room.
        now = len(self.met) == self.number
        later = len(self.met) > self.number and self.lasting and call.kind in LASTING[self.code]
        if not now and not later:
            return
        if call.kind == "close":
            call.make()  # Linux frees the handle whatever it says.
        if call.kind in ("pwrite", "copy_file_range"):
            call.make(call.length // 2)
        raise OSError(self.code, os.strerror(self.code))

    @property
    def where(self):
        return self.met[self.number - 1]


class Short(Watcher):
    """Writes a third of what it is given to write, at a time."""

    def before(self, call):
        return max(1, call.length // 3) if call.kind in ("pwrite", "copy_file_range") else None
