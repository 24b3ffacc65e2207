import sys

import numpy as np
import pytest

from edgetiny.runtimes.huge_pages import PAGE_BYTES, _anonymous, collapse


def test_memory_keeps_what_it_holds():
    block = np.random.default_rng(0).integers(0, 255, 4 * PAGE_BYTES, np.uint8)
    before = block.copy()
    moved = collapse()
    assert moved % PAGE_BYTES == 0
    np.testing.assert_array_equal(block, before)


@pytest.mark.skipif(sys.platform.startswith("linux"), reason="of other systems")
def test_other_systems_move_nothing():
    assert collapse() == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1000-3000 rw-p 00000000 00:00 0 ", (0x1000, 0x3000)),
        ("1000-3000 rw-p 00000000 00:00 0          [heap]", (0x1000, 0x3000)),
        ("1000-3000 rw-p 00000000 00:00 0          [stack]", (0, 0)),
        ("1000-3000 r--p 00000000 00:00 0 ", (0, 0)),
        ("1000-3000 rw-s 00000000 00:01 77 /dev/zero (deleted)", (0, 0)),
        ("1000-3000 rw-p 00000000 08:01 77 /usr/lib/library with space.so", (0, 0)),
    ],
)
def test_only_private_memory_of_no_file_is_moved(line, expected):
    assert _anonymous(line) == expected
