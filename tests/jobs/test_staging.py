"""The final name: taken in one step, never over something, never left half done."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tileconv.core.grid import TileGrid
from tileconv.errors import ConfigError, LockedError, OutputExistsError, StorageError
from tileconv.jobs.journal import Journal, Totals
from tileconv.jobs.staging import check_output, stage
from tileconv.stores.sink import Receipt

RUN = "0123456789abcdef"


def write(path, text, *, folder):
    if folder:
        path.mkdir()
        path = path / "chunk"
    path.write_text(text)


def read(path):
    return (path / "chunk" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("folder", [True, False])
def test_the_result_takes_its_name_at_the_commit(tmp_path, folder):
    output = tmp_path / "deep" / "er" / "out"
    with stage(output, overwrite=False) as staging:
        write(staging.result(), "new", folder=folder)
        assert not output.exists()
        staging.commit(staging.result())
    assert read(output) == "new"
    assert os.listdir(output.parent) == ["out"]


@pytest.mark.parametrize("old_folder", [True, False])
@pytest.mark.parametrize("folder", [True, False])
def test_overwriting_replaces_only_at_the_commit(tmp_path, folder, old_folder):
    output = tmp_path / "out"
    write(output, "old", folder=old_folder)
    with stage(output, overwrite=True) as staging:
        write(staging.result(), "new", folder=folder)
        assert read(output) == "old"
        staging.commit(staging.result())
    assert read(output) == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("folder", [True, False])
def test_a_name_taken_meanwhile_is_not_replaced(tmp_path, folder):
    output = tmp_path / "out"
    with stage(output, overwrite=False) as staging:
        write(staging.result(), "new", folder=folder)
        write(output, "other", folder=folder)
        with pytest.raises(OutputExistsError):
            staging.commit(staging.result())
    assert read(output) == "other"


def test_a_failed_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), stage(tmp_path / "a" / "out", overwrite=False) as staging:
        write(staging.result(), "half", folder=True)
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_is_cleared(tmp_path):
    left = tmp_path / ".out.tileconv"
    left.mkdir()
    (left / RUN).mkdir()
    write(left / RUN / "result", "half", folder=True)
    with stage(tmp_path / "out", overwrite=False) as staging:
        assert not staging.result().exists()


def test_one_of_two_runs_wins_and_the_other_touches_nothing(tmp_path):
    output = tmp_path / "out"
    with stage(output, overwrite=False) as staging:
        write(staging.result(), "new", folder=False)
        with pytest.raises(LockedError), stage(output, overwrite=False):
            pass
        code = "import sys; from pathlib import Path; from tileconv.jobs.staging import stage\n"
        code += "with stage(Path(sys.argv[1]), overwrite=False): pass"
        other = subprocess.run(
            [sys.executable, "-c", code, str(output)], capture_output=True, text=True, check=False
        )
        assert "LockedError" in other.stderr
        assert read(staging.result()) == "new"


def test_outputs_in_the_way_or_in_the_input_are_refused(tmp_path):
    source = tmp_path / "in.zarr"
    source.mkdir()
    for output in (source, source / "deep" / "out.zarr", tmp_path):
        with pytest.raises(ConfigError, match="input"):
            check_output(output, source, overwrite=True)
    link = tmp_path / "link.zarr"
    link.symlink_to(source)
    with pytest.raises(ConfigError, match="is the input"):
        check_output(link, source, overwrite=True)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        check_output(link, None, overwrite=False)
    check_output(tmp_path / "new" / "out.zarr", source, overwrite=False)
    assert sorted(os.listdir(tmp_path)) == ["in.zarr", "link.zarr"]


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        check_output(tmp_path / "file" / "out.tif", None, overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="permission"):
        check_output(tmp_path / "out.tif", None, overwrite=False)


@pytest.fixture
def no_exchange(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr("tileconv.jobs.renaming._renameat2", refuse)


@pytest.mark.parametrize("old_folder", [True, False])
def test_overwriting_where_names_cannot_be_exchanged(tmp_path, no_exchange, old_folder):
    output = tmp_path / "out"
    write(output, "old", folder=old_folder)
    with stage(output, overwrite=True) as staging:
        write(staging.result(), "new", folder=True)
        staging.commit(staging.result())
    assert read(output) == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failed_second_step_gives_the_old_output_its_name_back(tmp_path, no_exchange):
    output = tmp_path / "out"
    write(output, "old", folder=True)
    with stage(output, overwrite=True) as staging, pytest.raises(StorageError):
        staging.commit(staging.result())  # There is no result to move.
    assert read(output) == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_kill_between_the_two_steps_is_repaired_by_the_next_run(tmp_path):
    output = tmp_path / "out"
    (tmp_path / ".out.tileconv").mkdir()
    write(tmp_path / ".out.tileconv" / "old", "old", folder=True)
    with stage(output, overwrite=True):
        assert read(output) == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_run_in_progress_is_told_before_anything_is_started(tmp_path):
    output = tmp_path / "out"
    with stage(output, overwrite=False), pytest.raises(LockedError, match="another run is writing"):
        check_output(output, None, overwrite=False)
    check_output(output, None, overwrite=False)


def test_who_only_looks_at_the_lock_keeps_nobody_out(tmp_path):
    output = tmp_path / "out"
    folder = tmp_path / ".out.tileconv"
    folder.mkdir()
    looking = os.open(folder, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    check_output(output, None, overwrite=False)
    threading.Timer(0.05, os.close, [looking]).start()
    with stage(output, overwrite=False):
        pass


def test_a_removal_that_is_cut_short_keeps_the_record_to_its_end(tmp_path, monkeypatch):
    """It says that the rest is nobody's; without it what is left would lie there for ever."""
    output = tmp_path / "out"
    removed = []
    for name in ("rmdir", "unlink"):
        usual = getattr(os, name)

        def noted(path, *args, usual=usual, **named):
            usual(path, *args, **named)
            removed.append(Path(path).name)

        monkeypatch.setattr(os, name, noted)
    with stage(output, overwrite=False) as staging:
        write(staging.result(), "new", folder=True)
        (staging.folder / "journal").touch()
    assert removed[-2:] == ["journal", ".out.tileconv"]
    output.mkdir()
    staging.folder.mkdir()
    with pytest.raises(OutputExistsError):
        check_output(output, None, overwrite=False)
    assert os.listdir(tmp_path) == ["out"]


