"""The command line: help, options, exit codes, and one line for each mistake."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import psutil
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from scipy import ndimage

from tileconv import cli
from tileconv.jobs.config import Convolution, Input, Output
from tileconv.jobs.journal import has_tiles

GAUSS = ("--kernel", "gaussian:sigma=2")


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "tileconv", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def call(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    tifffile.imwrite("slide.tif", pixels, tile=(64, 64))
    return pixels


def test_convolve_with_every_option(slide):
    code, out, err = call(
        *("convolve", "slide.tif", "out.zarr", "--kernel", "box:size=3", "--operation"),
        *("correlate", "--origin", "0,-1", "--boundary", "fill", "--fill-value", "7"),
        *("--mode", "same", "--method", "direct", "--dtype", "int16", "--overflow", "error"),
        *("--nan-fill", "0", "--compression", "none", "--tile", "128", "--level", "0"),
        *("--missing", "error", "--memory", "1GB", "--workers", "1", "--json", "--quiet"),
        *("--axes", "yx", "--accumulate", "float64"),
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["tiles"] > 0
    want = ndimage.correlate(
        slide.astype(float), np.full((3, 3), 1 / 9), mode="constant", cval=7, origin=(0, -1)
    )
    assert np.abs(zarr.open_array("out.zarr", mode="r")[...] - want).max() <= 0.5 + 1e-3


def test_results_go_to_stdout_and_progress_to_stderr(slide):
    code, out, err = call("convolve", "slide.tif", "out.tif", *GAUSS, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["memory"]["peak_bytes"] <= report["memory"]["planned_bytes"]
    assert report["memory"]["planned_bytes"] <= report["memory"]["cap_bytes"]
    assert "Mpx/s" in err
    assert call("convolve", "slide.tif", "o2.tif", *GAUSS, "--quiet") == (0, "", "")


def test_plan_writes_nothing(slide):
    code, out, err = call("plan", "slide.tif", "out.tif", *GAUSS, "--memory", "1GiB")
    assert (code, err) == (0, "")
    assert "interpreter and libraries" in out
    Path("job.toml").write_text(
        '[input]\npath = "slide.tif"\n[kernel]\nname = "box"\n[output]\npath = "o.zarr"\n'
    )
    code, out, _ = call("plan", "job.toml", "--json", "--workers", "1")
    assert code == 0
    assert json.loads(out)["workers"] == 1
    assert sorted(os.listdir()) == ["job.toml", "slide.tif"]


def test_info(slide):
    code, out, _ = call("info", "slide.tif", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["shape"], told["dtype"], told["chunk"]) == ([300, 400], "uint8", [64, 64])
    assert "300 x 400" in call("info", "slide.tif")[1]


def test_samples_are_the_same_whatever_the_workers(tmp_path):
    for workers in (1, 3):
        path = tmp_path / f"s{workers}.tif"
        assert call("sample", path, "--shape", "600x700", "--workers", workers)[0] == 0
    first, second = (tifffile.imread(tmp_path / f"s{w}.tif") for w in (1, 3))
    assert np.array_equal(first, second)
    assert first.std() > 1


WRONG = {
    "no input": (("convolve", "none.tif", "o.tif", *GAUSS), 2, "none.tif does not exist"),
    "no format": (("convolve", "noise.tif", "o.tif", *GAUSS), 3, "noise.tif"),
    "no kernel": (("convolve", "slide.tif", "o.tif"), 2, "--kernel is missing"),
    "odd kernel": (("convolve", "slide.tif", "o.tif", "--kernel", "gausian"), 2, "gaussian"),
    "kernel file": (("convolve", "slide.tif", "o.tif", "--kernel", "k.npy"), 2, "k.npy"),
    "pickle": (("convolve", "slide.tif", "o.tif", "--kernel", "pickle.npy"), 2, "pickle"),
    "3-D kernel": (("convolve", "slide.tif", "o.tif", "--kernel", "cube.npy"), 2, "2"),
    "empty kernel": (("convolve", "slide.tif", "o.tif", "--kernel", "empty.npy"), 2, "empty"),
    "ending": (("convolve", "slide.tif", "o.jpg", *GAUSS), 2, ".tif"),
    "exists": (("convolve", "slide.tif", "there.tif", *GAUSS), 4, "--overwrite"),
    "itself": (("convolve", "slide.tif", "slide.tif", *GAUSS), 2, "is the input"),
    "inside": (("convolve", "in.zarr", "in.zarr/o.zarr", *GAUSS), 2, "inside the input"),
    "cap": (("convolve", "slide.tif", "o.tif", *GAUSS, "--memory", "9MiB"), 7, "smallest"),
    "size": (("convolve", "slide.tif", "o.tif", *GAUSS, "--memory", "lots"), 2, "512MiB"),
    "option": (("convolve", "slide.tif", "o.tif", "--sigma", "2"), 2, "--sigma"),
    "choice": (("convolve", "slide.tif", "o.tif", *GAUSS, "--mode", "sam"), 2, "'same'"),
    "boundary": (("convolve", "slide.tif", "o.tif", *GAUSS, "--boundary", "edge"), 2, "nearest"),
    "dtype": (("convolve", "slide.tif", "o.tif", *GAUSS, "--dtype", "int7"), 2, "int7"),
    "origin": (("convolve", "slide.tif", "o.tif", *GAUSS, "--origin", "5"), 2, "Y,X"),
    "level": (("convolve", "slide.tif", "o.tif", *GAUSS, "--level", "3"), 2, "level"),
    "codec": (("convolve", "slide.tif", "o.tif", *GAUSS, "--compression", "rar"), 2, "deflate"),
    "config": (("run", "none.toml"), 2, "none.toml"),
    "key": (("run", "typo.toml"), 2, "unknown key kernel.sgma"),
    "stray": (("plan", "typo.toml", "--dtype", "uint8"), 2, "--dtype"),
    "method": (
        ("convolve", "slide.tif", "o.tif", "--kernel", "full.npy", "--method", "separable"),
        2,
        "separable",
    ),
    "command": (("convolv", "slide.tif"), 2, "convolv"),
    "sample": (("sample", "s.tif", "--shape", "3"), 2, "3"),
    "nothing": (("sample", "s.tif", "--shape", "0x0"), 2, "0x0"),
    "no memory": (("convolve", "slide.tif", "o.tif", *GAUSS, "--memory", "0"), 2, "positive"),
    "no workers": (("plan", "slide.tif", "o.tif", *GAUSS, "--workers", "0"), 2, "workers"),
    "many": (("plan", "slide.tif", "o.tif", *GAUSS, "--workers", "1000000000"), 7, "smallest"),
    "no tile": (("convolve", "slide.tif", "o.tif", *GAUSS, "--tile", "0"), 2, "tile"),
    "no level": (("convolve", "slide.tif", "o.tif", *GAUSS, "--level", "-1"), 2, "level"),
    "no path": (("convolve", "slide.tif", "", *GAUSS), 2, "output.path"),
    "odd name": (("info", "\udcff\x1b[2J\n.tif"), 2, r"\udcff\x1b[2J .tif does not exist"),
    "circle": (("convolve", "loop.tif", "o.tif", *GAUSS), 3, "input loop.tif"),
    "through a link": (
        ("convolve", "slide.tif", "link.tif", *GAUSS, "--overwrite"),
        2,
        "is the in",
    ),
    "in a file": (("convolve", "slide.tif", "slide.tif/o.tif", *GAUSS), 2, "inside the input"),
    "under a file": (("convolve", "slide.tif", "noise.tif/o.tif", *GAUSS), 2, "is not a folder"),
    "no TIFF kernel": (("plan", "slide.tif", "o.tif", "--kernel", "cycle.tif"), 2, "cycle.tif"),
    "configs": (("run", "good.toml", "typo.toml"), 2, "typo.toml"),
    "kernels": (("run", "good.toml", "odd.toml"), 2, "odd.toml: unknown kernel 'bix'"),
    "outputs": (("run", "good.toml", "same.toml"), 2, "is that of good.toml"),
    "twice": (("run", "good.toml", "good.toml"), 2, "is that of good.toml"),
    "large port": (
        ("plan", "slide.tif", "o.tif", *GAUSS, "--cluster", "tcp://h:70000"),
        2,
        "70000",
    ),
    "local:0": (("convolve", "slide.tif", "o.tif", *GAUSS, "--cluster", "local:0"), 2, "local:N"),
    "address": (("convolve", "slide.tif", "o.tif", *GAUSS, "--cluster", "here"), 2, "local:N"),
    "port": (("plan", "slide.tif", "o.tif", *GAUSS, "--cluster", "tcp://host"), 2, "tcp://host"),
    "nobody": (
        ("convolve", "slide.tif", "o.tif", *GAUSS, "--cluster", "tcp://127.0.0.1:1"),
        8,
        "no scheduler answers at tcp://127.0.0.1:1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_with_its_exit_code_and_makes_nothing(slide, name, monkeypatch):
    # dask waits for a scheduler that may be about to start.
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "500ms")
    Path("noise.tif").write_bytes(b"nothing that is a raster")
    Path("there.tif").write_bytes(b"there")
    Path("typo.toml").write_text(
        '[input]\npath="slide.tif"\n[kernel]\nsgma = 2\n[output]\npath="o"\n'
    )
    good = '[input]\npath="slide.tif"\n[kernel]\nname="box"\n[output]\npath="new.tif"\n'
    Path("good.toml").write_text(good)
    Path("same.toml").write_text(good)
    Path("odd.toml").write_text(good.replace("box", "bix").replace("new", "other"))
    # Its only directory follows itself.
    Path("cycle.tif").write_bytes(b"II*\0\x08\0\0\0" + bytes(2) + b"\x08\0\0\0")
    Path("loop.tif").symlink_to("loop.tif")
    Path("link.tif").symlink_to("slide.tif")
    np.save("pickle.npy", np.array([[object()]]), allow_pickle=True)
    np.save("cube.npy", np.ones((3, 3, 3)))
    np.save("empty.npy", np.ones((0, 3)))
    np.save("full.npy", np.random.default_rng(0).normal(size=(5, 5)))
    zarr.create_array("in.zarr", shape=(9, 9), dtype="f4")[...] = 1
    before = sorted(str(path) for path in Path().rglob("*"))
    arguments, wanted, says = WRONG[name]
    code, out, err = call(*arguments)
    assert code == wanted, err
    assert re.fullmatch(rf"(waiting for .+\n)?tileconv: error\[{code}\]: .+\n", err)
    assert says in err
    assert out == ""
    assert sorted(str(path) for path in Path().rglob("*")) == before


def test_a_local_cluster_is_shown_summed_up_and_listens_to_this_machine_only(slide):
    process = start(
        *("convolve", "slide.tif", "out.tif", *GAUSS, "--cluster", "local:2", "--workers", "1"),
        *("--memory", "400MiB", "--json"),
    )
    listening = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid)
            for one in (family, *family.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    for socket in one.net_connections("inet"):
                        if socket.status == psutil.CONN_LISTEN:
                            listening.add((one.pid, socket.laddr.ip))
        time.sleep(0.05)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    # The scheduler and its dashboard, the workers and who watches over them.
    assert len({pid for pid, _ in listening}) >= 2
    assert {address for _, address in listening} == {"127.0.0.1"}
    assert json.loads(out)["tiles"] > 0
    link, heading, *summary = err.splitlines()
    assert re.fullmatch(r"dashboard: http://127\.0\.0\.1:\d+/status", link)
    told = re.search(r", 2 processes of 1 \w+, (\d+) of 400 MiB each, (\d+) MiB in all$", heading)
    each, total = told.groups()
    assert 0 <= int(total) - 2 * int(each) <= 1
    assert re.match(r"out\.tif: \d+ tiles in \S+ s, \S+ Mpx/s", summary[0])
    assert re.search(r"\d+ MiB/s decoded, \d+ MiB/s stored$", summary[1])
    want = ndimage.gaussian_filter(slide.astype(float), 2, mode="reflect")
    assert np.abs(tifffile.imread("out.tif") - want).max() < 0.01


@pytest.mark.parametrize("kind", ["tif", "zarr", "toml", "npy"])
def test_what_may_not_be_read_is_found_before_anything_is_made(slide, kind, unprivileged):
    """As a user who may not: root may read everything."""
    Path("job.toml").write_text(
        '[input]\npath="slide.tif"\n[kernel]\nname="box"\n[output]\npath="o.tif"\n'
    )
    zarr.create_array("in.zarr", shape=(9, 9), dtype="f4")[...] = 1
    np.save("kernel.npy", np.ones((3, 3)))
    closed, arguments, wanted = {
        "tif": ("slide.tif", ("convolve", "slide.tif", "o.tif", *GAUSS), 3),
        "zarr": ("in.zarr", ("convolve", "in.zarr", "o.tif", *GAUSS), 3),
        "toml": ("job.toml", ("run", "job.toml"), 2),
        "npy": ("kernel.npy", ("convolve", "slide.tif", "o.tif", "--kernel", "kernel.npy"), 2),
    }[kind]
    Path(closed).chmod(0)
    code, _, err = unprivileged(*arguments)
    Path(closed).chmod(0o700)
    assert code == wanted, err
    assert re.fullmatch(rf"tileconv: error\[{code}\]: .*{closed}.*Permission denied.*\n", err)
    assert not list(Path().glob("*o.tif*"))


def test_where_nothing_may_be_written_is_found_before_anything_is_done(slide, unprivileged):
    Path("shut").mkdir(mode=0o555)
    for output in ("shut/o.tif", "shut/deep/er/o.zarr"):
        for command in ("convolve", "plan"):
            code, out, err = unprivileged(command, "slide.tif", output, *GAUSS)
            assert (code, out) == (6, ""), err
            assert re.fullmatch(r"tileconv: error\[6\]: .*shut: permission denied.*\n", err)


@pytest.fixture
def unprivileged(tmp_path):
    """Calls the command line as a user who owns nothing here; skips where that cannot be."""
    if os.geteuid() != 0:
        return call
    code = """
