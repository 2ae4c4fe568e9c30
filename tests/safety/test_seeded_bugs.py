"""Bugs that would lose data, put into a copy of the package: the tests of it turn red.

Each bug is a change of the text, which has to be there to be changed. The same tests pass on a
copy without it.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bug:
    """A change of the package, and the tests that must see it.

    Parameters
    ----------
    name : str
    file : str
        In the package.
    changes : tuple of (str, str)
        What is replaced, and by what.
    tests : tuple of str
    """

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]

    def __str__(self):
        return self.name

    def put_into(self, package: Path) -> None:
        path = package / self.file
        text = path.read_text()
        for good, bad in self.changes:
            assert text.count(good) == 1, f"{self.file} has no {good!r}, or several"
            text = text.replace(good, bad)
        path.write_text(text)


CRASHES = "tests/safety/test_crash_points.py::test_a_kill_at_any_step_loses_nothing"
BUGS = [
    Bug(
        "record before data",
        "stores/tiff/part_file.py",
        (
            (
                "        self._write(start, pieces)\n",
                "        late, self._late = getattr(self, '_late', None), (start, pieces)\n"
                "        pieces[:] = map(bytes, pieces)\n"
                "        if late:\n"
                "            self._write(*late)\n",
            ),
            (
                "        try:\n            size = self.path.stat().st_size\n",
                "        self._write(*getattr(self, '_late', (0, [])))\n"
                "        try:\n            size = self.path.stat().st_size\n",
            ),
        ),
        (f"{CRASHES}[out.tif, nothing, process]",),
    ),
    Bug(
        "record before data is durable",
        "stores/tiff/part_file.py",
        (
            (
                "at + len(piece), unwritten - len(piece)\n"
                "                if self._durable:\n"
                "                    os.fdatasync(handle)\n",
                "at + len(piece), unwritten - len(piece)\n",
            ),
        ),
        ("tests/safety/test_power.py::test_what_is_recorded_is_there[out.tif]",),
    ),
    Bug(
        "no fingerprint check",
        "jobs/journal.py",
        (("            raise refusal(folder, differing.values())\n", "            pass\n"),),
        (
            "tests/jobs/test_resume.py::test_other_settings_do_not_go_on",
            "tests/jobs/test_resume.py::test_another_input_of_the_same_shape_does_not_go_on",
        ),
    ),
    Bug(
        "chunk exists means done",
        "stores/zarr/writer.py",
        (
            (
                "if self._place(number).stat().st_size != length:",
                "if not self._place(number).stat():",
            ),
            ("if os.fstat(handle).st_size != length:", "if not os.fstat(handle):"),
            ("if stored_checksum(handle, 0, length, check) != value:", "if False:"),
        ),
        (f"{CRASHES}[out.zarr, damaged run, process]",),
    ),
    Bug(
        "error read as zeros",
        "stores/absent.py",
        (("        if self.bad is Bad.ERROR:\n            raise error\n", ""),),
        (
            "tests/stores/test_tiff_reader.py::test_a_corrupt_tile_is_named",
            "tests/stores/test_zarr_reader.py::test_a_corrupt_chunk_is_an_error_that_names_it",
        ),
    ),
    Bug(
        "lock removed",
        "jobs/locking.py",
        (("fcntl.flock(descriptor, kind | fcntl.LOCK_NB)", "pass"),),
        (
            "tests/safety/test_double_starts.py::"
            "test_restart_drops_nothing_of_a_run_that_is_at_work[out.tif]",
        ),
    ),
    Bug(
        "torn tail believed",
        "jobs/frames.py",
        (
            ("if magic != _MAGIC or length > size - file.tell():", "if magic != _MAGIC:"),
            (
                "    if zlib.crc32(data, zlib.crc32(head[_CHECKED_FROM:])) != crc:\n"
                "        return None\n",
                "    data += bytes(length - len(data))\n",
            ),
        ),
        (
            "tests/jobs/test_journal.py::test_every_cut_leaves_the_whole_frames_before_it",
            "tests/jobs/test_journal.py::test_a_changed_byte_ends_the_record",
        ),
    ),
]


def outcome(folder: Path, bug: Bug | None, tests: tuple[str, ...]) -> subprocess.CompletedProcess:
    """What pytest makes of some tests, in a copy of the package and its tests."""
    for name in ("tileconv", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    if bug is not None:
        bug.put_into(folder / "tileconv")
    ours = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        line,
        cwd=folder,
        env=ours | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_bug_turns_the_suite_red(bug, tmp_path):
    done = outcome(tmp_path, bug, bug.tests)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "failed" in done.stdout.splitlines()[-1]


def test_without_a_bug_the_same_tests_are_green(tmp_path):
    tests = tuple(dict.fromkeys(test for bug in BUGS for test in bug.tests))
    done = outcome(tmp_path, None, tests)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
