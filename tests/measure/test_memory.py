import sys

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


def test_the_machine_has_more_memory_than_is_free() -> None:
    available = available_bytes()
    assert available is None or 0 < available < ram_bytes()
