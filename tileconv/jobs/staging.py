"""Work beside the output, and the one step that gives it its name.

A run writes into a staging folder next to the output, ``.NAME.tileconv``, which it
locks; the kernel frees the lock when the process dies. When everything is written, the
result is renamed to its final name, which therefore never exists incomplete. A run that
ends before that leaves the folder, with the record of what it has done, to the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tileconv.errors import (
    BadChunkError,
    ConfigError,
    LockedError,
    OutputExistsError,
    StorageError,
)
from tileconv.jobs.journal import (
    INPUT,
    Settings,
    filled_in,
    has_tiles,
    is_finished,
    note_bad_input,
    settings_in,
)
from tileconv.jobs.journal import NAME as JOURNAL_NAME
from tileconv.jobs.locking import locked, make_locked
from tileconv.jobs.renaming import exchange, rename_if_free, repair
from tileconv.stores.disk import delete, make_folder, storage_error, storing, sync_folder

NAME_BYTES_MAX = 255 - len("..tileconv")
"""Longest name that leaves room for what a staging folder's name adds, in bytes."""

OLD_NAME = "old"
"""What an old output is called while the new one takes its name in two steps."""

TOKEN_NAME = "workers-look-for-this"  # noqa: S105 - a file's name
"""What a cluster's workers must find in the staging folder, to know it for the client's."""

