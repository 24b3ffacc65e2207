"""Memory of this process and of the machine, in bytes. What cannot be read is None, never zero."""

import os
import resource
import sys
from pathlib import Path


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


def ram_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """Return the memory that can be used without swapping, as the kernel estimates it."""
    return _kib_field(Path("/proc/meminfo"), "MemAvailable")


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
