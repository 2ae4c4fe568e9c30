"""Failures of storage, told so that the reader knows what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tileconv.errors import InputError, StorageError


def storage_error(
    path: str | Path, error: OSError, *, doing: str, needed_bytes: int | None = None
) -> StorageError:
    """The `StorageError` of a failed call of the operating system.

    Parameters
    ----------
    path : path
        The file, or what it was to become.
    error : OSError
    doing : str
        What failed, as in "cannot write".
    needed_bytes : int or None
        Bytes that are still to be stored, told with the free ones; None where nothing is.
    """
    reason = error.strerror or str(error)
    if needed_bytes is not None:
        reason += f"; needed {needed_bytes} bytes, free {_free_text(path)}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "write to a folder that you may"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "make room and run the same command again"
    else:
        advice = "check the disk and run the same command again"
    return StorageError(f"cannot {doing} {path}: {reason}; {advice}")


@contextlib.contextmanager
def storing(path: str | Path, doing: str, *, needed_bytes: int | None = None) -> Iterator[None]:
    """What the operating system refuses inside is a `StorageError`; see `storage_error`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, doing=doing, needed_bytes=needed_bytes) from error


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a loss of power. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Have what a file holds survive a loss of power. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free_text(path: str | Path) -> str:
    """Free bytes for a message about a disk that may not even say so much."""
    try:
        return str(free_bytes(path))
    except StorageError:
        return "unknown"


def free_bytes(path: str | Path) -> int:
    """Bytes that this user can still store where `path` is or will be.

    Raises
    ------
    StorageError
        The disk does not say.
    """
    folder = Path(path).absolute()
    with storing(path, "see what is free for"):
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(os.fspath(folder)).free


def identity(path: Path) -> str:
    """A file's name, size and time of its last change.

    Raises
    ------
    InputError
        It is gone.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"input {path} cannot be looked at: {error.strerror}") from None
    return f"{path.resolve()}, {stat.st_size} bytes of {stat.st_mtime_ns}"


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
        if not written:
            raise OSError(errno.EIO, "nothing is written, and no error is given")
        left, at = left[written:], at + written


def make_folder(folder: Path, *, root: Path | None = None, durable: bool = False) -> None:
    """Make `folder`, and those between it and `root`, but never `root` or what lies above it.

    A writer that outlives its run must not bring back what the run has removed.

    Parameters
    ----------
    folder : Path
    root : Path or None
        A folder above it, that has to be there; its parent without one.
    durable : bool
        Whether their names must survive a loss of power.

    Raises
    ------
    OSError
        It cannot be made; the caller knows how much was to be stored in it.
    """
    root = folder.parent if root is None else root
    for inner in reversed([folder, *folder.parents]):
        if inner != root and inner.is_relative_to(root):
            inner.mkdir(exist_ok=True)
            if durable:
                sync_folder(inner.parent)


def delete(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, or nothing. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
