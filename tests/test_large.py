"""The main job at full size: a gigapixel under a cap, the same pixels whatever the workers."""

import json
import subprocess
import sys

import numpy as np
import pytest

import tileconv

pytestmark = pytest.mark.slow

SIDE = 32768


def run(*arguments):
    """Run a command as a process of its own; its report, and its peak as the kernel saw it."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
    )
    command = [sys.executable, "-m", "tileconv", *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout), int(done.stderr) * 1024


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "big.tif"
    run("sample", path, "--shape", f"{SIDE}x{SIDE}")
    return path


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_gigapixel_is_the_same_for_any_workers_and_cap(big, tmp_path, suffix):
    outputs = []
    for cap, workers in ((512, 2), (512, 1), (300, 2)):
        output = tmp_path / f"{cap}-{workers}{suffix}"
        report, peak = run(
            *("convolve", big, output, "--kernel", "gaussian:sigma=3"),
            *("--memory", f"{cap}MiB", "--workers", workers, "--dtype", "uint8"),
        )
        assert peak <= report["memory"]["planned_bytes"] <= cap << 20
        assert report["read_amplification"] <= (1.05 if cap == 512 else 1.5)
        outputs.append(tileconv.open(output))
    first, *others = outputs
    for top in range(0, SIDE, 2048):
        want = np.asarray(first[top : top + 2048])
        assert all(np.array_equal(want, np.asarray(a[top : top + 2048])) for a in others)
