"""Who may write an output: one run at a time, by a lock that the kernel frees with its process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tileconv.errors import LockedError, StorageError

_TRIES, _TRY_S = 20, 0.01
"""How often, and how many seconds after another, a folder is made and locked that others remove
or look at in between."""


def make_locked(folder: Path, output: Path) -> int:
    """A folder, made if it is not there, opened and locked; closing it ends the lock.

    A run that ends just now may remove it between two of these steps.

    Raises
    ------
    LockedError
        Another run holds it.
    OSError
        It cannot be made or opened.
    """
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = _opened(folder)
        except FileNotFoundError:
            continue
        try:
            _lock(lock, folder, output)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), folder.stat()):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    raise LockedError(f"another run has just finished {output}; start again")


@contextlib.contextmanager
def locked(folder: Path, output: Path, *, shared: bool = False) -> Iterator[None]:
    """A folder that is there, locked while the context lasts.

    Parameters
    ----------
    folder : Path
    output : Path
        What is made in it.
    shared : bool
        Whether others may hold it so too: who only looks whether a run is in progress.

    Raises
    ------
    LockedError
        Another run holds it.
    OSError
        It is not there, or cannot be opened.
    """
    lock = _opened(folder)
    try:
        _lock(lock, folder, output, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _opened(folder: Path) -> int:
    """A staging folder, opened to be locked; never a link to another. Raises OSError."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(descriptor: int, folder: Path, output: Path, kind: int = fcntl.LOCK_EX) -> None:
    """Lock an open staging folder; somebody else may be looking at the lock just now."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(
                    f"cannot lock {folder}: {error.strerror}; choose an output on a file system "
                    "that has locks"
                ) from None
            time.sleep(_TRY_S)
        else:
            return
    raise LockedError(f"another run is writing {output}; wait for it, or choose another output")
