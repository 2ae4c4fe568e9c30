"""A file that threads append encoded tiles to, and how several become one."""

from __future__ import annotations

import errno
import os
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np

from tileconv.errors import OutputExistsError, StorageError
from tileconv.stores.disk import storage_error, sync_folder, write_all

_COPY_BYTES = 8 << 20


class PartFile:
    """A file that threads append to; each gets a place of its own and writes there unhindered.

    It is opened anew for every write: network file systems show other machines what was
    written when the file is closed, and an error that was held back is told then.

    Parameters
    ----------
    path : path
        Must not exist, unless `resume`.
    start : int
        Where the first bytes go; what lies before is written by `put`.
    expected_bytes : int
        Most bytes the file will have, named when the disk is full.
    resume : bool
        Whether to go on with the file that is there; what it holds beyond `keep` is written over.
    durable : bool
        Whether what is written must survive a loss of power.

    Raises
    ------
    OutputExistsError
        Something stands at `path`.
    StorageError
        The file cannot be created.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        start: int = 0,
        expected_bytes: int = 0,
        resume: bool = False,
        durable: bool = False,
    ) -> None:
        self.path = Path(path)
        self._start = self._end = start
        self._expected = expected_bytes
        self._durable = durable
        self._lock = threading.Lock()
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        try:
            os.close(os.open(self.path, flags, 0o666))
            if durable:
                sync_folder(self.path.parent)
        except FileExistsError:
            raise OutputExistsError(
                f"{self.path} exists; remove it or write to another path"
            ) from None
        except OSError as error:
            raise self._failed("create", error, 0) from error

    def append(self, pieces: list[memoryview]) -> int:
        """Store `pieces` one after another; returns the position of the first."""
        start = self._reserve(sum(len(piece) for piece in pieces))
        self._write(start, pieces)
        return start

    def put(self, at: int, data: bytes | memoryview) -> None:
        """Store `data` at position `at`."""
        self._write(at, [memoryview(data)])

    def keep(self, end: int) -> None:
        """Append behind `end` from now on."""
        with self._lock:
            self._end = max(self._end, end)

    def cut(self, end: int) -> None:
        """Drop what lies from `end` on; nobody may append meanwhile.

        Raises
        ------
        StorageError
            The file is shorter than that, or cannot be written.
        """
        try:
            size = self.path.stat().st_size
            if size < end and end > self._start:
                raise StorageError(
                    f"{self.path} has {size} bytes, of which {end} were stored; "
                    "run the same command again"
                )
            os.truncate(self.path, end)
        except OSError as error:
            raise self._failed("write", error, 0) from error
        self._end = end

    def join(self, other: Path, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Append pieces of another part.

        Parameters
        ----------
        other : Path
        offsets, lengths : ndarray of uint64, shape (pieces,)
            Where each piece is in `other`.

        Returns
        -------
        ndarray of uint64, shape (pieces,)
            Where each is in this file.

        Raises
        ------
        StorageError
            The other part is shorter than that, or cannot be read; or this one not written.
        """
        moved = np.empty_like(offsets)
        order = np.argsort(offsets, kind="stable")
        starts, ends = offsets[order], (offsets + lengths)[order]
        # Neighbours in the file are copied together; what was written twice is left behind.
        breaks = (np.flatnonzero(starts[1:] != ends[:-1]) + 1).tolist()
        try:
            source = os.open(other, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(other, error, doing="read") from error
        try:
            for first, last in pairwise([0, *breaks, len(order)]):
                offset, length = starts[first], int(ends[last - 1] - starts[first])
                at = self._reserve(length)
                self._copy(source, other, int(offset), at, length)
                moved[order[first:last]] = starts[first:last] - offset + np.uint64(at)
        finally:
            os.close(source)
        return moved

    def _reserve(self, length: int) -> int:
        with self._lock:
            start = self._end
            self._end += length
        return start

    def _write(self, at: int, pieces: list[memoryview]) -> None:
        unwritten = sum(len(piece) for piece in pieces)
        if not unwritten:
            return
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                for piece in pieces:
                    write_all(handle, piece, at)
                    at, unwritten = at + len(piece), unwritten - len(piece)
                if self._durable:
                    os.fdatasync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise self._failed("write", error, unwritten) from error

    def _copy(self, source: int, other: Path, offset: int, at: int, length: int) -> None:
        """Copy bytes, inside the file system where it can."""
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                while length:
                    copied = _copy_some(source, handle, offset, at, length)
                    if not copied:
                        raise StorageError(
                            f"{other} ends at byte {offset}, {length} more were stored in it; "
                            "run the same command again"
                        )
                    offset, at, length = offset + copied, at + copied, length - copied
                if self._durable:
                    os.fdatasync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise self._failed("write", error, length) from error

    def _failed(self, doing: str, error: OSError, unwritten: int) -> StorageError:
        """The error to raise, with the bytes this write and the rest of the file still need."""
        needed = unwritten + max(self._expected - self._end, 0)
        return storage_error(self.path, error, doing=doing, needed_bytes=needed)


_CANNOT_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}


def _copy_some(source: int, target: int, offset: int, at: int, length: int) -> int:
    """Copy some of `length` bytes and say how many; 0 at the end of the source."""
    try:
        return os.copy_file_range(source, target, length, offset, at)
    except (AttributeError, OSError) as error:  # macOS has no such call
        if isinstance(error, OSError) and error.errno not in _CANNOT_COPY:
            raise
        return os.pwrite(target, os.pread(source, min(length, _COPY_BYTES), offset), at)
