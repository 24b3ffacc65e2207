import sys
from pathlib import Path

import pytest

from edgetiny.measure import (
    anonymous_rss_bytes,
    available_bytes,
    peak_rss_bytes,
    ram_bytes,
    reset_peak_rss,
    rss_bytes,
)

_BLOCK = 64 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_touched_memory_shows_in_rss_and_peak() -> None:
    anonymous_before = anonymous_rss_bytes()
    block = bytearray(b"x" * _BLOCK)
    anonymous, resident = anonymous_rss_bytes(), rss_bytes()
    assert anonymous_before is not None
    assert anonymous is not None
    assert resident is not None
    assert anonymous - anonymous_before > 0.9 * len(block)
    assert anonymous <= resident <= peak_rss_bytes()


def test_reset_forgets_memory_that_was_given_back() -> None:
    block = bytearray(b"x" * _BLOCK)
    high = peak_rss_bytes()
    del block
    if not reset_peak_rss():
        pytest.skip("this kernel does not let a process reset its peak")
    assert peak_rss_bytes() < high - _BLOCK // 2


_MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "files",
    [
        {
            "memory.max": 64 * _MIB,
            "memory.current": 48 * _MIB,
            "memory.stat": f"anon {_MIB}\nactive_file {4 * _MIB}\ninactive_file {12 * _MIB}",
        },
        {
            "memory/memory.limit_in_bytes": 64 * _MIB,
            "memory/memory.usage_in_bytes": 48 * _MIB,
            "memory/memory.stat": f"total_active_file {4 * _MIB}\ninactive_file 1\n"
            f"total_inactive_file {12 * _MIB}",
        },
    ],
    ids=["v2", "v1"],
)
def test_a_container_has_no_more_than_its_limit(tmp_path: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{content}\n")
    assert ram_bytes(tmp_path) == 64 * _MIB
    assert available_bytes(tmp_path) == 32 * _MIB  # 16 of the 48 are files that can be dropped


@pytest.mark.parametrize("files", [{}, {"memory.max": "max", "memory.current": str(_MIB)}])
def test_without_a_limit_the_machine_counts(tmp_path: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content + "\n")
    assert ram_bytes(tmp_path) > 64 * _MIB
    available = available_bytes(tmp_path)
    assert available is None or available > 0


def test_the_machine_has_more_memory_than_is_free() -> None:
    available = available_bytes()
    assert available is None or 0 < available < ram_bytes()