_RESULT = re.compile(r"[0-9a-f]{16}")
_OURS = re.compile(rf"{JOURNAL_NAME}(\.new)?|{TOKEN_NAME}.*|{_RESULT.pattern}|{OLD_NAME}")
"""Names of what a run makes in its staging folder: the journal, what a cluster's workers look
for, a folder for the result, and an old output."""


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
    durable : bool
        Whether the commit must survive a loss of power.
    needed_bytes : int
        Most bytes the output takes.
    """

    output: Path
    folder: Path
    overwrite: bool
    durable: bool = False
    needed_bytes: int = 0

    def result(self) -> Path:
        """Where the sink of a run writes, or goes on; it becomes `output` at the commit.

        Its folder has another name each time: workers of a run that ended, which have not heard
        of it, find nothing to write into.

        Raises
        ------
        StorageError
            Its folder cannot be made.
        """
        folder = self.folder / os.urandom(8).hex()
        with storing(folder, "create", needed_bytes=self.needed_bytes):
            before = _results(self.folder)
            if before:
                before[0].rename(folder)
                if self.durable:
                    sync_folder(self.folder)
            else:
                make_folder(folder, durable=self.durable)
        return folder / "result"

    def is_done(self, settings: Settings, *, no_absent: bool, no_bad: bool) -> bool:
        """Whether the output is there already: made by this very run, killed over its end.

        What another run has left over so is dropped, and so is one that has filled absent or bad
        chunks of the input where this one may not.

        Raises
        ------
        OutputExistsError
            Another run has made it, and it is not to be replaced.
        StorageError
            The folder cannot be read or emptied.
        """
        if not is_finished(self.folder, self.output):
            return False
        absent, bad = filled_in(self.folder)
        filled = (absent and no_absent) or (bad and no_bad)
        if settings_in(self.folder) == settings and not filled:
            return True
        if not self.overwrite:
            raise OutputExistsError(_taken(self.output))
        with storing(self.folder, "empty"):
            _empty(self.folder)
        return False

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
                rename_if_free(result, self.output)
                if self.durable:
                    self._sync_or_undo(result)
                return
            if result.is_dir() or self.output.is_dir():
                exchange(result, self.output, self.folder / OLD_NAME)
            else:
                result.replace(self.output)
            if self.durable:
                sync_folder(self.output.parent)
        except FileExistsError:
            raise OutputExistsError(_taken(self.output)) from None
        except OSError as error:
            doing, block = "move the finished output to", 4096  # What a name may take.
            raise storage_error(self.output, error, doing=doing, needed_bytes=block) from None

    def _sync_or_undo(self, result: Path) -> None:
        """Have the new name survive a loss of power, or take it back, so that a run goes on."""
        try:
            sync_folder(self.output.parent)
        except OSError:
            self.output.rename(result)
            raise


def check_output(output: Path, source: Path | None, *, overwrite: bool) -> None:
    """Refuse an output that is in the way or in the input, before anything is created.

    Raises
    ------
    ConfigError
        The output is the input, lies inside it, or holds it.
    LockedError
        Another run is writing it.
    OutputExistsError
        The name is taken and `overwrite` is false.
    StorageError
        The folder it would lie in cannot be written.
    """
    try:
        if source is not None:
            _refuse_overlap(output, source)
        _refuse_locked(output)
        _refuse_taken(output, overwrite=overwrite)
        parent = output.absolute().parent
        while not os.path.lexists(parent):
            parent = parent.parent
        if not parent.is_dir():
            raise ConfigError(f"output {output}: {parent} is not a folder; choose another name")
        if overwrite and output.is_dir() and not os.access(output, os.W_OK | os.X_OK):
            raise StorageError(f"cannot replace {output}: permission denied; choose another")
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
def stage(
    output: Path,
    *,
    overwrite: bool,
    restart: bool = False,
    durable: bool = False,
    needed_bytes: int = 0,
) -> Iterator[Staging]:
    """A staging folder for `output`, locked while the context lasts.

    It is gone afterwards, unless the run fails that has finished tiles in it.

    Parameters
    ----------
    output : Path
    overwrite : bool
        Whether an output that is there is replaced at the commit.
    restart : bool
        Whether to drop what another run has left here.
    durable : bool
        Whether what is staged, and its commit, must survive a loss of power.
    needed_bytes : int
        Most bytes the output takes, told when the folder cannot be made.

    Raises
    ------
    LockedError
        Another run is writing the same output.
    OutputExistsError
        It has just done so, and is not to be replaced.
    StorageError
        The folder cannot be made.
    """
    output = output.absolute()
    folder = _folder_of(output)
    made: list[Path] = []
    lock: int | None = None
    try:
        with storing(folder, "make", needed_bytes=needed_bytes):
            made += [path for path in folder.parents if not path.exists()]
            lock = make_locked(folder, output)
            repair(output, folder / OLD_NAME)
            finished = is_finished(folder, output)
            if not restart:
                _refuse_damaged(folder)
            if restart or not has_tiles(folder):
                _empty(folder)
            if durable:
                for new in (folder, *made):
                    sync_folder(new.parent)
        try:
            _refuse_taken(output, overwrite=overwrite)  # By a run that has just ended.
            yield Staging(output, folder, overwrite, durable, needed_bytes)
        except BaseException:
            if finished or not _keeps(folder):
                _remove(folder)
            raise
        else:
            _remove(folder)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # It holds the output, or was never made.
                parent.rmdir()
        if lock is not None:
            with contextlib.suppress(OSError):  # It is free all the same.
                os.close(lock)


@contextlib.contextmanager
def noting_bad_input(output: Path, source: Path | None) -> Iterator[None]:
    """Where a chunk of an input is found to be bad, what is staged for `output` of it says so.

    The input may be repaired then, and become another file: it is gone on with what was done,
    if what was read is the same; see `Journal.input_changed`.
    """
    try:
        yield
    except BadChunkError as error:
        folder = _folder_of(output.absolute())
        with contextlib.suppress(OSError, LockedError, StorageError), locked(folder, output):
            settings = settings_in(folder)
            if settings and source and settings[INPUT].startswith(f"{source.resolve()}, "):
                note_bad_input(folder, str(error))
        raise


def _keeps(folder: Path) -> bool:
    """Whether there is something to keep in a folder; also where that cannot be told."""
    try:
        return has_tiles(folder)
    except StorageError:
        return True


def _folder_of(output: Path) -> Path:
    """The staging folder beside an output."""
    return output.with_name(f".{_short(output.name)}.tileconv")


def _refuse_locked(output: Path) -> None:
    """Tell that another run is writing, before a cluster is started in vain. Raises OSError."""
    folder = _folder_of(output.absolute())
    if folder.is_dir() and not folder.is_symlink():
        with locked(folder, output, shared=True):
            pass


def _refuse_taken(output: Path, *, overwrite: bool) -> None:
    """Refuse a name that is taken, but for what this run has made, which was killed over its end.

    Raises
    ------
    OutputExistsError
        It is not to be replaced.
    OSError, StorageError
        It cannot be looked at.
    """
    output = output.absolute()
    folder = _folder_of(output)
    if overwrite or not os.path.lexists(output) or is_finished(folder, output):
        return
    with contextlib.suppress(OSError, LockedError), locked(folder, output):
        folder.rmdir()  # If it is empty, of a run that was killed over its very end.
    raise OutputExistsError(_taken(output))


def _short(name: str) -> str:
    """`name`, or a digest that stands for it where the staging name would grow too long."""
    if len(os.fsencode(name)) <= NAME_BYTES_MAX:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _remove(folder: Path) -> None:
    """Remove the folder, though a worker that has not heard of the end may still write in it.

    The caller has locked it. Once it is gone another run may make one of that name.
    """
    with contextlib.suppress(OSError):
        ours = folder.stat()
        for _ in range(20):
            with contextlib.suppress(OSError):
                _drop(folder)
                folder.rmdir()
            if not os.path.samestat(ours, folder.stat()):
                return
            time.sleep(0.1)


def _drop(folder: Path) -> None:
    """Remove all that is in the folder; its journal last, which says what the rest is.

    Raises OSError.
    """
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == JOURNAL_NAME):
        delete(entry)


def _refuse_damaged(folder: Path) -> None:
    """Refuse to drop what a run has left whose record cannot be read from its beginning on."""
    if _results(folder) and settings_in(folder) is None and (folder / JOURNAL_NAME).exists():
        raise StorageError(
            f"{folder / JOURNAL_NAME} is damaged: what an unfinished run has done cannot be told; "
            "restore it, or begin anew with --restart"
        )


def _results(folder: Path) -> list[Path]:
    """Folders for the result of a run; there is one at most. Raises OSError."""
    return [path for path in folder.iterdir() if _RESULT.fullmatch(path.name)]


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
    _drop(folder)


def _taken(output: Path) -> str:
    return f"output {output} exists; choose another name, or replace it with --overwrite"
