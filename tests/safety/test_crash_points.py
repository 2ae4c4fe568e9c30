"""A real SIGKILL at each step of the protocol: before it, in the middle of it, and after it.

What the steps are, and that there are no others, is in `harness.steps`. After each kill the final
name is free or complete, and the same command again gives the pixels of a run that nobody killed,
without doing again what was recorded.
"""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from harness.disk import tree
from harness.driver import KILLED
from harness.jobs import NAMES, expected, go_on, make_job, read
from harness.steps import STEPS

from tileconv.errors import OutputExistsError

pytestmark = pytest.mark.usefixtures("small_tiles")

WRITES = {"journal frame appended", "tile's data written", "part's data written", "parts joined"}
WRITES |= {"tables written", "header written", "metadata written"}
AT_THE_END = {"staging emptied", "staging removed"}
WORKERS = 2


@dataclass(frozen=True)
class Setting:
    """What a run finds that is to be killed.

    Parameters
    ----------
    name : str
        Of the output.
    found : str
        ``"nothing"``, an ``"old output"``, also one that was put aside for the new one and is
        still ``"beside"``, an ``"unfinished run"``, or a ``"damaged run"``.
    durability : str
    no_exchange : bool
        Whether names cannot be exchanged, as on other systems.
    restart : bool
    """

    name: str
    found: str
    durability: str = "process"
    no_exchange: bool = False
    restart: bool = False

    def __str__(self):
        more = ["restarted"] * self.restart + ["no exchange"] * self.no_exchange
        return ", ".join([self.name, self.found, self.durability, *more])

    @property
    def order(self) -> dict:
        return {"no_exchange": self.no_exchange, "restart": self.restart, "flush_s": 0.0}


SETTINGS = [
    *(Setting(name, found) for name in NAMES for found in ("nothing", "old output")),
    *(Setting(name, "old output", no_exchange=True) for name in NAMES),
    *(Setting(name, "nothing", no_exchange=True) for name in NAMES),
    *(Setting(name, "damaged run") for name in NAMES),
    *(Setting(name, "unfinished run", restart=True) for name in NAMES),
    *(Setting(name, "nothing", "power") for name in NAMES),
    Setting("out.zarr", "old output beside", no_exchange=True),
]


class Cases:
    """Runs of one setting, each in a folder of its own."""

    def __init__(self, setting, slide, folder, driver):
        self.setting, self.slide, self.driver = setting, slide, driver
        self.folder, self.count = folder, 0
        self.wanted = expected(np.load(slide))
        self.template = folder / "template"
        self.template.mkdir()
        # A run knows its output from a copy of it.
        self._copied = setting.found != "old output beside"
        if self._copied:
            self._prepare(self.template)

    def job(self, folder: Path) -> dict:
        overwrite = self.setting.found.startswith("old output")
        output = folder / self.setting.name
        durability = self.setting.durability
        return make_job(self.slide, output, overwrite=overwrite, durability=durability)

    def _prepare(self, folder: Path) -> None:
        found = self.setting.found
        if found.startswith("old output"):
            old = make_job(self.slide, folder / self.setting.name, weights=[[2.0]])
            assert self.driver.start(old).wait() == 0
        if found == "old output":
            return
        if found == "old output beside":
            kill = {"step": "old output taken in", "hit": 1, "when": "before"}
            run = self.driver.start(self.job(folder), kill=kill, **self.setting.order)
            assert run.wait() == KILLED
        elif found != "nothing":
            kill = {"step": "journal frame appended", "hit": 9, "when": "half"}
            assert self.driver.start(self.job(folder), kill=kill, flush_s=0.0).wait() == KILLED
            if found == "damaged run":
                damage(folder)

    def start(self, **order):
        self.count += 1
        self.place = self.folder / str(self.count)
        shutil.copytree(self.template, self.place)
        if not self._copied:
            self._prepare(self.place)
        return self.driver.start(self.job(self.place), **self.setting.order, **order)

    def steps(self) -> Counter:
        """How often each step is met where nobody kills."""
        run = self.start()
        assert run.wait() == 0, run.stderr
        np.testing.assert_array_equal(read(self.place / self.setting.name), self.wanted)
        (said,) = run.said("steps")
        assert not said["strange"], "these are no steps of the protocol"
        return Counter(said["hits"])

    def kill_and_go_on(self, step: str, hit: int, when: str) -> None:
        run = self._killed(step, hit, when)
        committed = self._look_at_output(step, when)
        job = self.job(self.place)
        if committed and not job["output"]["overwrite"]:
            # What is left says that the output is this run's; once that is gone it is anyone's.
            if (self.place / f".{self.setting.name}.tileconv" / "journal").exists():
                again = go_on(job, self.wanted)
                assert again.found == again.tiles
            else:
                with pytest.raises(OutputExistsError):
                    go_on(job, self.wanted)
            assert tree(self.place) == tree_of_output(self.place, self.setting.name)
            return
        again = go_on(job, self.wanted)
        if not committed and self.setting.found in ("nothing", "old output"):
            assert len(run.recorded) <= again.found <= len(run.recorded) + 1
            in_flight = 2 * WORKERS + 1
            assert len(run.finished) - again.found <= in_flight

    def _killed(self, step: str, hit: int, when: str):
        """A run that was killed there.

        Threads that race for a folder try to make it some times more or less: where the last
        hit does not come, the last one that did is taken.
        """
        for _ in range(5):
            run = self.start(kill={"step": step, "hit": hit, "when": when})
            code = run.wait()
            if code == KILLED:
                return run
            met = run.said("steps")[0]["hits"].get(step, 0)
            assert code == 0, f"exit code {code}: {run.stderr}"
            assert met < hit
            hit = max(1, met)
        raise AssertionError(f"{step!r} is not met again")

    def _look_at_output(self, step: str, when: str) -> bool:
        """Whether the run has given the output its name; it is whole, or not there."""
        output = self.place / self.setting.name
        if self.setting.found == "old output beside":  # It is the new one since it was found.
            np.testing.assert_array_equal(read(output), self.wanted)
            return False
        late = step in AT_THE_END and self.setting.found in ("nothing", "old output")
        if not os.path.lexists(output):
            between = self.setting.no_exchange and self.setting.found == "old output"
            aside = self.place / f".{output.name}.tileconv" / "old"
            assert self.setting.found != "old output" or (between and aside.exists())
            assert not late
            return False
        pixels = read(output)
        if self.setting.found == "old output" and not np.array_equal(pixels, self.wanted):
            np.testing.assert_array_equal(pixels, 2 * np.load(self.slide))
            assert not late
            return False
        np.testing.assert_array_equal(pixels, self.wanted)
        given = step in AT_THE_END or (step == "final name given" and when == "after")
        assert given or step == "old output taken in"
        return True


