"""Options of the command line, and the keys of a config they stand for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import click

Command = Callable[..., None]

# Option names of `convolve`, and the table and key of a config each stands for.
KEYS = {
    "level": ("input", "level"),
    "axes": ("input", "axes"),
    "missing": ("input", "missing"),
    "on_bad_tile": ("input", "on_bad_tile"),
    "operation": ("convolution", "operation"),
    "origin": ("convolution", "origin"),
    "boundary": ("convolution", "boundary"),
    "fill_value": ("convolution", "fill_value"),
    "mode": ("convolution", "mode"),
    "method": ("convolution", "method"),
    "accumulate": ("convolution", "accumulate"),
    "dtype": ("output", "dtype"),
    "overflow": ("output", "overflow"),
    "nan_fill": ("output", "nan_fill"),
    "compression": ("output", "compression"),
    "compression_level": ("output", "compression_level"),
    "tile": ("output", "tile"),
    "overwrite": ("output", "overwrite"),
    "memory": ("run", "memory"),
    "workers": ("run", "workers"),
    "cluster": ("run", "cluster"),
    "durability": ("run", "durability"),
}


def _stack(options: Iterable[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """One decorator of many, in the order in which help shows them."""

    def decorate(command: Command) -> Command:
        for option in reversed(list(options)):
            command = option(command)
        return command

    return decorate


def _origin(_: click.Context, __: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        y, x = (int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not Y,X, two integers like 0,-1") from None
    return [y, x]


def _number(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """An integer where it is written as one: float64 would round large ones."""
    if value is None:
        return None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    raise click.BadParameter(f"{value!r} is not a number like 0.5 or -9999")


place_options = _stack(
    [
        click.option("--level", type=int, help="Level of a pyramid, 0 the largest.  [0]"),
        click.option("--axes", help="Names of the input's axes, like yxs, where it has none."),
    ]
)
input_options = _stack(
    [
        place_options,
        click.option(
            "--missing",
            type=click.Choice(["warn", "fill", "error"]),
            help="Chunks the format allows to be absent: fill and say so, fill, refuse.  [warn]",
        ),
        click.option(
            "--on-bad-tile",
            type=click.Choice(["error", "fill"]),
            help="Tiles or chunks that cannot be read: stop, or fill and list them.  [error]",
        ),
    ]
)
convolution_options = _stack(
    [
        click.option(
            "--kernel",
            metavar="SPEC",
            help="gaussian:sigma=2, gaussian_laplace:sigma=2, box:size=7, sobel:axis=x, "
            "prewitt:axis=y, laplace, identity, or a file: psf.npy, weights.csv, psf.tif.",
        ),
        click.option(
            "--operation",
            type=click.Choice(["convolve", "correlate"]),
            help="Convolution flips the kernel.  [convolve]",
        ),
        click.option(
            "--origin", metavar="Y,X", callback=_origin, help="Moves the kernel's centre.  [0,0]"
        ),
        click.option(
            "--boundary",
            metavar="RULE",
            help="Pixels outside the raster: fill, wrap, symm, nearest, mirror.  [symm]",
        ),
        click.option(
            "--fill-value",
            metavar="NUMBER",
            callback=_number,
            help="Their value under fill, rounded to the dtype of the sums.  [0]",
        ),
        click.option(
            "--mode", type=click.Choice(["full", "same", "valid"]), help="Output size.  [same]"
        ),
        click.option(
            "--method",
            type=click.Choice(["auto", "reference", "direct", "separable", "fft"]),
            help="How the kernel is applied.  [auto]",
        ),
        click.option(
            "--accumulate",
            type=click.Choice(["auto", "float64"]),
            help="Form sums in double precision; the output's dtype stays.  [auto: float32 for "
            "inputs of 16 bits or less and float32, else float64]",
        ),
    ]
)
dtype_options = _stack(
    [
        click.option(
            "--dtype", help="Output dtype, or input.  [float32; float64 for wider inputs]"
        ),
        click.option(
            "--overflow",
            type=click.Choice(["saturate", "error"]),
            help="Values that do not fit an integer dtype.  [saturate]",
        ),
        click.option(
            "--nan-fill",
            metavar="NUMBER",
            callback=_number,
            help="What NaN becomes in an integer dtype.",
        ),
    ]
)
storage_options = _stack(
    [
        click.option(
            "--compression",
            metavar="CODEC",
            help="none, deflate, zstd; lzw for TIFF.  [deflate for TIFF, zstd for Zarr]",
        ),
        click.option("--compression-level", type=int, help="[deflate 6; zstd 1, in TIFF 3]"),
        click.option("--tile", type=int, help="Side of a TIFF tile or Zarr chunk, pixels.  [512]"),
    ]
)
run_options = _stack(
    [
        click.option("--overwrite", is_flag=True, default=None, help="Replace the output."),
        click.option(
            "--restart", is_flag=True, help="Drop what an unfinished run has done already."
        ),
        click.option(
            "--memory",
            metavar="SIZE",
            help="Most memory of each process, like 512MiB.  [a quarter of what it may use]",
        ),
        click.option(
            "--workers", type=int, help="Threads of each process.  [the cores it may use]"
        ),
        click.option(
            "--cluster",
            metavar="ADDRESS",
            help="A dask scheduler, like tcp://10.0.0.1:8786, or local:N for N processes on this "
            "machine.  [none: threads of this process]",
        ),
        click.option(
            "--durability",
            type=click.Choice(["process", "power"]),
            help="What finished tiles survive: the death of the process, or a loss of power, "
            "which takes longer.  [process]",
        ),
    ]
)
debug_option = click.option("--debug", is_flag=True, help="A traceback when it fails.")
json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")
