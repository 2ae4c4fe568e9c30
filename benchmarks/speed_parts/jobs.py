"""What the speed benchmark runs: jobs, their peers and floors, and targets of the ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MEMORY_JOB = "memory"
"""Name of the part that works on one array in memory."""
START_SIDE = 8192
"""Side of the rasters of the jobs that are small in every benchmark."""
ALL_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Peer:
    """What takes turns with tileconv in a job.

    Parameters
    ----------
    name : str
        For people.
    group : str
        What ``--peers`` calls it.
    packages : tuple of str
        What has to be installed.
    command : tuple of str
        Script in ``peers/``, and what follows input and output on its command line. Of
        ``{folder}``, ``{threads}`` and ``{result}`` (our output, uncompressed) the runner
        knows the values.
    suffix : str
        Ending of its output.
    target : float or None
        Our time over its time, at most.
    comparison : str
        ``exact``: its pixels are ours but for rounding; ``approximate``: differences are only
        said; ``none``: it has no pixels.
    rounds : int
        Most rounds it is given.
    """

    name: str
    group: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    suffix: str
    target: float | None
    comparison: Literal["exact", "approximate", "none"] = "exact"
    rounds: int = ALL_ROUNDS


@dataclass(frozen=True, slots=True)
class Job:
    """One convolution of one file into another.

    Parameters
    ----------
    name : str
        What ``--job`` calls it.
    title : str
        For people.
    input : str
        ``raw``, ``deflate`` or ``zstd``.
    kernel : str
        As ``tileconv convolve --kernel`` takes it; ``{folder}`` holds the files.
    output : tuple of str
        Ending, dtype and compression of our output.
    peers : tuple of Peer
    side : int or None
        Most rows and columns, if not the benchmark's; the table then says them.
    quick : bool
        Whether it is part of the quick benchmark.
    """

    name: str
    title: str
    input: Literal["raw", "deflate", "zstd"]
    kernel: str
    output: tuple[str, str, str]
    peers: tuple[Peer, ...]
    side: int | None = None
    quick: bool = True


def libvips(name: str, target: float, *command: str, rounds: int = ALL_ROUNDS) -> Peer:
    """libvips, which quantises weights unless its precision is float."""
    integer = "integer" in command or "gaussblur" in command
    return Peer(
        name=f"libvips {name}",
        group="libvips",
        packages=("pyvips",),
        command=("vips.py", *command),
        suffix=".tif",
        target=target,
        comparison="approximate" if integer else "exact",
        rounds=rounds,
    )


def on_dask(group: str, size: int, target: float, compression: str, rounds: int) -> Peer:
    """dask-image, or oaconvolve inside map_overlap, into a Zarr of float32."""
    script = {
        "dask-image": "dask_image_convolve.py",
        "oaconvolve": "overlap_oaconvolve.py",
    }[group]
    kernel = f"{{folder}}/dense-{size}.npy"
    return Peer(
        name="dask-image" if group == "dask-image" else "map_overlap + oaconvolve",
        group=group,
        packages=("dask_image",) if group == "dask-image" else (),
        command=(
            script,
            *("--kernel", kernel, "--compression", compression, "--threads", "{threads}"),
        ),
        suffix=".zarr",
        target=target,
        rounds=rounds,
    )


def floor(name: str, target: float | None, *command: str) -> Peer:
    """Something that does less than any convolution."""
    command += ("--threads", "{threads}")
    return Peer(f"floor: {name}", "floors", (), command, ".bin", target, comparison="none")


def dense(size: int) -> str:
    """The file of a dense kernel."""
    return f"{{folder}}/dense-{size}.npy"


RAW = (".tif", "uint8", "none")
RAW_FLOATS = (".tif", "float32", "none")
ZARR_FLOATS = (".zarr", "float32", "none")


def large(size: int, *, rounds: int, quick: bool) -> Job:
    """A dense kernel that is summed by FFTs, into a Zarr of float32."""
    return Job(
        f"dense-{size}",
        f"{size}x{size} dense, raw TIFF to raw Zarr float32",
        "raw",
        dense(size),
        ZARR_FLOATS,
        (on_dask("oaconvolve", size, 0.25, "none", rounds),),
        quick=quick,
    )


JOBS = (
    Job(
        "dense-7",
        "7x7 dense, raw to raw uint8",
        "raw",
        dense(7),
        RAW,
        (
            libvips("conv, float", 0.25, "conv", "--kernel", dense(7)),
            libvips("conv, integer", 1.0, "conv", "--kernel", dense(7), "--precision", "integer"),
            on_dask("dask-image", 7, 0.15, "none", rounds=2),
            floor("copy of raw tiles", None, "copy_floor.py"),
        ),
    ),
    Job(
        "dense-3",
        "3x3 dense, raw to raw uint8",
        "raw",
        dense(3),
        RAW,
        (libvips("conv, float", 0.4, "conv", "--kernel", dense(3)),),
    ),
    Job(
        "deflate-7",
        "7x7 dense, deflate to deflate uint8",
        "deflate",
        dense(7),
        (".tif", "uint8", "deflate"),
        (
            libvips("conv, float", 0.4, "conv", "--kernel", dense(7), "--compression", "deflate"),
            floor("codec alone", 1.15, "codec_floor.py", "--result", "{result}"),
        ),
    ),
    Job(
        "gaussian-5",
        "Gaussian sigma 5, raw to raw uint8",
        "raw",
        "gaussian:sigma=5",
        RAW,
        (libvips("gaussblur", 1.0, "gaussblur", "--sigma", "5"),),
    ),
    Job(
        "separable-31",
        "separable Gaussian 31 taps, raw to raw float32",
        "raw",
        "gaussian:sigma=3.75",
        RAW_FLOATS,
        (
            libvips(
                "convsep, float",
                0.35,
                *("convsep", "--kernel", "{folder}/gaussian-31.npy", "--dtype", "float32"),
            ),
        ),
    ),
    large(31, rounds=2, quick=True),
    Job(
        "dense-31-8192",
        "31x31 dense, raw to raw float32",
        "raw",
        dense(31),
        RAW_FLOATS,
        (
            libvips(
                "conv, float",
                0.05,
                *("conv", "--kernel", dense(31), "--dtype", "float32"),
                rounds=1,
            ),
        ),
        side=START_SIDE,
        quick=False,
    ),
    large(127, rounds=1, quick=False),
    large(255, rounds=1, quick=False),
    Job(
        "box-101",
        "uniform 101x101, raw to raw uint8",
        "raw",
        "box:size=101",
        RAW,
        (libvips("convsep, float", 0.15, "convsep", "--kernel", "{folder}/box-101.npy", rounds=1),),
        quick=False,
    ),
    Job(
        "zarr-7",
        "7x7 dense, Zarr to Zarr (zstd) float32",
        "zstd",
        dense(7),
        (".zarr", "float32", "zstd"),
        (on_dask("dask-image", 7, 0.25, "zstd", rounds=2),),
    ),
    Job(
        "start-8192",
        "7x7 dense, raw to raw uint8",
        "raw",
        dense(7),
        RAW,
        (libvips("conv, float", 1.0, "conv", "--kernel", dense(7)),),
        side=START_SIDE,
        quick=False,
    ),
)

GROUPS = ("libvips", "dask-image", "oaconvolve", "opencv", "floors")
"""What --peers takes; opencv is the part in memory."""
EXTRAS = {"pyvips": "pyvips", "dask_image": "dask-image", "cv2": "opencv-python-headless"}
"""Packages by the names pip knows them by."""
