"""Plans and rasters in words, for people (a table) and for machines (a mapping)."""

from __future__ import annotations

import math

from tileconv.core.raster import Raster
from tileconv.jobs.plan import Plan


def size_text(size_bytes: int) -> str:
    """Bytes in the largest unit of 1024 that leaves at least 1."""
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def raster_table(raster: Raster) -> list[tuple[str, str]]:
    """Rows of a table: what a raster is."""
    pixels = raster.planes * math.prod(raster.spatial)
    rows = [
        ("shape", f"{_shape_text(raster.shape)}  ({', '.join(raster.dims)})"),
        ("dtype", str(raster.dtype)),
        (
            "size",
            f"{size_text(raster.nbytes)}, {pixels / 1e6:.1f} Mpx",
        ),
    ]
    if raster.chunk is not None:
        rows.append(("chunks", f"{_shape_text(raster.chunk)}, {size_text(raster.chunk_bytes)}"))
    rows.append(("compression", raster.compression))
    return rows


def raster_dict(raster: Raster) -> dict[str, object]:
    """What a raster is, in plain values."""
    return {
        "shape": list(raster.shape),
        "axes": list(raster.dims),
        "dtype": str(raster.dtype),
        "bytes": raster.nbytes,
        "chunk": None if raster.chunk is None else list(raster.chunk),
        "compression": raster.compression,
    }


def plan_dict(plan: Plan) -> dict[str, object]:
    """A plan in plain values: what would be done, and what it will take."""
    work, grid, layout = plan.work, plan.grid, plan.work.layout
    kernel = work.operation.kernel
    return {
        "input": raster_dict(work.source),
        "kernel": {"name": kernel.name, "shape": list(kernel.shape), "anchor": list(kernel.anchor)},
        "convolution": {
            "mode": work.operation.mode.value,
            "boundary": work.operation.boundary.value,
            "halo": {"before": list(kernel.halo.before), "after": list(kernel.halo.after)},
        },
        "method": work.choice.method,
        "reason": work.choice.reason,
        "accumulator": str(work.engine.accumulator),
        "warnings": list(work.warnings),
        "output": {
            **raster_dict(layout.raster),
            "format": layout.format,
            "compression": layout.compression,
            "compression_level": layout.level,
            "write_unit": list(layout.unit),
            "max_bytes": layout.max_bytes,
        },
        "tiles": {
            "shape": list(grid.tile),
            "count": len(grid),
            "panel": grid.panel,
        },
        "processes": plan.processes,
        "workers": plan.workers,
        "read_amplification": round(plan.read_amplification, 4),
        "read_bytes": round(plan.read_amplification * work.source.nbytes),
        "memory": {
            "cap_bytes": plan.cap_bytes,
            "peak_bytes": plan.memory.peak_bytes,
            "total_bytes": plan.total_bytes,
            "parts": dict(plan.memory.parts),
        },
    }


def plan_table(plan: Plan, free_bytes: int) -> str:
    """A plan as a table of plain text."""
    work, grid, layout = plan.work, plan.grid, plan.work.layout
    kernel, operation = work.operation.kernel, work.operation
    (by, bx), (ay, ax) = kernel.halo.before, kernel.halo.after
    level = "" if layout.level is None else f" {layout.level}"
    # Processes share no cache; how much two of them both read depends on who does which tile.
    most = "at most " if plan.processes > 1 else ""
    sections = {
        "input": raster_table(work.source),
        "convolution": [
            ("kernel", f"{kernel.name}, {_shape_text(kernel.shape)}"),
            ("mode, boundary", f"{operation.mode.value}, {operation.boundary.value}"),
            ("halo", f"{by} before and {ay} after in y, {bx} and {ax} in x"),
            ("method", f"{work.choice.method}: {work.choice.reason}"),
            ("sums in", str(work.engine.accumulator)),
            *(("warning", text) for text in work.warnings),
        ],
        "output": [
            ("shape", f"{_shape_text(layout.raster.shape)}  {layout.raster.dtype}"),
            ("format", f"{layout.format}, {layout.compression}{level}"),
            ("write unit", _shape_text(layout.unit)),
            ("on disk", f"at most {size_text(layout.max_bytes)}, {size_text(free_bytes)} free"),
        ],
        "work": [
            ("tiles", f"{len(grid)} of {_shape_text(grid.tile)}"),
            ("order", "row by row" if grid.panel is None else f"panels of {grid.panel} tiles"),
            *([("processes", str(plan.processes))] if plan.processes > 1 else []),
            ("threads of each" if plan.processes > 1 else "workers", str(plan.workers)),
            ("bytes decoded", f"{most}{plan.read_amplification:.3f} times the raster"),
        ],
        "memory": [(name, size_text(size)) for name, size in plan.memory.parts.items() if size]
        + [
            ("peak", size_text(plan.memory.peak_bytes)),
            ("cap", size_text(plan.cap_bytes)),
        ]
        + ([("of all processes", size_text(plan.total_bytes))] if plan.processes > 1 else []),
    }
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    return "\n".join(
        f"{title}\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)
        for title, rows in sections.items()
    )
