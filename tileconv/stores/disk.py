"""Failures of storage, told so that the reader knows what to do."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from tileconv.errors import InputError, StorageError


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


def identity(path: Path) -> str:
    """A file's or a folder's name, size and time of its last change.

    Of a Zarr these are its metadata's; what happens to its chunks is not seen.

    Raises
    ------
    InputError
        It is gone.
    """
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
    try:
        files = [path / name for name in names if (path / name).exists()] or [path]
        stats = [file.stat() for file in files]
    except OSError as error:
        raise InputError(f"input {path} cannot be looked at: {error.strerror}") from None
    told = ", ".join(f"{stat.st_size} bytes of {stat.st_mtime_ns}" for stat in stats)
    return f"{path.resolve()}, {told}"


def write_all(handle: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` at position `at` of an open file.

    A write may stop short: at 2 GiB, at a signal, on a disk that fills up.

    Raises
    ------
    OSError
    """
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written


def make_folder(folder: Path, *, root: Path | None = None) -> None:
    """Make `folder`, and those between it and `root`, but never `root` or what lies above it.

    A writer that outlives its run must not bring back what the run has removed.

    Parameters
    ----------
    folder : Path
    root : Path or None
        A folder above it, that has to be there; its parent without one.

    Raises
    ------
    StorageError
        It cannot be made.
    """
    root = folder.parent if root is None else root
    try:
        for inner in reversed([folder, *folder.parents]):
            if inner != root and inner.is_relative_to(root):
                inner.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error, doing="create", needed_bytes=0) from error
