"""What a verification has found, for people (a table, a line) and for machines (a mapping)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tileconv.verification.comparison import Comparison


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification has found.

    Parameters
    ----------
    output : str
        What was verified.
    shape : tuple of int
    dtype, method : str
        Of the output, and how the job applies its kernel.
    tiles, tiles_total : int
        Write units that were checked, and all of them.
    borders : int
        Pieces along borders of others that were checked besides.
    share : float
        Of the pixels of those units and pieces that were checked; 1 for all of them.
    pixels, pixels_total : int
        Pixels that were checked, and all of them, whatever their samples.
    input_reader, output_reader : str
        Who read the pixels; where tileconv's own reader did, why.
    result : Comparison
        Values compared and out of the bound, the largest error, and the worst value, at
        (plane, row, column, sample).
    elapsed_s : float
    peak_memory_bytes, planned_memory_bytes, cap_bytes : int
        Of this process.
    """

    output: str
    shape: tuple[int, ...]
    dtype: str
    method: str
    tiles: int
    tiles_total: int
    borders: int
    share: float
    pixels: int
    pixels_total: int
    input_reader: str
    output_reader: str
    result: Comparison
    elapsed_s: float
    peak_memory_bytes: int
    planned_memory_bytes: int
    cap_bytes: int

    @property
    def passed(self) -> bool:
        """Whether no value is out of the bound."""
        return self.result.wrong == 0

    def as_dict(self) -> dict[str, object]:
        """For machines: plain numbers, strings and lists; None for a number not finite."""
        worst = self.result.worst
        return {
            "output": self.output,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "method": self.method,
            "passed": self.passed,
            "tiles": self.tiles,
            "tiles_total": self.tiles_total,
            "borders": self.borders,
            "share_of_each_tile": self.share,
            "pixels": self.pixels,
            "pixels_total": self.pixels_total,
            "input_reader": self.input_reader,
            "output_reader": self.output_reader,
            "values": self.result.values,
            "values_out_of_bound": self.result.wrong,
            "largest_error": _plain(self.result.error),
            "largest_error_in_bounds": _plain(0.0 if worst is None else worst.units),
            "worst": None
            if worst is None
            else {
                **dict(zip(("plane", "row", "column", "sample"), worst.at, strict=True)),
                "found": _plain(worst.found),
                "expected": _plain(worst.expected),
                "error": _plain(worst.error),
                "error_in_bounds": _plain(worst.units),
            },
            "elapsed_s": round(self.elapsed_s, 3),
            "memory": {
                "peak_bytes": self.peak_memory_bytes,
                "planned_bytes": self.planned_memory_bytes,
                "cap_bytes": self.cap_bytes,
            },
        }


def verification_table(found: Verification) -> str:
    """A verification as a table of plain text."""
    result, worst = found.result, found.result.worst
    shape = " x ".join(str(n) for n in found.shape)
    share = 100 * found.pixels / max(1, found.pixels_total)
    checked = (
        f"{found.pixels / 1e6:.4g} of {found.pixels_total / 1e6:.4g} Mpx ({share:.3g} %): "
        f"{found.tiles} of {found.tiles_total} write units, {found.borders} pieces along borders"
    )
    if found.share < 1:
        checked += f", {100 * found.share:.3g} % of their pixels; all take --all"
    rows = [
        ("output", f"{found.output}: {shape}  {found.dtype}, by method {found.method}"),
        ("checked", checked),
        ("read by", f"{found.input_reader}; the output by {found.output_reader}"),
        ("wrong", f"{result.wrong} of {result.values} values"),
        ("error", f"{result.error:.3g} at most, {0 if worst is None else worst.units:.3g} bounds"),
    ]
    if worst is not None:
        rows.append(("worst", _place(found)))
    return "\n".join(f"{name:<9}{text}" for name, text in rows)


def _place(found: Verification) -> str:
    """The worst value, for people."""
    worst = found.result.worst
    assert worst is not None
    plane, row, column, sample = worst.at
    where = f"plane {plane}, row {row}, column {column}, sample {sample}"
    return f"{where}: found {worst.found}, scipy gives {worst.expected}"


def failed_line(found: Verification) -> str:
    """One line on an output that did not pass."""
    worst, result = found.result.worst, found.result
    assert worst is not None
    return (
        f"output {found.output} is not what the job writes: {_place(found)}, off by "
        f"{worst.error:.3g}, {worst.units:.3g} times the bound; {result.wrong} of "
        f"{result.values} values checked are wrong; check the arguments, or run the job again "
        "with --overwrite"
    )


def _plain(value: complex) -> object:
    """A number as JSON has it: None where it is not finite, a pair where it is complex."""
    if np.iscomplexobj(value):
        return [_plain(value.real), _plain(value.imag)]
    return value if np.isfinite(value) else None
