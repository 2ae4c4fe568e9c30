"""What this process may use: cores, memory and disk, as affinity and cgroups limit them."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores this process may run on: its affinity, and a cgroup's quota of processor time."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    for folder in _cgroup_folders("cpu"):
        quota = _cpu_quota(folder)
        if quota is not None:
            cores = min(cores, max(1, int(quota)))
    return cores


def usable_memory() -> int:
    """Bytes of memory this process may use: the machine's, or a cgroup's limit below it."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit():
                limit = min(limit, int(text))
    return limit


def default_memory_cap() -> int:
    """The cap of a job that names none: a quarter of the memory this process may use."""
    return usable_memory() // 4


def resident_bytes() -> int:
    """Bytes of this process that are in memory now; 0 where the system does not tell."""
    fields = _read(Path("/proc/self/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def peak_resident_bytes() -> int:
    """Most bytes of this process that were ever in memory."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cgroup_folders(controller: str) -> list[Path]:
    """Folders of the cgroups this process is in for `controller`, innermost first; v2 and v1."""
    folders = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _CGROUP
        elif controller in controllers.split(","):
            root = _CGROUP / controllers
        else:
            continue
        # Inside a container the path may be the host's: its own root is all there is to see.
        inner = Path(path.lstrip("/"))
        folders += [root / part for part in (inner, *inner.parents)]
    return folders


def _cpu_quota(folder: Path) -> float | None:
    """Processors' worth of time a cgroup grants; None for no limit."""
    fields = _read(folder / "cpu.max").split()
    if not fields:
        fields = [_read(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() and int(fields[0]) > 0:
        return int(fields[0]) / int(fields[1])
    return None


def _read(path: Path) -> str:
    """The text of a small system file, stripped; empty where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
