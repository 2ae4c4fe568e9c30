"""What a benchmark found, for reading: tables in markdown and the line about the machine."""

from __future__ import annotations

import datetime as dt
import os
import platform
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

FULL_SIDE = 32768
"""Side of the rasters that targets are set for."""
PACKAGES = (
    *("tileconv", "numpy", "scipy", "numba", "tifffile", "zarr", "imagecodecs", "dask"),
    *("pyvips", "dask-image", "opencv-python-headless"),
)
HEADER = (
    *("job", "peer", "ours s", "peer s", "ours CPU s", "peer CPU s", "ours MiB", "peer MiB"),
    *("ratio (min-max)", "rounds", "largest difference", "target", "met"),
)
MEMORY_HEADER = (
    *("kernel", "dtype", "OpenCV ms", "scipy ms", "convolve2d ms", "engine ms"),
    *("convolve2d ratio (min-max)", "met", "engine ratio (min-max)", "met", "target"),
)


def processor() -> str:
    """The model of the CPU."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    listed = Path("/proc/cpuinfo")
    for line in listed.read_text().splitlines() if listed.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def libvips_version() -> str:
    """The version of libvips that pyvips finds; empty without."""
    code = "import pyvips; print('.'.join(str(pyvips.version(part)) for part in range(3)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> dict[str, Any]:
    """CPU, cores, date and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if found := libvips_version():
        versions["libvips"] = found
    return {
        "cpu": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def machine_line(found: dict[str, Any]) -> str:
    """The same in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['cpu']}, {found['cores']} cores, {found['system']}, Python {found['python']}, "
        f"{versions}, {found['date']}"
    )


def markdown(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table whose columns line up."""
    lines = [list(header), ["-"] * len(header), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines[1] = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def medians(runs: list[dict[str, float]]) -> list[str]:
    """Median seconds, CPU seconds and MiB."""
    columns = (("wall_s", "{:.2f}"), ("cpu_s", "{:.2f}"), ("peak_mib", "{:.0f}"))
    return [form.format(statistics.median(run[name] for run in runs)) for name, form in columns]


def ratio_text(ratio: dict[str, float]) -> str:
    """A ratio and its spread."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"


def verdict(met: bool | None) -> str:  # noqa: FBT001
    """Whether a target is met; a dash where there is none."""
    return "-" if met is None else "yes" if met else "no"


def difference_text(peer: dict[str, Any]) -> str:
    """How far a peer's pixels are from ours."""
    found = peer["difference"]
    if found is None:
        return "-"
    said = f"{found['largest']:.3g}"
    return f"{said}, mean {found['mean']:.2g}" if peer["comparison"] == "approximate" else said


def job_rows(job: dict[str, Any]) -> list[list[str]]:
    """A line for each peer of a job."""
    if job.get("failed"):
        return [[job["title"], f"failed: {job['failed']}", *["-"] * (len(HEADER) - 2)]]
    mine = medians(job["ours"])
    rows = []
    for peer in job["peers"]:
        target = "-" if peer["target"] is None else f"{peer['target']:g}"
        if peer["failed"]:
            numbers = [cell for own in mine for cell in (own, "-")] + ["-", "-"]
            name = f"{peer['name']}: failed: {peer['failed']}"
            rows.append([job["title"], name, *numbers, difference_text(peer), target, "-"])
            continue
        numbers = [cell for pair in zip(mine, medians(peer["runs"]), strict=True) for cell in pair]
        approximate = " (approximate)" if peer["comparison"] == "approximate" else ""
        rows.append(
            [
                *(job["title"], peer["name"] + approximate, *numbers, ratio_text(peer["ratio"])),
                *(str(len(peer["runs"])), difference_text(peer), target, verdict(peer["met"])),
            ]
        )
    return rows or [[job["title"], "none", *(c for own in mine for c in (own, "-")), *["-"] * 5]]


def memory_row(case: dict[str, Any]) -> list[str]:
    """A line for one kernel and dtype in memory."""
    name = f"{case['size']}x{case['size']} {case['kind']}"
    target = "-" if case["target"] is None else f"{case['target']:g}"
    if case["failed"]:
        return [name, case["dtype"], f"failed: {case['failed']}", *["-"] * 7, target]
    times = [f"{case['medians'][way] * 1e3:.1f}" for way in ("opencv", "scipy", "public", "engine")]
    ratios = (case["ratio"][door] for door in ("public", "engine"))
    told = [cell for ratio in ratios for cell in (ratio_text(ratio), verdict(ratio["met"]))]
    return [name, case["dtype"], *times, *told, target]


def tables(found: dict[str, Any]) -> str:
    """All that was found."""
    parts = []
    if found["jobs"]:
        rows = [row for job in found["jobs"] for row in job_rows(job)]
        parts.append(
            f"{found['side']} x {found['side']} uint8 where no size is named, "
            f"{found['threads']} threads; whole processes, medians\n\n" + markdown(HEADER, rows)
        )
        if found["side"] < FULL_SIDE:
            parts.append(
                f"Targets are for {FULL_SIDE} x {FULL_SIDE} where no size is named: the smaller "
                "the raster, the more of our time is the start of a process."
            )
    if found["memory"]:
        side = found["memory"][0]["side"]
        parts.append(
            f"One {side} x {side} array in memory, one thread, against the best of OpenCV and "
            "scipy. convolve2d gives float32 (the kernel's dtype), OpenCV and the engine the "
            "image's dtype\n\n"
            + markdown(MEMORY_HEADER, [memory_row(case) for case in found["memory"]])
        )
    parts += [f"skipped: {name}: {why}" for name, why in found["skipped"].items()]
    return "\n\n".join([*parts, machine_line(found["machine"])])
