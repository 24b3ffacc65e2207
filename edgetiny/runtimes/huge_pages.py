"""Large allocations of this process on pages of 2 MiB, where Linux can.

A step of decoding reads every weight once. On pages of 4 KiB a processor looks a new address up
for each of them, in a virtual machine twice. Speed: docs/results/onnx_kernels.md.
"""

import ctypes
import sys
from pathlib import Path

PAGE_BYTES = 2**21
_MADV_COLLAPSE = 25


def collapse() -> int:
    """Move large private memory that was written already to huge pages; return the bytes moved.

    What Linux refuses (a kernel before 6.1, no free memory of that shape) stays as it is, and
    nothing happens on other systems: only speed depends on it.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    moved = 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        start, end = _anonymous(line)
        first = -(-start // PAGE_BYTES) * PAGE_BYTES
        last = end // PAGE_BYTES * PAGE_BYTES
        if last > first and madvise(first, last - first, _MADV_COLLAPSE) == 0:
            moved += last - first
    return moved


def _anonymous(line: str) -> tuple[int, int]:
    """Return where a line of `maps` starts and ends, if it is private memory of no file."""
    place, access, _, _, inode, *name = line.split(maxsplit=5)
    if access != "rw-p" or inode != "0" or (name and name[0].strip() != "[heap]"):
        return 0, 0
    start, end = place.split("-")
    return int(start, 16), int(end, 16)