import os, sys
sys.path[:] = [path for path in sys.path if path]
from tileconv import __main__, cli
import encodings.utf_8_sig, tileconv.jobs.run, tileconv.jobs.describe, tileconv.jobs.progress
import tileconv.stores.kernel_file, tileconv.stores.tiff.reader, tileconv.stores.zarr.reader
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
__main__.main()
"""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)

    def called(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return called


def test_debug_shows_the_traceback(slide):
    _, _, err = call("convolve", "slide.tif", "o.tif", *GAUSS, "--memory", "9MiB", "--debug")
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("tileconv: error[7]")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_with_their_code_and_leave_no_more_than_what_is_done(tmp_path, number):
    process = start("sample", tmp_path / "s.tif", "--shape", "200000x200000", "--workers", "2")
    staging = tmp_path / ".s.tif.tileconv"
    deadline = time.monotonic() + 60
    while not any(staging.glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1].startswith(f"tileconv: error[{128 + number}]")
    # What was finished is kept, if anything was; the output's name is not taken.
    assert os.listdir(tmp_path) == ([staging.name] if has_tiles(staging) else [])


def test_a_pipe_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    code, _, err = call("info", tmp_path / "pipe.tif")
    assert code == 3
    assert "no regular file" in err


def test_an_output_that_cannot_be_printed_does_not_lose_the_run(slide):
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "tileconv", "convolve", "slide.tif", "out.tif", *GAUSS],
            stderr=full,
            check=False,
        )
        assert process.returncode == 0
        assert Path("out.tif").exists()
        process = subprocess.run(
            [sys.executable, "-m", "tileconv", "info", "slide.tif", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
        assert process.returncode == 6


@pytest.mark.parametrize("arguments", [("--help",), ("info", "slide.tif"), ()])
def test_a_pipe_that_nobody_reads_and_a_full_disk_are_one_line(slide, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    for stdout in (writer, full):
        done = subprocess.run(
            [sys.executable, "-m", "tileconv", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        # Without a command the help is for stderr, and that is the mistake.
        assert done.returncode == (6 if arguments else 2)
        assert done.stderr.count("tileconv: error[") == 1
        assert done.stderr.splitlines()[-1].startswith("tileconv: error[")
        os.close(stdout)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed_are_not_taken_for_files(slide, closed):
    """The first file that is opened gets the number of stderr, and what is printed with it."""

    def close():
        for number in closed:
            os.close(number)

    job = ("convolve", "slide.tif", "out.tif", *GAUSS, "--tile", "64")
    process = start(*job, preexec_fn=close)
    process.communicate(timeout=60)
    assert process.returncode == 0
    want = ndimage.gaussian_filter(slide.astype(float), 2, mode="reflect")
    assert np.abs(tifffile.imread("out.tif") - want).max() < 0.01
    process = start("info", "slide.tif", preexec_fn=close)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (6 if 1 in closed else 0)
    assert ("which is closed" in err) == (closed == (1,))


def test_libraries_do_not_print(slide):
    """Weights that overflow, which numpy warns of, and whatever else there may be."""
    np.save("large.npy", np.full((3, 3), 1e300))
    job = ("plan", "slide.tif", "o.tif", "--kernel", "large.npy", "--dtype", "float32")
    code = """
