"""Cores, caches, heat and frequency of this machine. What cannot be read is None, never zero."""

import math
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the physical cores this process may use: affinity and container quota included."""
    allowed = _allowed_cpus()
    topology = {
        (read_text(_CPUS / f"cpu{cpu}/topology/physical_package_id"), _core_id(cpu))
        for cpu in allowed
    }
    quota = _cpu_quota()
    return max(1, min(len(topology), quota if quota is not None else len(topology)))


def llc_bytes() -> int | None:
    """Return the last-level cache that the usable CPUs reach, all its instances added up."""
    instances: dict[str, tuple[int, int]] = {}
    for cpu in _allowed_cpus():
        for index in (_CPUS / f"cpu{cpu}/cache").glob("index*"):
            level, size, shared = (
                read_text(index / name) for name in ("level", "size", "shared_cpu_list")
            )
            if level and size and shared and read_text(index / "type") != "Instruction":
                instances[f"{level}:{shared}"] = (int(level), _size_bytes(size))
    last = max((level for level, _ in instances.values()), default=0)
    return sum(size for level, size in instances.values() if level == last) or None


def temperature_celsius() -> float | None:
    """Return the hottest thermal zone that can be read."""
    zones = [read_text(zone / "temp") for zone in Path("/sys/class/thermal").glob("thermal_zone*")]
    # A zone without a sensor behind it reports 0 or a negative figure.
    readings = [int(zone) / 1000 for zone in zones if zone and int(zone) > 0]
    return max(readings, default=None)


def cpu_frequency_hz() -> float | None:
    """Return the mean present frequency of the usable CPUs, as the governor reports it."""
    paths = (_CPUS / f"cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in _allowed_cpus())
    readings = [int(khz) * 1000.0 for khz in map(read_text, paths) if khz]
    return sum(readings) / len(readings) if readings else None


def _allowed_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS has no affinity


def _core_id(cpu: int) -> str:
    """Return what tells this core from the others of its package; without /sys, each CPU is one."""
    return read_text(_CPUS / f"cpu{cpu}/topology/core_id") or f"cpu{cpu}"


def _cpu_quota() -> int | None:
    """Return the cores that a container's limit allows, rounded up (control groups, v2 or v1)."""
    quota, _, period = (read_text(CGROUP / "cpu.max") or "max").partition(" ")
    if quota == "max":
        quota = read_text(CGROUP / "cpu/cpu.cfs_quota_us") or "-1"
        period = read_text(CGROUP / "cpu/cpu.cfs_period_us") or "-1"
    return math.ceil(int(quota) / int(period)) if int(quota) > 0 and int(period) > 0 else None


def _size_bytes(text: str) -> int:
    return int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]]


def read_text(path: Path) -> str | None:
    """Return what a file of the kernel says; None where it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
