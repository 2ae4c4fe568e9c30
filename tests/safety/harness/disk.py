"""Every call of the operating system on paths in one folder, seen before and after it is made.

`Watched` replaces the functions of `os` by their like, so that the product needs no hooks: who
watches may count, refuse, cut short, or kill.
"""

import builtins
import fcntl
import io
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tileconv.jobs import renaming

CHANGES = {
    "open-write",
    "pwrite",
    "copy_file_range",
    "truncate",
    "ftruncate",
    "mkdir",
    "rmdir",
    "unlink",
    "rename",
    "replace",
    "renameat2",
    "link",
}
"""Kinds of calls that change what is stored."""

SYNCS = {"fsync", "fdatasync"}
GLANCES = {"stat", "lstat", "fstat", "statvfs", "pread", "listdir"}
LOOKS = {"open-read", "close", "scandir"}
"""``"close"`` is of what was open to be written; of other handles it has nothing to fail at."""


@dataclass
class Call:
    """A call on a path in the folder.

    Parameters
    ----------
    kind : str
    path : str
        Relative to the folder, ``""`` the folder itself.
    at : int
        Offset of what is written, or -1.
    length : int
        Bytes to be written.
    other : str
        What is renamed, or copied from.
    make : callable
        Makes the call; for what writes, of this many bytes.
    handle : int
        Of an open file, or -1.
    """

    kind: str
    path: str
    make: object
    at: int = -1
    length: int = 0
    other: str = ""
    handle: int = -1
    result: object = field(default=None)


class Watcher:
    """Sees calls; `before` may raise, or say how many bytes at most are written."""

    def before(self, call: Call) -> int | None:
        return None

    def after(self, call: Call) -> None:
        pass

    def failed(self, call: Call) -> None:
        """The operating system has refused it."""


