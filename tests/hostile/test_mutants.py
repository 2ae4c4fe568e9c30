"""Thousands of damaged files: each is refused in one line, or read as other programs read it.

Each is made from its number. A failure prints what makes the mutant again.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MUTANTS, MANY, PART = 2_000, 50_000, 500
SCRIPT = Path(__file__).with_name("mutants.py")

pytest.importorskip("pyvips")


def run(*arguments: object) -> dict[str, object]:
    """What the script found; it is a process of its own because it forks."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "start",
    [
        *range(0, MUTANTS, PART),
        *(pytest.param(start, marks=pytest.mark.soak) for start in range(MUTANTS, MANY, PART)),
    ],
)
def test_mutants_are_refused_or_read_right(start):
    found = run("--start", start, "--count", PART)
    told = [
        f"mutants.py --seed 1 --start {fault['number']} --count 1 --keep DIR: {fault}"
        for fault in found["faults"]
    ]
    assert not told, "\n".join(told)
    # They are neither all refused nor all as good as new, and nearly all can be judged.
    assert found["counts"]["equal"] > PART // 10
    assert found["counts"]["refused"] > PART // 10
    assert found["counts"].get("unjudged", 0) <= PART // 10


def test_the_files_that_mutants_are_made_of_are_read_right():
    found = run("--intact")
    assert not found["faults"]
    # Nothing else here reads LERC, JPEG XL and JPEG 2000.
    assert found["counts"].get("unjudged", 0) <= 3
    assert found["counts"]["equal"] >= 24
