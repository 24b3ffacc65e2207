import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgetiny.errors import DataError
from edgetiny.measure import cores
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.count import count_tokens
from edgetiny.tokenizer.parallel import batches, map_in_order, process_count


def test_counts_do_not_depend_on_the_number_of_processes(
    tiny_tokenizer: Path, tiny_text: Path
) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    one = count_tokens(tokenizer, [tiny_text, tiny_text], processes=1)
    two = count_tokens(tokenizer, [tiny_text, tiny_text], processes=2)
    assert np.array_equal(one.by_id, two.by_id)
    ids = tokenizer.encode(tiny_text.read_text(encoding="utf-8"))
    assert np.array_equal(one.by_id, 2 * np.bincount(ids, minlength=512))
    assert one.bytes == two.bytes == 2 * tiny_text.stat().st_size
    assert one.total == 2 * len(ids)


def test_batches_keep_order_and_fill_up() -> None:
    items = ["a", "bbbb", "cc", "", "ddddd", "e"]
    found = list(batches(items, len, limit=4))
    assert [item for batch in found for item in batch] == items
    assert all(sum(map(len, batch)) >= 4 for batch in found[:-1])
    assert len(found) > 1
    assert list(batches([], len)) == []


def test_small_text_stays_in_one_process() -> None:
    assert process_count(0, 1000) == 1
    assert process_count(0, 1 << 30) == cores()
    assert process_count(3, 1000) == 3


def test_items_are_taken_only_a_few_ahead(tiny_tokenizer: Path) -> None:
    taken = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield "word"

    taken_meanwhile = []
    results = map_in_order(
        Tokenizer.encode,
        items(),
        Tokenizer.open(tiny_tokenizer),
        2,
        meanwhile=lambda: taken_meanwhile.append(taken),
    )
    first = next(results)
    assert taken < 40
    assert taken_meanwhile == [taken], "once, when the processes have something to do"
    assert list(results) == [first] * 99
    assert len(taken_meanwhile) == 1


def _die(tokenizer: Tokenizer, item: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.open(tiny_tokenizer)
    with pytest.raises(DataError, match=r"a tokenizer process was killed.*fewer --processes"):
        list(map_in_order(_die, ["word"], tokenizer, 2))


def _refuse(tokenizer: Tokenizer, item: str) -> None:
    raise DataError(f"no {item}")


def test_an_error_in_a_process_comes_through(tiny_tokenizer: Path) -> None:
    with pytest.raises(DataError, match="no word"):
        list(map_in_order(_refuse, ["word"] * 50, Tokenizer.open(tiny_tokenizer), 2))