class Watched:
    """A context in which calls on paths under `root` go past a watcher."""

    def __init__(self, root, watcher: Watcher) -> None:
        self.root = os.path.abspath(root)
        self.watcher = watcher
        self._handles: dict[int, str] = {}
        self._written: set[int] = set()
        self._lock = threading.Lock()
        self._replaced: list[tuple[object, str, object]] = []

    def __enter__(self):
        wrappers = {
            "open": self._open,
            "close": self._close,
            "pwrite": self._pwrite,
            "copy_file_range": self._copy,
            "ftruncate": self._of_handle("ftruncate"),
            "fsync": self._of_handle("fsync"),
            "fdatasync": self._of_handle("fdatasync"),
            "truncate": self._of_path("truncate"),
            "scandir": self._of_path("scandir"),
            "fstat": self._of_handle("fstat"),
            "pread": self._of_handle("pread"),
            "stat": self._of_path("stat"),
            "lstat": self._of_path("lstat"),
            "statvfs": self._of_path("statvfs"),
            "listdir": self._of_path("listdir"),
            "mkdir": self._of_path("mkdir"),
            "rmdir": self._of_path("rmdir"),
            "unlink": self._of_path("unlink"),
            "rename": self._of_two("rename"),
            "replace": self._of_two("replace"),
            "link": self._of_two("link"),
        }
        for name, make in wrappers.items():
            if hasattr(os, name):  # macOS has no copy_file_range.
                self._replace(os, name, make(getattr(os, name)))
        self._replace(io, "open", self._io_open(io.open))
        self._replace(builtins, "open", io.open)
        self._replace(fcntl, "flock", self._flock(fcntl.flock))
        self._replace(renaming, "_renameat2", self._of_two("renameat2")(renaming._renameat2))
        return self

    def __exit__(self, *_: object):
        for module, name, usual in reversed(self._replaced):
            setattr(module, name, usual)
        self._replaced.clear()

    def _replace(self, module, name, function) -> None:
        self._replaced.append((module, name, getattr(module, name)))
        setattr(module, name, function)

    def _inside(self, path, dir_fd=None) -> str | None:
        """The path relative to the root, or None where it lies elsewhere."""
        if isinstance(path, int):
            with self._lock:
                return self._handles.get(path)
        text = os.fsdecode(path)
        if dir_fd is not None:
            with self._lock:
                folder = self._handles.get(dir_fd)
            if folder is None:
                return None
            return os.path.normpath(os.path.join(folder, text))
        text = os.path.abspath(text)
        if text == self.root:
            return ""
        return text[len(self.root) + 1 :] if text.startswith(self.root + os.sep) else None

    def _pass(self, call: Call):
        most = self.watcher.before(call)
        try:
            call.result = call.make() if most is None else call.make(most)
        except OSError:
            self.watcher.failed(call)
            raise
        self.watcher.after(call)
        return call.result

    def _open(self, real):
        def opened(path, flags, mode=0o777, *, dir_fd=None):
            inside = self._inside(path, dir_fd)
            if inside is None:
                return real(path, flags, mode, dir_fd=dir_fd)
            changes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)

            def make():
                handle = real(path, flags, mode, dir_fd=dir_fd)
                with self._lock:
                    self._handles[handle] = inside
                    (self._written.add if changes else self._written.discard)(handle)
                return handle

            return self._pass(Call("open-write" if changes else "open-read", inside, make))

        return opened

    def _io_open(self, real):
        def opened(file, mode="r", *args, **kwargs):
            inside = None if isinstance(file, int) else self._inside(file)
            if inside is None:
                return real(file, mode, *args, **kwargs)
            kind = "open-write" if set(mode) & set("wax+") else "open-read"
            return self._pass(Call(kind, inside, lambda: real(file, mode, *args, **kwargs)))

        return opened

    def _close(self, real):
        def closed(handle):
            with self._lock:
                inside = self._handles.pop(handle, None)
                kind = "close" if handle in self._written else "close-read"
            if inside is None:
                return real(handle)
            return self._pass(Call(kind, inside, lambda: real(handle), handle=handle))

        return closed

    def _pwrite(self, real):
        def written(handle, data, at):
            inside = self._inside(handle)
            if inside is None:
                return real(handle, data, at)
            view = memoryview(data).cast("B")
            whole = len(view)
            return self._pass(
                Call(
                    "pwrite",
                    inside,
                    lambda most=whole: real(handle, view[:most], at),
                    at=at,
                    length=whole,
                    handle=handle,
                )
            )

        return written

    def _copy(self, real):
        def copied(source, target, count, offset_src=None, offset_dst=None):
            inside = self._inside(target)
            if inside is None:
                return real(source, target, count, offset_src, offset_dst)
            return self._pass(
                Call(
                    "copy_file_range",
                    inside,
                    lambda most=count: real(source, target, most, offset_src, offset_dst),
                    at=offset_dst,
                    length=count,
                    other=self._inside(source) or "",
                    handle=target,
                )
            )

        return copied

    def _of_handle(self, kind):
        def wrapper(real):
            def called(handle, *args):
                inside = self._inside(handle)
                if inside is None:
                    return real(handle, *args)
                return self._pass(Call(kind, inside, lambda: real(handle, *args), handle=handle))

            return called

        return wrapper

    def _of_path(self, kind):
        def wrapper(real):
            def called(path=".", *args, dir_fd=None, **named):
                named |= {} if dir_fd is None else {"dir_fd": dir_fd}
                inside = self._inside(path, dir_fd)
                if inside is None:
                    return real(path, *args, **named)
                return self._pass(Call(kind, inside, lambda: real(path, *args, **named)))

            return called

        return wrapper

    def _of_two(self, kind):
        def wrapper(real):
            def called(source, target, *args, **named):
                inside = self._inside(target)
                if inside is None:
                    return real(source, target, *args, **named)
                other = self._inside(source) or ""
                make = lambda: real(source, target, *args, **named)  # noqa: E731 - as the others
                return self._pass(Call(kind, inside, make, other=other))

            return called

        return wrapper

    def _flock(self, real):
        def locked(handle, how):
            inside = self._inside(handle)
            if inside is None:
                return real(handle, how)
            return self._pass(Call("flock", inside, lambda: real(handle, how), handle=handle))

        return locked


def tree(folder) -> list[str]:
    """Names of all there is in a folder, hidden or not."""
    with suppress(FileNotFoundError):
        return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))
    return []
