"""Ratios of a benchmark as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from speed_parts.memory import DOORS

MET, MISSED, FREE = "#2a7f62", "#c0504d", "#8a8f98"
DOT = "#1f3a5f"


class Bar(NamedTuple):
    """One line of a chart."""

    label: str
    ratio: float
    target: float | None
    met: bool | None
    dot: float | None = None


def job_bars(jobs: list[dict[str, Any]]) -> list[Bar]:
    """A bar for each peer that has a figure."""
    return [
        Bar(
            f"{job['title']}\n{peer['name']}",
            peer["ratio"]["median"],
            peer["target"],
            peer["met"],
        )
        for job in jobs
        if not job.get("failed")
        for peer in job["peers"]
        if peer["ratio"]
    ]


def memory_bars(cases: list[dict[str, Any]]) -> list[Bar]:
    """A bar for each kernel and dtype: the public door, and the engine as a dot."""
    return [
        Bar(
            f"{case['size']}x{case['size']} {case['kind']}, {case['dtype']}",
            case["ratio"]["public"]["median"],
            case["target"],
            case["ratio"]["public"]["met"],
            case["ratio"]["engine"]["median"],
        )
        for case in cases
        if not case["failed"]
    ]


def draw_panel(axes: Any, bars: list[Bar], title: str) -> None:
    """Bars from the top down, each from 1 to its ratio, a tick where the target is."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for place, bar in enumerate(bars):
        colour = FREE if bar.met is None else MET if bar.met else MISSED
        axes.barh(place, bar.ratio - 1, left=1, height=0.62, color=colour)
        if bar.target is not None:
            axes.plot([bar.target] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2)
        if bar.dot is not None:
            axes.plot(bar.dot, place, "o", color=DOT, markeredgecolor="white", markersize=6)
        axes.annotate(
            f"{bar.ratio:.2f}",
            (max(bar.ratio, bar.target or 0, bar.dot or 0, 1), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    shown = [value for bar in bars for value in (bar.ratio, bar.target, bar.dot) if value]
    axes.set_xscale("log")
    axes.set_xlim(min(*shown, 0.5) / 1.6, max(*shown, 1.0) * 1.9)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", which="both", linewidth=0.3, alpha=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("our time / its time, log scale; left of 1 we are faster", fontsize=9)


def draw(found: dict[str, Any], path: Path) -> bool:
    """Write the chart; False if there is nothing to draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    side = f"{found['side']} x {found['side']}"
    panels = [
        (job_bars(found["jobs"]), f"Whole processes, {side}, {found['threads']} threads"),
        (
            memory_bars(found["memory"]),
            "convolve2d in memory, one thread, beside OpenCV or scipy",
        ),
    ]
    panels = [(bars, title) for bars, title in panels if bars]
    if not panels:
        return False
    most = max(len(bars) for bars, _ in panels)
    figure, all_axes = plt.subplots(
        1,
        len(panels),
        figsize=(7.2 * len(panels), 1.8 + 0.36 * most),
        squeeze=False,
        layout="constrained",
    )
    for axes, (bars, title) in zip(all_axes[0], panels, strict=True):
        draw_panel(axes, bars, title)
    handles = [
        Patch(color=MET, label="target met"),
        Patch(color=MISSED, label="target missed"),
        Patch(color=FREE, label="no target"),
        Line2D([], [], color="black", linewidth=2, label="target"),
    ]
    if found["memory"]:
        handles.append(Line2D([], [], color=DOT, marker="o", linestyle="", label=DOORS["engine"]))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True
