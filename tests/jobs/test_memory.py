"""The memory promise, measured from outside: peak <= planned <= cap, part by part positive."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile

MIB = 1 << 20

# Runs a command and reports its peak, as the kernel counted it for that process alone.
MEASURE = """
import json, os, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"peak": peak, "code": done.returncode, "report": json.loads(done.stdout)}))
"""


def measured(*arguments, **environment):
    command = [sys.executable, "-m", "tileconv", *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env=os.environ | environment,
    )
    told = json.loads(done.stdout)
    assert told["code"] == 0
    return told["peak"], told["report"]["memory"]


@pytest.fixture(scope="module")
def rasters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rasters")
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (5000, 6000), np.uint8)
    tifffile.imwrite(folder / "grey.tif", grey, tile=(512, 512), compression="deflate")
    tifffile.imwrite(folder / "strips.tif", grey, rowsperstrip=64, compression="zstd")
    rgb = rng.integers(0, 255, (2500, 3000, 3), np.uint8)
    tifffile.imwrite(
        folder / "rgb.tif", rgb, tile=(240, 240), compression="jpeg", photometric="rgb"
    )
    np.save(folder / "wide.npy", rng.random((3000, 4000)))
    return folder


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("output", ["out.tif", "out.zarr"])
@pytest.mark.parametrize(
    ("source", "kernel", "cap"),
    [
        ("grey.tif", "gaussian:sigma=3", "512MiB"),
        ("grey.tif", "full.npy", "400MiB"),
        ("strips.tif", "box:size=31", "400MiB"),
        ("rgb.tif", "gaussian:sigma=2", "512MiB"),
        ("wide.npy", "sobel", "512MiB"),
    ],
)
def test_measured_peak_is_below_planned_peak_is_below_cap(
    rasters, tmp_path, source, kernel, cap, output, workers
):
    if kernel.endswith(".npy"):
        np.save(tmp_path / kernel, np.random.default_rng(1).normal(size=(41, 38)))
        kernel = tmp_path / kernel
    peak, memory = measured(
        *("convolve", rasters / source, tmp_path / output, "--kernel", kernel),
        *("--memory", cap, "--workers", workers),
    )
    assert peak <= memory["planned_bytes"] <= memory["cap_bytes"], {
        name: value / MIB for name, value in (memory | {"measured": peak}).items()
    }
    assert memory["peak_bytes"] <= peak * 1.02 + MIB


@pytest.mark.parametrize("kernel", ["gaussian:sigma=3", "box:size=70"])
def test_compiling_is_in_the_plan(rasters, tmp_path, kernel):
    cold = {"NUMBA_CACHE_DIR": str(tmp_path / "compiled")}
    arguments = ["convolve", rasters / "grey.tif", tmp_path / "out.tif", "--kernel", kernel]
    peak, memory = measured(*arguments, "--memory", "300MiB", "--dtype", "uint8", **cold)
    assert peak <= memory["planned_bytes"] <= memory["cap_bytes"]
    arguments = ["sample", tmp_path / "made.tif", "--shape", "2000x3000x3"]
    peak, memory = measured(*arguments, "--memory", "320MiB", **cold)
    assert peak <= memory["planned_bytes"] <= memory["cap_bytes"]


def test_the_smallest_cap_a_refusal_names_is_kept(rasters, tmp_path):
    arguments = ["convolve", rasters / "grey.tif", tmp_path / "out.tif", "--kernel", "laplace"]
    arguments += ["--workers", "2"]
    command = [sys.executable, "-m", "tileconv", *map(str, arguments), "--memory", "30MiB"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 7
    least = refused.stderr.split("the smallest that can is ")[1].split()[0]
    peak, memory = measured(*arguments, "--memory", f"{least}MiB")
    assert peak <= memory["cap_bytes"] == int(least) * MIB
