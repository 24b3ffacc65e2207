import random
from itertools import pairwise

from edgetiny.tokenizer.cut import chunks, neighbours


def test_a_text_is_cut_only_where_that_is_safe() -> None:
    rng = random.Random(0)
    beside = neighbours(["ab", "bcd", "aa", "x"])
    assert beside == {("a", "b"), ("b", "c"), ("c", "d"), ("a", "a")}
    for _ in range(500):
        text = "".join(rng.choices("abcd", k=rng.randrange(60)))
        parts = list(chunks(text, lambda left, right: (left, right) not in beside, 8))
        assert "".join(parts) == text
        for left, right in pairwise(parts):
            assert left
            assert (left[-1], right[0]) not in beside


def test_parts_are_as_long_as_the_limit_lets_them() -> None:
    assert list(chunks("a" * 10, lambda left, right: True, 4)) == ["aaaa", "aaaa", "aa"]
    assert list(chunks("a" * 10, lambda left, right: False, 4)) == ["a" * 10]
    text = "aaaaaaab" + "a" * 7
    assert list(chunks(text, lambda left, right: right == "b", 4)) == ["aaaaaaa", "b" + "a" * 7]