import logging, sys, warnings
from tileconv import __main__
from tileconv.jobs import run
usual = run.check_names
def check_names(job):
    warnings.warn("a warning")
    logging.getLogger("library").error("an error")
    usual(job)
run.check_names = check_names
__main__.main()
"""
    for more, says in (((), ""), (("--debug",), "a warning")):
        done = subprocess.run(
            [sys.executable, "-c", code, *job, *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert says in done.stderr
        assert says or not done.stderr


def test_no_memory_is_said_to_be_that(slide):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))

    code, _, err = call(
        *("convolve", "slide.tif", "o.tif", "--kernel", "box:size=4001", "--quiet"),
        preexec_fn=limit,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert code == 7, err
    assert re.fullmatch(r"tileconv: error\[7\]: the system gave no more memory.+\n", err)


def test_the_first_of_many_failures_is_told_and_no_other(slide):
    """Every tile fails, on four threads."""
    pixels = np.full((512, 512), np.nan, np.float32)
    tifffile.imwrite("nan.tif", pixels, tile=(64, 64))
    code = """
from tileconv import __main__
from tileconv.jobs import plan
plan.MAX_TILE_PIXELS = 1
__main__.main()
"""
    job = ("convolve", "nan.tif", "o.tif", *GAUSS, "--dtype", "uint8", "--tile", "64", "--quiet")
    done = subprocess.run(
        [sys.executable, "-c", code, *job, "--workers", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert re.fullmatch(r"tileconv: error\[3\]: \d+ NaN in tile \d+, .+\n", done.stderr)
    assert sorted(os.listdir()) == ["nan.tif", "slide.tif"]


def test_several_configs_give_one_json_document(slide):
    for name in "ab":
        Path(f"{name}.toml").write_text(
            f'[input]\npath="slide.tif"\n[kernel]\nname="box"\n[output]\npath="{name}.tif"\n'
        )
    code, out, _ = call("run", "a.toml", "b.toml", "--json", "--quiet")
    assert code == 0
    assert [report["output"] for report in json.loads(out)] == ["a.tif", "b.tif"]
    Path("b.toml").write_text(
        '[input]\npath="slide.tif"\n[kernel]\nname="bix"\n[output]\npath="c.tif"\n'
    )
    code, _, err = call("run", "b.toml", "--quiet")
    assert code == 2
    assert "b.toml: unknown kernel 'bix'" in err


def test_help_of_every_command_names_its_options():
    runner = CliRunner()
    assert "Examples:" in runner.invoke(cli.cli, ["--help"]).output
    for name, command in cli.cli.commands.items():
        text = runner.invoke(cli.cli, [name, "--help"]).output
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in text
                assert parameter.help or parameter.default is not None, parameter.name


def test_defaults_in_help_are_the_configs():
    text = CliRunner().invoke(cli.cli, ["convolve", "--help"], terminal_width=200).output
    usual = {
        "--operation": Convolution().operation,
        "--boundary": Convolution().boundary,
        "--fill-value": f"{Convolution().fill_value:g}",
        "--mode": Convolution().mode,
        "--method": Convolution().method,
        "--origin": ",".join(map(str, Convolution().origin)),
        "--overflow": Output(path="x").overflow,
        "--missing": Input(path="x").missing,
        "--level": str(Input(path="x").level),
    }
    for option, default in usual.items():
        section = re.search(rf"^  {option} .*?(?=^  -|\Z)", text, flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r"\[([^\[\]]*)\]", section[0])[-1] == default


def test_help_imports_nothing_heavy():
    code = "import sys, tileconv.cli; print(sorted(set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "dask", "msgspec", "rich", "numba"} & set(eval(done.stdout))
