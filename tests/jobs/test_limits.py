"""What this process may use, against what the system says elsewhere."""

import os
import resource

from tileconv.jobs import limits


def test_memory_and_cores_are_no_more_than_the_machine_has():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < limits.default_memory_cap() == limits.usable_memory() // 4 <= machine // 4
    assert 1 <= limits.usable_cores() <= len(os.sched_getaffinity(0))


def test_affinity_is_respected():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert limits.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_cgroup_limits_of_this_group_and_those_above_it(tmp_path, monkeypatch):
    group = tmp_path / "slice" / "job"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text(f"{300 << 20}\n")
    (group / "cpu.max").write_text("100000 100000\n")
    (group.parent / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(limits, "_CGROUP", tmp_path)
    real = limits._read
    monkeypatch.setattr(
        limits,
        "_read",
        lambda path: "0::/slice/job\n" if str(path) == "/proc/self/cgroup" else real(path),
    )
    assert limits.usable_memory() == 300 << 20
    assert limits.usable_cores() == 1


def test_peak_is_what_the_kernel_counts():
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 0 < limits.resident_bytes() <= limits.peak_resident_bytes() * 1.05
    assert abs(limits.peak_resident_bytes() - most) < 64 << 20
