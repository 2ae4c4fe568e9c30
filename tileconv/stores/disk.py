"""Failures of storage, told so that the reader knows what to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from tileconv.errors import StorageError


def storage_error(
    path: str | Path, error: OSError, *, doing: str, needed_bytes: int
) -> StorageError:
    """The `StorageError` of a failed call of the operating system.

    Parameters
    ----------
    path : path
        The file, or what it was to become.
    error : OSError
    doing : str
        What failed, as in "cannot write".
    needed_bytes : int
        Bytes that are still to be stored, told with the free ones when the disk is full.
    """
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"cannot {doing} {path}: {reason}; needed {needed_bytes} bytes, "
            f"free {free_bytes(path)}; make room and run the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"cannot {doing} {path}: {reason}; write to a folder that you may")
    return StorageError(
        f"cannot {doing} {path}: {reason}; check the disk and run the same command again"
    )


def free_bytes(path: str | Path) -> int:
    """Bytes that this user can still store where `path` is or will be."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(os.fspath(folder)).free
