"""Work beside the output, and the one step that gives it its name.

A run writes into a staging folder next to the output, ``.NAME.tileconv``, which it
locks; the kernel frees the lock when the process dies. When everything is written, the
result is renamed to its final name, which therefore never exists incomplete. A run that
ends before that leaves the folder, with the record of what it has done, to the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tileconv.errors import ConfigError, LockedError, OutputExistsError, StorageError
from tileconv.jobs.journal import NAME as JOURNAL_NAME
from tileconv.jobs.journal import has_tiles, is_finished
from tileconv.stores.disk import make_folder

NAME_BYTES_MAX = 255 - len("..tileconv")
"""Longest name that leaves room for what a staging folder's name adds, in bytes."""

TOKEN_NAME = "workers-look-for-this"  # noqa: S105 - a file's name
"""What a cluster's workers must find in the staging folder, to know it for the client's."""

_OURS = re.compile(rf"{JOURNAL_NAME}|{TOKEN_NAME}.*|[0-9a-f]{{16}}")
"""Names of what a run makes in its staging folder: the journal, what a cluster's workers look
for, and a folder for the result of each run."""

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class Staging:
    """A locked staging folder for one output.

    Parameters
    ----------
    output : Path
        The final name.
    folder : Path
        The staging folder beside it.
    overwrite : bool
        Whether an output that is there is replaced at the commit.
    """

    output: Path
    folder: Path
    overwrite: bool

    def result(self, run: str) -> Path:
        """Where the sink of a run writes; it becomes `output` at the commit.

        Raises
        ------
        StorageError
            Its folder cannot be made.
        """
        make_folder(self.folder / run)
        return self.folder / run / "result"

    def commit(self, result: Path) -> None:
        """Give the result its final name, in one atomic step.

        Raises
        ------
        OutputExistsError
            The name was taken meanwhile and overwriting was not asked for.
        StorageError
            The file system refuses.
        """
        try:
            if not self.overwrite:
                _rename_if_free(result, self.output)
            elif result.is_dir() or self.output.is_dir():
                _exchange(result, self.output)
            else:
                result.replace(self.output)
        except FileExistsError:
            raise OutputExistsError(_taken(self.output)) from None
        except OSError as error:
            raise StorageError(
                f"cannot move the finished output to {self.output}: {error.strerror}; "
                "choose another output and run again"
            ) from None


def check_output(output: Path, source: Path | None, *, overwrite: bool) -> None:
    """Refuse an output that is in the way or in the input, before anything is created.

    Raises
    ------
    ConfigError
        The output is the input, lies inside it, or holds it.
    OutputExistsError
        The name is taken and `overwrite` is false.
    StorageError
        The folder it would lie in cannot be written.
    """
    try:
        if source is not None:
            _refuse_overlap(output, source)
        _clear(output)
        if os.path.lexists(output) and not overwrite:
            raise OutputExistsError(_taken(output))
        parent = output.absolute().parent
        while not os.path.lexists(parent):
            parent = parent.parent
        if not parent.is_dir():
            raise ConfigError(f"output {output}: {parent} is not a folder; choose another name")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write into {parent}: permission denied; choose another")
    except (OSError, RuntimeError) as error:
        # Links in a circle are a RuntimeError of Path.resolve before Python 3.13.
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"cannot write {output}: {reason}; choose another name") from None


def _refuse_overlap(output: Path, source: Path) -> None:
    """Refuse an output that is the input, lies in it, or holds it."""
    real_output, real_source = output.resolve(), source.resolve()
    same = output.exists() and source.exists() and output.samefile(source)
    if same or real_output == real_source:
        raise ConfigError(f"output {output} is the input; choose another name")
    if real_output.is_relative_to(real_source):
        raise ConfigError(f"output {output} lies inside the input {source}; choose another name")
    if real_source.is_relative_to(real_output):
        raise ConfigError(f"output {output} holds the input {source}; choose another name")


@contextlib.contextmanager
def stage(output: Path, *, overwrite: bool, restart: bool = False) -> Iterator[Staging]:
    """A staging folder for `output`, locked while the context lasts.

    It is gone afterwards, unless the run fails that has finished tiles in it.

    Parameters
    ----------
    output : Path
    overwrite : bool
        Whether an output that is there is replaced at the commit.
    restart : bool
        Whether to drop what another run has left here.

    Raises
    ------
    LockedError
        Another run is writing the same output.
    StorageError
        The folder cannot be made.
    """
    output = output.absolute()
    folder = _folder_of(output)
    made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]
    lock: int | None = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise StorageError(
                f"cannot make {folder}: {error.strerror}; choose another output"
            ) from None
        _lock(lock, folder, output)
        _repair(output)
        if restart or not has_tiles(folder) or is_finished(folder, output):
            _empty(folder)
        try:
            yield Staging(output, folder, overwrite)
        except BaseException:
            if not has_tiles(folder):
                _remove(folder)
            raise
        else:
            _remove(folder)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # It holds the output, or was never made.
                parent.rmdir()
        if lock is not None:
            os.close(lock)


def _folder_of(output: Path) -> Path:
    """The staging folder beside an output."""
    return output.with_name(f".{_short(output.name)}.tileconv")


def _clear(output: Path) -> None:
    """Remove the staging folder of a run that was killed after it had given the output its name.

    An old output may lie there, which the new one has changed places with.
    """
    output = output.absolute()
    folder = _folder_of(output)
    if folder.is_symlink() or not is_finished(folder, output):
        return
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(LockedError):
            _lock(lock, folder, output)
            _remove(folder)
    finally:
        os.close(lock)


def _short(name: str) -> str:
    """`name`, or a digest that stands for it where the staging name would grow too long."""
    if len(os.fsencode(name)) <= NAME_BYTES_MAX:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _lock(descriptor: int, folder: Path, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise StorageError(f"cannot lock {folder}: {error.strerror}") from None
        raise LockedError(
            f"another run is writing {output}; wait for it, or choose another output"
        ) from None
    # The run that held the lock may have removed the folder between our open and lock.
    if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
        raise LockedError(f"another run has just finished {output}; start again")


def _remove(folder: Path) -> None:
    """Remove the folder, though a worker that has not heard of the end may still write in it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _empty(folder: Path) -> None:
    """Remove what a killed run left, and nothing that is not ours.

    Raises
    ------
    StorageError
        The folder holds something that no run makes.
    """
    strange = [entry.name for entry in folder.iterdir() if not _OURS.fullmatch(entry.name)]
    if strange:
        raise StorageError(
            f"{folder}, where the output would be made, holds {strange[0]!r}, which is not "
            "tileconv's; remove it, or choose another output"
        )
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _rename_if_free(source: Path, target: Path) -> None:
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


def _exchange(source: Path, target: Path) -> None:
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
        aside = _aside(target)
        target.rename(aside)
        try:
            source.rename(target)
        except OSError:
            aside.rename(target)
            raise
        aside.rename(source)


def _aside(output: Path) -> Path:
    """Where an old output waits while the new one takes its name in two steps."""
    return output.with_name(f".{_short(output.name)}.old")


def _repair(output: Path) -> None:
    """Give an old output its name back, if a run was killed between the two steps."""
    aside = _aside(output)
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


def _taken(output: Path) -> str:
    return f"output {output} exists; choose another name, or replace it with --overwrite"