def damage(folder: Path) -> None:
    """Change a byte in the middle of what is staged; the record itself ends in half a frame."""
    (staged,) = folder.glob(".*/*/result")
    files = sorted(path for path in staged.rglob("*") if path.is_file()) or [staged]
    with files[0].open("r+b") as file:
        file.seek(files[0].stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def tree_of_output(folder: Path, name: str) -> list[str]:
    return sorted([name, *(f"{name}/{path}" for path in tree(folder / name))])


def hits_of(setting: Setting, step: str, count: int) -> list[int]:
    """The first, the one in the middle, and the last; where there is something new to see."""
    late = step in AT_THE_END | {"final name given", "old output put aside", "old output taken in"}
    if setting.found == "old output beside":
        return [1, count] if step == "old output removed" else []
    if setting == Setting(setting.name, "nothing"):
        return sorted({1, (count + 1) // 2, count})
    if setting.durability == "power":
        return [count]
    if setting.found in ("nothing", "old output"):
        return sorted({1, (count + 1) // 2, count}) if late else []
    return sorted({1, count}) if not late or step == "staging emptied" else []


CLUSTERS_ONLY = {"workers' token written", "parts joined"}
KINDS = {
    "open-write": {"open-write"},
    "os.rename": {"rename", "replace"},
    "os.remove": {"unlink"},
    "os.mkdir": {"mkdir"},
    "os.rmdir": {"rmdir"},
    "os.truncate": {"truncate", "ftruncate"},
    "os.link": {"link"},
}


def test_every_change_of_the_disk_is_a_step(slide, tmp_path, driver):
    """Python's own word for it is taken; and there is no step that is never met."""
    met = set(CLUSTERS_ONLY)
    for number, setting in enumerate(SETTINGS):
        folder = tmp_path / str(number)
        folder.mkdir()
        cases = Cases(setting, slide, folder, driver)
        run = cases.start(audit=True)
        assert run.wait() == 0, run.stderr
        (said,) = run.said("steps")
        audited = {event: count for event, count in said["audited"].items() if count}
        assert audited.keys() <= KINDS.keys(), setting
        for event, kinds in KINDS.items():
            seen = sum(said["kinds"].get(kind, 0) for kind in kinds)
            assert seen == audited.get(event, 0), f"{event}: {setting}"
        assert not said["strange"], setting
        met |= said["hits"].keys()
    assert met == {name for name, *_ in STEPS}


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_kill_at_any_step_loses_nothing(setting, slide, tmp_path, driver):
    cases = Cases(setting, slide, tmp_path, driver)
    for step, count in cases.steps().items():
        for hit in hits_of(setting, step, count):
            for when in ("before", "half", "after") if step in WRITES else ("before", "after"):
                try:
                    cases.kill_and_go_on(step, hit, when)
                except BaseException as error:
                    error.add_note(f"killed {when} hit {hit} of {count} of {step!r}: {setting}")
                    error.add_note(f"left: {tree(cases.place)}")
                    raise
                shutil.rmtree(cases.place)
