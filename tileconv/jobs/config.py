"""What the user wrote, checked: a job, from a TOML file, a mapping or the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, get_args, get_type_hints

import msgspec
import numpy as np

from tileconv.core.boundary import boundary_named
from tileconv.core.kernels import Kernel, centred_kernel, named_weights
from tileconv.core.operation import Mode, Operation
from tileconv.errors import ConfigError
from tileconv.jobs.spelling import (
    Size,
    as_float,
    parse_dtype,
    parse_shape,
    parse_size,
    parse_weights,
)
from tileconv.jobs.toml_file import read_toml

Count = Annotated[int, msgspec.Meta(ge=1)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of a job: unknown keys and wrong types are refused."""


class Input(_Table, frozen=True, kw_only=True):
    """``[input]``: a file, or a made-up raster."""

    path: str | None = None
    sample: Literal["slide", "step", "zoneplate"] | None = None
    shape: str | list[int] | None = None
    dtype: str | None = None
    seed: int | None = None
    axes: str | None = None
    level: Annotated[int, msgspec.Meta(ge=0)] = 0
    missing: Literal["warn", "fill", "error"] = "warn"
    on_bad_tile: Literal["error", "fill"] = "error"

    def __post_init__(self) -> None:
        if (self.path is None) == (self.sample is None):
            raise ValueError("give either input.path or input.sample")
        if self.sample is not None and self.shape is None:
            raise ValueError("input.sample needs input.shape, like '16384x16384'")
        of_samples, of_files = ("shape", "dtype", "seed"), ("axes", "level")
        stray = of_samples if self.path is not None else of_files
        for key in stray:
            if getattr(self, key):
                owner = "input.sample" if stray is of_samples else "input.path"
                raise ValueError(f"input.{key} belongs to {owner}; leave it out")

    def made_up(self) -> tuple[str, tuple[int, ...], np.dtype, int]:
        """Pattern, shape, dtype and seed of the made-up raster; ``step`` is float64 unless told."""
        assert self.sample is not None
        assert self.shape is not None
        usual = "float64" if self.sample == "step" else "uint8"
        dtype = parse_dtype(self.dtype or usual, "input.dtype")
        return self.sample, parse_shape(self.shape), dtype, self.seed or 0


