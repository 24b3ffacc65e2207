"""Memory of this process and of the machine, in bytes. What cannot be read is None, never zero."""

import os
import resource
import sys
from pathlib import Path

from edgetiny.measure.machine import CGROUP, read_text


def rss_bytes() -> int | None:
    """Return the memory of this process that is resident now, mapped files included."""
    return _status_bytes("VmRSS")


def anonymous_rss_bytes() -> int | None:
    """Return the resident memory that no file backs: what memory-mapped weights do not count in."""
    return _status_bytes("RssAnon")


def peak_rss_bytes() -> int:
    """Return the most memory this process had resident, since its start or `reset_peak_rss`."""
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def reset_peak_rss() -> bool:
    """Make `peak_rss_bytes` count from now; return False where the kernel does not let us.

    Source: proc(5), /proc/pid/clear_refs, value 5 (Linux 4.0).
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def ram_bytes(cgroup: Path = CGROUP) -> int:
    """Return the memory of this machine, or what its container may use of it."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    container = _container(cgroup)
    return machine if container is None else min(machine, container[0])


def available_bytes(cgroup: Path = CGROUP) -> int | None:
    """Return the memory that can be used without swapping, as the kernel estimates it.

    In a container it is at most what is left of the container's limit.
    """
    machine, container = _kib_field(Path("/proc/meminfo"), "MemAvailable"), _container(cgroup)
    if machine is None or container is None:
        return machine
    limit, used = container
    return min(machine, max(0, limit - used))


def _container(cgroup: Path) -> tuple[int, int] | None:
    """Return a container's limit and what it uses of it (control groups, v2 or v1); None without.

    Cached files do not count as used: the kernel drops them first.
    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    for folder, most, now, of_children in (
        (cgroup, "memory.max", "memory.current", ""),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        limit, used = read_text(folder / most), read_text(folder / now)
        if limit is None or used is None or limit == "max":
            continue
        lines = (read_text(folder / "memory.stat") or "").splitlines()
        stat = {name: int(value) for name, value in map(str.split, lines)}
        files = (stat.get(f"{of_children}{kind}_file", 0) for kind in ("active", "inactive"))
        return int(limit), int(used) - sum(files)
    return None


def _status_bytes(name: str) -> int | None:
    return _kib_field(Path("/proc/self/status"), name)


def _kib_field(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
