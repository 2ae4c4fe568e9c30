"""The real command on 4.3 gigapixels, under a cap, killed twenty times: nothing is lost but time.

The encoded bytes of every tile and shard are those of a run that nobody killed.
"""

import filecmp
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tifffile

pytestmark = pytest.mark.soak

SIDE = 65536
KILLS = 20
CAP_MIB = 512


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tileconv", *map(str, arguments)]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    shape = f"{SIDE}x{SIDE}"
    subprocess.run(command("sample", path, "--shape", shape, "--quiet"), check=True)
    return path


def convolve(slide: Path, output: Path, *more: str) -> list[str]:
    return command(
        *("convolve", slide, output, "--kernel", "gaussian:sigma=2", "--dtype", "input"),
        *("--memory", f"{CAP_MIB}MiB", "--json", *more),
    )


def killed(line: list[str], after_s: float) -> bool:
    """Whether a run was killed that long after its start; False where it came to its end."""
    run = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        run.wait(after_s)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGKILL)
    return run.wait() == -signal.SIGKILL


def same(one: Path, other: Path) -> bool:
    if one.is_dir():
        files = [sorted(p.relative_to(at) for at, p in tree(at)) for at in (one, other)]
        return files[0] == files[1] and not any(filecmp.cmpfiles(one, other, files[0], False)[1:])
    with tifffile.TiffFile(one) as first, tifffile.TiffFile(other) as second:
        for pages in zip(first.pages, second.pages, strict=True):
            tables = [zip(p.dataoffsets, p.databytecounts, strict=True) for p in pages]
            with one.open("rb") as a, other.open("rb") as b:
                for (at, length), (there, as_long) in zip(*tables, strict=True):
                    a.seek(at), b.seek(there)
                    if a.read(length) != b.read(as_long):
                        return False
    return True


def tree(folder: Path):
    return ((folder, path) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_twenty_kills_of_four_gigapixels(name, slide, tmp_path):
    clean = tmp_path / f"clean{Path(name).suffix}"
    started = time.monotonic()
    subprocess.run(convolve(slide, clean, "--quiet"), check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - started
    # So that twenty of them go through one run, with what each does again.
    draw, output, kills = random.Random(name), tmp_path / name, 0
    for kills in range(KILLS + 1):
        more = ("--quiet",) if kills < KILLS else ()
        line = convolve(slide, output, *more)
        if kills == KILLS or not killed(line, draw.uniform(0.2, 0.09 * whole_s + 1.2)):
            break
        assert not os.path.lexists(output)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode == 4:  # It came to its end before.
        assert kills < KILLS
    else:
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["memory"]["peak_bytes"] <= CAP_MIB << 20
        assert re.search(r"going on: \d+ of", done.stderr)
        print(f"{kills} kills, {report['resumed_tiles']} of {report['tiles']} tiles kept")
    assert sorted(os.listdir(tmp_path)) == sorted([clean.name, name])
    assert same(clean, output)
