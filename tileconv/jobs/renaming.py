"""Names that change hands in one step: nobody ever sees an output that is half there."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


def rename_if_free(source: Path, target: Path) -> None:
    """Rename, or raise FileExistsError: never over something that is there."""
    try:
        _renameat2(source, target, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        if source.is_dir():  # An empty folder is the most that rename would replace.
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            source.rename(target)
        else:
            os.link(source, target)


def exchange(source: Path, target: Path, aside: Path) -> None:
    """Let `source` take the name of a folder, or a folder that of a file, if there is one.

    A folder cannot be renamed over another: the two change places, and the old one is
    removed with the staging folder.
    """
    if not os.path.lexists(target):
        source.rename(target)
        return
    try:
        _renameat2(source, target, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        target.rename(aside)
        try:
            source.rename(target)
        except OSError:
            aside.rename(target)
            raise
        aside.rename(source)


def repair(output: Path, aside: Path) -> None:
    """Give an old output its name back, if a run was killed between the two steps."""
    if os.path.lexists(aside) and not os.path.lexists(output):
        aside.rename(output)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    """Linux's renameat2, which Python does not offer; OSError(ENOSYS) elsewhere."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    failed = call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags)
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