class KernelSpec(_Table, frozen=True, kw_only=True):
    """``[kernel]``: a name with its parameters, a file, or the weights themselves."""

    name: str | None = None
    sigma: float | None = None
    truncate: float | None = None
    size: int | None = None
    axis: str | None = None
    file: str | None = None
    weights: list[list[int | float]] | None = None

    def __post_init__(self) -> None:
        given = [k for k in ("name", "file", "weights") if getattr(self, k) is not None]
        if len(given) != 1:
            what = " and ".join(f"kernel.{key}" for key in given) or "none"
            raise ValueError(f"give one of kernel.name, kernel.file, kernel.weights; got {what}")
        if self.name is None and self.parameters:
            raise ValueError(
                f"kernel.{next(iter(self.parameters))} belongs to kernel.name, "
                f"not to kernel.{given[0]}"
            )

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters of a named kernel that were given."""
        keys = ("sigma", "truncate", "size", "axis")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}


class Convolution(_Table, frozen=True, kw_only=True):
    """``[convolution]``: how the kernel is applied."""

    operation: Literal["convolve", "correlate"] = "convolve"
    origin: tuple[int, int] = (0, 0)
    boundary: str = "symm"
    fill_value: int | float = 0.0
    mode: Literal["full", "same", "valid"] = "same"
    method: Literal["auto", "reference", "direct", "separable", "fft"] = "auto"
    accumulate: Literal["auto", "float64"] = "auto"


class Output(_Table, frozen=True, kw_only=True):
    """``[output]``: where the result goes, and in what form."""

    path: str
    dtype: str | None = None
    overflow: Literal["saturate", "error"] = "saturate"
    nan_fill: int | float | None = None
    compression: str | None = None
    compression_level: int | None = None
    tile: Count | None = None
    overwrite: bool = False


class Run(_Table, frozen=True, kw_only=True):
    """``[run]``: what the machine may give."""

    memory: Size | None = None
    workers: Count | None = None
    cluster: str | None = None
    durability: Literal["process", "power"] = "process"

    def __post_init__(self) -> None:
        if self.cluster is not None:
            local_workers(self.cluster)

    @property
    def durable(self) -> bool:
        """Whether what is done must survive a loss of power, not only the end of the process."""
        return self.durability == "power"


_ADDRESS = r"((tcp|tls|ucx|ucxx|ws|wss)://)?[^\s/]+:(?P<port>\d{1,5})"


def local_workers(cluster: str) -> int | None:
    """Processes of the cluster ``"local:N"``; None for the address of a scheduler.

    Raises
    ------
    ConfigError
        It is neither.
    """
    if number := re.fullmatch(r"local:([1-9]\d{0,3})", cluster):
        return int(number[1])
    address = re.fullmatch(_ADDRESS, cluster)
    if cluster.startswith("local:") or address is None or int(address["port"]) >= 1 << 16:
        raise ConfigError(
            f"run.cluster {cluster!r} is no cluster; use local:N for N processes on this "
            "machine, or the address of a dask scheduler like tcp://10.0.0.1:8786"
        )
    return None


class Job(_Table, frozen=True, kw_only=True):
    """A raster, a kernel, how to apply it, and where the result goes.

    Build one with `Job.load` from a TOML file or `Job.of` from a mapping of the same
    tables; both check every key and type.

    Parameters
    ----------
    input, kernel, convolution, output, run
        The tables of a config.
    folder : str
        What relative paths are relative to: the config's own folder.
    """

    input: Input
    kernel: KernelSpec
    output: Output
    convolution: Convolution = Convolution()
    run: Run = Run()
    folder: str = "."

    @classmethod
    def of(cls, tables: Mapping[str, object], *, folder: str | Path = ".") -> Self:
        """A job from a mapping of tables.

        Raises
        ------
        ConfigError
            Naming the key, what was found there and what is allowed.
        """
        if "folder" in tables:
            raise ConfigError("unknown key folder; relative paths go by the config's own folder")
        try:
            job = msgspec.convert({**tables, "folder": str(folder)}, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(_readable(str(error))) from None
        for key, path in job.paths.items():
            if not path or "\0" in path:
                raise ConfigError(f"{key} {path!r} is no path; give the name of a file")
        job.output_dtype(np.dtype(np.uint8))
        if job.run.memory is not None:
            parse_size(job.run.memory)
        boundary_named(job.convolution.boundary)
        as_float(job.convolution.fill_value, "convolution.fill_value")
        return job

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Self:
        """A job from a TOML file, with `overrides` laid over the keys of its tables.

        Raises
        ------
        ConfigError
            The file cannot be read, is no TOML, or holds something it should not.
        """
        path = Path(path)
        tables = read_toml(path)
        for name, table in (overrides or {}).items():
            if isinstance(tables.get(name, {}), dict):
                tables[name] = {**tables.get(name, {}), **table}
        try:
            return cls.of(tables, folder=path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def resolve(self, path: str) -> Path:
        """`path`, relative to the job's folder."""
        try:
            return Path(self.folder) / Path(path).expanduser()
        except RuntimeError as error:  # ~somebody who is not there
            raise ConfigError(f"path {path!r}: {error}") from None

    @property
    def paths(self) -> dict[str, str]:
        """Every path the job names, by its key."""
        given = {
            "input.path": self.input.path,
            "kernel.file": self.kernel.file,
            "output.path": self.output.path,
        }
        return {key: path for key, path in given.items() if path is not None}

    @property
    def input_path(self) -> Path | None:
        """Where the raster is; None for a made-up one."""
        return None if self.input.path is None else self.resolve(self.input.path)

    @property
    def output_path(self) -> Path:
        """Where the result goes."""
        return self.resolve(self.output.path)

    def kernel_weights(self) -> tuple[np.ndarray, str]:
        """Weights as the user wrote them, and a name for people.

        Raises
        ------
        ConfigError
            They are no kernel, or their file cannot be read.
        """
        spec = self.kernel
        if spec.name is not None:
            listed = ", ".join(f"{key}={value}" for key, value in spec.parameters.items())
            name = f"{spec.name}({listed})" if listed else spec.name
            return named_weights(spec.name, spec.parameters), name
        if spec.file is not None:
            from tileconv.stores.kernel_file import read_kernel

            return read_kernel(self.resolve(spec.file))
        assert spec.weights is not None
        if not spec.weights or not spec.weights[0]:
            raise ConfigError("kernel.weights is empty; give at least one row of one weight")
        lengths = sorted({len(row) for row in spec.weights})
        if len(lengths) > 1:
            raise ConfigError(f"kernel.weights has rows of {lengths} weights; make them equal")
        weights = parse_weights(spec.weights)
        if not np.isfinite(weights).all():
            raise ConfigError("kernel.weights holds NaN or infinity; give finite weights")
        return weights, "weights"

    def make_operation(self) -> Operation:
        """Kernel, edge rule and mode, ready to be applied."""
        convolution = self.convolution
        weights, name = self.kernel_weights()
        kernel: Kernel = centred_kernel(
            weights,
            convolving=convolution.operation == "convolve",
            origin=convolution.origin,
            name=name,
        )
        return Operation(
            kernel,
            Mode(convolution.mode),
            boundary_named(convolution.boundary),
            convolution.fill_value,
        )

    def output_dtype(self, input_dtype: np.dtype) -> np.dtype | None:
        """The dtype asked for; None for the dtype sums are formed in."""
        match self.output.dtype:
            case None:
                return None
            case "input":
                return input_dtype
            case name:
                return parse_dtype(name, "output.dtype")


