"""Everything the README and configs/ show is run as it stands."""

import json
import os
import re
import shlex
import shutil
import signal as signal_numbers
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from scipy import signal

from tileconv.jobs.config import Job

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder with a slide in it and the configs beside it."""
    monkeypatch.chdir(tmp_path)
    slide = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    tifffile.imwrite("slide.tif", slide, tile=(64, 64), compression="deflate")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    command("sample", "out/quickstart.tif", "--shape", "700x900")
    return tmp_path


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tileconv", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_blocks_run(workplace):
    code = blocks("python")
    assert len(code) == 3
    printed = "".join(
        subprocess.run(
            [sys.executable, "-c", block], check=True, capture_output=True, text=True
        ).stdout
        for block in code
    )
    slide = tifffile.imread("slide.tif")
    want = signal.convolve2d(slide, [[1, 0, -1]], mode="same", boundary="symm")
    assert np.array_equal(zarr.open_array("edges.zarr", mode="r")[...], want)
    assert "[[" in printed


def test_console_lines_run(workplace):
    lines = [line for block in blocks("console") for line in block.splitlines()]
    ours = [line for line in lines if line.startswith("tileconv")]
    assert len(ours) >= 6
    for line in ours:
        command(*shlex.split(line)[1:])


def test_make_targets_exist():
    for line in blocks("console")[0].splitlines():
        target = shlex.split(line, comments=True)[1]
        done = subprocess.run(
            ["make", "-n", "-C", str(ROOT), target], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_config_in_the_readme_runs(workplace):
    (block,) = blocks("toml")
    Path("job.toml").write_text(block)
    assert json.loads(command("run", "job.toml", "--json"))["output"] == "out/smooth.zarr"


@pytest.mark.parametrize("name", [path.name for path in CONFIGS])
def test_configs_run_twice(workplace, name):
    config = Path("configs") / name
    for _ in range(2):
        command("run", config)
    assert Job.load(config).output_path.exists()


@pytest.mark.parametrize(("name", "sign"), [("kernel_01.toml", 1), ("kernel_02.toml", -1)])
def test_the_textbook_example_equals_scipy_to_the_last_bit(workplace, name, sign):
    command("run", Path("configs") / name)
    image = np.zeros((100, 100))
    image[0:50, 0:40] = 1
    image[50:100, 0:60] = 1
    kernel = sign * np.ones((10, 10))
    kernel[:, :5] *= -1
    want = signal.convolve2d(image, kernel, mode="same", boundary="symm")
    got = zarr.open_array(Path("out") / name.replace("toml", "zarr"), mode="r")
    assert got.dtype == np.float64
    assert np.array_equal(got[...], want)


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


PAGE = ROOT / "docs" / "clusters.md"

# Stands for dask-jobqueue where there is no SLURM: the same calls, on this machine.
FAKE_QUEUE = """
from distributed import LocalCluster


def SLURMCluster(*, queue, cores, processes, memory, walltime, local_directory):
    return LocalCluster(
        n_workers=0, threads_per_worker=1, memory_limit=memory, host="127.0.0.1",
        dashboard_address="127.0.0.1:0", local_directory=local_directory,
    )
"""


def blocks_of(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )


def test_python_blocks_of_the_page_on_clusters_run(workplace):
    Path("dask_jobqueue.py").write_text(FAKE_QUEUE)
    for number, block in enumerate(blocks_of(PAGE, "python")):
        script = Path(f"script{number}.py")
        script.write_text(block)
        done = subprocess.run(
            [sys.executable, str(script)], check=False, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert "tiles" in done.stdout
    first = tifffile.imread("smoother.tif")
    assert np.array_equal(zarr.open_array("queued.zarr", mode="r")[...], first)


def test_console_blocks_of_the_page_on_clusters_run(workplace):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = Path(sys.executable).parent
    started = []
    try:
        for line in "".join(blocks_of(PAGE, "console")).splitlines():
            words = shlex.split(line.replace("8786", str(port)), comments=True)
            if words[0] == "tileconv":
                command(*words[1:])
            else:
                assert words.pop() == "&"
                # A process of its own for all it starts in turn.
                started.append(
                    subprocess.Popen(
                        [str(home / words[0]), *words[1:]],
                        stderr=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
    finally:
        for process in started:
            os.killpg(process.pid, signal_numbers.SIGTERM)
            process.wait(timeout=30)
    assert zarr.open_array("remote.zarr", mode="r").shape == (300, 400)


def test_the_config_of_the_page_on_clusters_runs(workplace):
    (block,) = blocks_of(PAGE, "toml")
    Path("cluster.toml").write_text(block)
    said = json.loads(command("run", "cluster.toml", "--json"))
    assert (said["output"], said["processes_used"]) == ("smooth.tif", 1)  # of one tile
