import numpy as np
import pytest

from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.spread import Spread
from edgetiny.tokenizer.vocabulary import Vocabulary


@pytest.fixture
def vocabulary(make_tokenizer) -> Vocabulary:
    tokenizer: Tokenizer = make_tokenizer(["ab", "abc", "a", "b", "c"], has_bytes=False)
    return tokenizer.vocabulary()


def _array(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def _ids(vocabulary: Vocabulary, *pieces: str) -> list[int]:
    return [list(vocabulary.pieces).index(piece) for piece in pieces]


def test_a_piece_counts_where_it_is_built_and_not_only_where_it_ends(
    vocabulary: Vocabulary,
) -> None:
    spread = Spread(vocabulary)
    ab, abc, a, b, c = _ids(vocabulary, "ab", "abc", "a", "b", "c")
    spread.add(None, _array(abc), _array(32))
    spread.add(None, _array(ab), _array(1))
    total = spread.total()
    assert total[abc] == pytest.approx(32**0.7)
    assert total[ab] == total[a] == total[b] == pytest.approx(32**0.7 + 1)
    assert total[c] == pytest.approx(32**0.7)


def test_what_many_works_share_weighs_more_than_what_one_repeats(vocabulary: Vocabulary) -> None:
    spread = Spread(vocabulary)
    a, c = _ids(vocabulary, "a", "c")
    spread.add("one", _array(a), _array(100))
    for work in range(100):
        spread.add(str(work), _array(c), _array(1))
    total = spread.total()
    assert total[a] < 30 < total[c] == pytest.approx(100)


def test_the_parts_of_a_work_add_up_before_they_are_damped(vocabulary: Vocabulary) -> None:
    spread = Spread(vocabulary)
    [a] = _ids(vocabulary, "a")
    for _ in range(8):
        for work in ("one", "two", "three"):
            spread.add(work, _array(a), _array(4))
    assert spread.total()[a] == pytest.approx(3 * 32**0.7)
    # What comes after the total is asked for is a work of its own.
    spread.add("one", _array(a), _array(1))
    assert spread.total()[a] == pytest.approx(3 * 32**0.7 + 1)


def test_only_some_works_stay_open(vocabulary: Vocabulary) -> None:
    spread = Spread(vocabulary)
    [a] = _ids(vocabulary, "a")
    for work in range(100):
        spread.add(str(work), _array(a), _array(1))
    assert len(spread._open) < 20
    spread.add("0", _array(a), _array(1))
    assert spread.total()[a] == pytest.approx(101)