T = TypeVar("T", bound=_Table)


def checked_table(kind: type[T], table: Mapping[str, object], name: str) -> T:
    """One table of a job, checked as `Job.of` checks it; `name` leads the key in errors."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error).replace("`$.", f"`$.{name}."))) from None


def as_job(job: Job | str | os.PathLike[str] | Mapping[str, object]) -> Job:
    """A job from a job, a path to a config, or a mapping of its tables."""
    if isinstance(job, Job):
        return job
    if isinstance(job, Mapping):
        return Job.of(job)
    if isinstance(job, str | os.PathLike):
        return Job.load(job)
    raise ConfigError(f"a job is a path to a config, a mapping or a Job, not {job!r}")


_TABLES: Mapping[str, type[_Table]] = {
    "": Job,
    "input": Input,
    "kernel": KernelSpec,
    "convolution": Convolution,
    "output": Output,
    "run": Run,
}


def _readable(message: str) -> str:
    """A message of msgspec in our words: the key first, and what is allowed there."""
    text, _, path = message.partition(" - at `")
    key = re.sub(r"\[\.\.\.\]", "", path.rstrip("`").removeprefix("$").removeprefix("."))
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        fields = (f for f in _TABLES[key].__struct_fields__ if f != "folder")
        where = f"{key}.{unknown[1]}" if key else unknown[1]
        return f"unknown key {where}; {key or 'a job'} takes {', '.join(fields)}"
    if absent := re.fullmatch(r"Object missing required field `(.*)`", text):
        return f"{key}.{absent[1]} is missing" if key else f"the table [{absent[1]}] is missing"
    if text.startswith("Invalid enum value"):
        table, _, field = key.rpartition(".")
        listed = ", ".join(_choices(get_type_hints(_TABLES[table])[field]))
        return f"{key}: {text.removeprefix('Invalid enum value ')} is not one of {listed}"
    text = text.replace(" | null", "")
    # A check of ours names its keys itself.
    return f"{key}: {text}" if key and text.startswith("Expected") else text


def _choices(hint: object) -> list[str]:
    """The strings that a Literal, or a Literal or None, allows."""
    if isinstance(hint, str):
        return [repr(hint)]
    return [choice for part in get_args(hint) for choice in _choices(part)]
