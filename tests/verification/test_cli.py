"""`tileconv verify`: arguments of convolve or run, a table or JSON, exit code 9."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from tileconv import cli
from tileconv.stopping import Stopped

BOX = ("--kernel", "box:size=4")
CONFIG = """
[input]
path = "slide.tif"
[kernel]
name = "gaussian"
sigma = 1.5
[output]
path = "{name}.zarr"
dtype = "uint8"
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tileconv", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture(autouse=True)
def slide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    tifffile.imwrite("slide.tif", pixels, tile=(64, 64))


def test_the_command_that_made_an_output_verifies_it():
    options = (*BOX, "--origin", "0,-1", "--boundary", "mirror", "--mode", "full")
    options += ("--operation", "correlate", "--overwrite", "--quiet", "--memory", "1GiB")
    assert call("convolve", "slide.tif", "out.tif", *options)[0] == 0
    code, out, err = call("verify", "slide.tif", "out.tif", *options)
    assert (code, err) == (0, "")
    assert "1 of 1 write units" in out
    assert re.search(r"wrong +0 of 122109 values", out)
    code, out, err = call("verify", "slide.tif", "out.tif", *options, "--json", "--all")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["passed"]
    assert told["pixels"] == told["pixels_total"] == 303 * 403
    assert told["memory"]["peak_bytes"] <= told["memory"]["planned_bytes"]


def test_a_wrong_pixel_is_one_line_and_exit_code_9():
    assert call("convolve", "slide.tif", "out.zarr", *BOX, "--tile", "32", "--quiet")[0] == 0
    zarr.open_array("out.zarr", mode="r+")[299, 7] += 0.5
    code, out, err = call("verify", "slide.tif", "out.zarr", *BOX, "--tile", "32")
    assert code == 9
    assert re.fullmatch(
        r"tileconv: error\[9\]: .*out\.zarr.*plane 0, row 299, column 7.*found .*scipy gives .*"
        r"times the bound.*run the job again.*\n",
        err,
    )
    assert "row 299, column 7" in out
    code, out, _ = call("verify", "slide.tif", "out.zarr", *BOX, "--tile", "32", "--json")
    assert code == 9
    told = json.loads(out)
    assert (told["passed"], told["values_out_of_bound"]) == (False, 1)
    assert (told["worst"]["row"], told["worst"]["column"]) == (299, 7)


@pytest.mark.parametrize(
    ("options", "wanted", "says"),
    [
        (("--kernel", "box:size=5"), 9, "times the bound"),
        ((*BOX, "--dtype", "uint8"), 9, "float32"),
        ((*BOX, "--mode", "valid"), 9, "300 x 400"),
        ((*BOX, "--boundary", "wrap"), 9, "times the bound"),
        ((*BOX, "--origin", "1,0"), 9, "times the bound"),
        ((*BOX, "--memory", "9MiB"), 7, "smallest"),
        ((*BOX, "--samples", "-1"), 2, "--samples"),
        ((), 2, "--kernel"),
    ],
)
def test_what_does_not_fit_is_said_with_its_code(options, wanted, says):
    assert call("convolve", "slide.tif", "out.tif", *BOX, "--quiet")[0] == 0
    before = Path("out.tif").read_bytes()
    code, _, err = call("verify", "slide.tif", "out.tif", *options)
    assert code == wanted
    assert re.fullmatch(rf"tileconv: error\[{code}\]: .+\n", err)
    assert says in err
    assert Path("out.tif").read_bytes() == before
    assert sorted(os.listdir()) == ["out.tif", "slide.tif"]


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_the_smallest_cap_is_kept(compression):
    pixels = np.random.default_rng(0).random((1500, 1600))
    tifffile.imwrite("wide.tif", pixels, rowsperstrip=500, compression=compression)
    np.save("kernel.npy", np.random.default_rng(0).normal(size=(25, 31)))
    job = ("wide.tif", "out.zarr", "--kernel", "kernel.npy", "--workers", "2")
    assert call("convolve", *job, "--quiet")[0] == 0
    code, _, err = call("verify", *job, "--memory", "20MiB")
    assert code == 7
    least = err.split("the smallest that can is ")[1].split()[0]
    code, out, err = call("verify", *job, "--memory", f"{least}MiB", "--json", "--quiet")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["memory"]["peak_bytes"] <= told["memory"]["planned_bytes"] <= int(least) << 20
    assert told["share_of_each_tile"] < 1


def test_names_that_are_not_there():
    assert call("verify", "slide.tif", "none.tif", *BOX)[0] == 2
    assert call("verify", "none.tif", "slide.tif", *BOX)[0] == 2
    code, _, err = call("verify", "slide.tif")
    assert code == 2
    assert "verify takes INPUT OUTPUT, or configs" in err


def test_configs_are_verified_one_after_another():
    for name in "ab":
        Path(f"{name}.toml").write_text(CONFIG.format(name=name))
    assert call("run", "a.toml", "b.toml", "--quiet")[0] == 0
    code, out, err = call("verify", "a.toml", "b.toml", "--json", "--samples", "3", "--seed", "5")
    assert (code, err) == (0, "")
    assert [told["output"] for told in json.loads(out)] == ["a.zarr", "b.zarr"]
    zarr.open_array("b.zarr", mode="r+")[0, 0] ^= 4
    code, out, err = call("verify", "a.toml", "b.toml", "--json")
    assert code == 9
    assert [told["passed"] for told in json.loads(out)] == [True, False]
    assert "b.zarr" in err
    assert call("verify", "a.toml", "--dtype", "uint8")[0] == 2


def test_signals_are_looked_at_after_each_tile(monkeypatch):
    assert call("convolve", "slide.tif", "out.tif", *BOX, "--quiet")[0] == 0
    monkeypatch.setattr("tileconv.stopping._Record.number", signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        cli.cli.main(["verify", "slide.tif", "out.tif", *BOX], standalone_mode=False)
    assert stopped.value.exit_code == 143