def test_the_folder_of_the_next_run_is_not_removed(tmp_path, monkeypatch):
    """It may be there as soon as ours, which had that name, is gone."""
    usual = Path.rmdir

    def gone(path):
        usual(path)
        if path.name == ".out.tileconv":
            write(path, "the next run's", folder=True)

    monkeypatch.setattr(Path, "rmdir", gone)
    with stage(tmp_path / "out", overwrite=False):
        pass
    assert read(tmp_path / ".out.tileconv") == "the next run's"


def test_a_kill_after_the_second_step_leaves_no_old_output(tmp_path, no_exchange):
    output = tmp_path / "out"
    write(output, "old", folder=True)
    with (
        contextlib.suppress(KeyboardInterrupt),
        pytest.MonkeyPatch.context() as patched,
        stage(output, overwrite=True) as staging,
    ):
        write(staging.result(), "new", folder=True)
        journal = Journal(staging.folder, {}, TileGrid((1, 1), (1, 1)))
        journal.record(np.zeros((1, 2), np.uint64), Receipt(np.zeros((0, 4), np.uint64)), Totals())
        journal.committing(staging.result())
        usual = Path.rename

        def killed(path, target):
            if path.name == "old":
                raise KeyboardInterrupt
            usual(path, target)

        patched.setattr(Path, "rename", killed)
        staging.commit(staging.result())
    assert sorted(os.listdir(tmp_path)) == [".out.tileconv", "out"]
    with stage(output, overwrite=True) as staging:
        assert staging.is_done({}, no_absent=True, no_bad=True)
    assert os.listdir(tmp_path) == ["out"]
    assert read(output) == "new"


def test_an_output_that_was_made_since_it_was_looked_for_is_found_at_once(tmp_path):
    """By a run that held the lock, and has ended."""
    output = tmp_path / "out"
    check_output(output, None, overwrite=False)
    write(output, "the other run's", folder=True)
    with pytest.raises(OutputExistsError), stage(output, overwrite=False):
        raise AssertionError("all would be done in vain")
    assert os.listdir(tmp_path) == ["out"]
