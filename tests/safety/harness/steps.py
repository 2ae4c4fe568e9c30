"""The protocol of a run, step by step: what it changes on the disk, in words.

One list: every call that changes what is stored is one of these steps, and every step is one at
which the suites kill.
"""

import re
from collections import Counter
from threading import Lock

from harness.disk import CHANGES, Call, Watcher

_STAGING = r"\.[^/]+\.tileconv"
_RUN = rf"{_STAGING}/[0-9a-f]{{16}}"
_OUT = r"[^./][^/]*"

STEPS = (
    ("staging folder made", "mkdir", _STAGING),
    ("lock taken", "flock", _STAGING),
    ("journal opened", "open-write", rf"{_STAGING}/journal"),
    ("journal frame appended", "pwrite", rf"{_STAGING}/journal"),
    ("torn tail cut off", "ftruncate", rf"{_STAGING}/journal"),
    ("journal begun anew", "open-write|pwrite|ftruncate", rf"{_STAGING}/journal\.new"),
    ("journal replaced", "rename|replace", rf"{_STAGING}/journal"),
    ("workers' token written", "open-write", rf"{_STAGING}/workers-look-for-this"),
    ("run's folder made", "mkdir", _RUN),
    ("run's folder named anew", "rename", _RUN),
    ("output opened", "open-write", rf"{_RUN}/result"),
    ("tile's data written", "pwrite", rf"{_RUN}/result"),
    ("array's folder made", "mkdir", rf"{_RUN}/result"),
    ("parts' folder made", "mkdir", rf"{_RUN}/result\.parts"),
    ("part opened", "open-write", rf"{_RUN}/result\.parts/[^/]+"),
    ("part's data written", "pwrite", rf"{_RUN}/result\.parts/[^/]+"),
    ("shards' folder made", "mkdir", rf"{_RUN}/result/c(/\d+)*"),
    ("shard named", "rename|replace", rf"{_RUN}/result/c(/\d+)+"),
    ("end cut to what was stored", "truncate", rf"{_RUN}/result"),
    ("parts joined", "copy_file_range", rf"{_RUN}/result"),
    ("tables written", "pwrite", rf"{_RUN}/result"),
    ("header written", "pwrite", rf"{_RUN}/result"),
    ("metadata opened", "open-write", rf"{_RUN}/result/zarr\.json"),
    ("metadata written", "pwrite", rf"{_RUN}/result/zarr\.json"),
    ("final name given", "renameat2|rename|replace|link", _OUT),
    ("old output put aside", "rename", rf"{_STAGING}/old"),
    ("old output taken in", "rename", rf"{_RUN}/result"),
    ("staging emptied", "unlink|rmdir", rf"{_STAGING}/.+"),
    ("staging removed", "rmdir", _STAGING),
)
_PATTERNS = [(name, re.compile(kinds), re.compile(path)) for name, kinds, path in STEPS]


class Stepper(Watcher):
    """Knows the step that a call is, and counts the hits of each.

    Attributes
    ----------
    hits : Counter
        How often each step was met.
    kinds : Counter
        How often each kind of call was.
    strange : list of (str, str)
        Kind and path of what changes the disk and is no step.
    """

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.strange: list[tuple[str, str]] = []
        self._finishing = False
        self._lock = Lock()

    def step(self, call: Call) -> tuple[str, int] | None:
        """Name of the step and the number of this hit, counted from 1."""
        if call.kind not in CHANGES and call.kind != "flock":
            return None
        with self._lock:
            self.kinds[call.kind] += 1
            if call.kind == "truncate":
                self._finishing = True
            for name, kinds, path in _PATTERNS:
                if not (kinds.fullmatch(call.kind) and path.fullmatch(call.path)):
                    continue
                late = self._finishing and name == "tile's data written"
                met = ("tables written" if call.at else "header written") if late else name
                self.hits[met] += 1
                return met, self.hits[met]
            self.strange.append((call.kind, call.path))
        return None

    def before(self, call: Call) -> int | None:
        self.step(call)
        return None
