import random
from collections.abc import Callable

from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.merge import build_path


def test_path_holds_characters_and_every_merge_in_order() -> None:
    scores = {"a": -9.0, "b": -9.0, "c": -9.0, "bc": -1.0, "ab": -2.0, "abc": -3.0}
    # The better pair wins: "ab" is a piece, but no stop on the way to "abc".
    assert build_path("abc", scores) == ["a", "b", "c", "bc", "abc"]
    assert build_path("a", scores) == ["a"]


def test_equal_scores_merge_from_the_left() -> None:
    scores = {"a": -9.0, "aa": -1.0, "aaa": -1.0, "aaaa": -2.0}
    assert build_path("aaa", scores) == ["a", "aa", "aaa"]
    assert build_path("aaaa", scores) == ["a", "aa", "aaa", "aaaa"]


def test_a_piece_that_no_merge_reaches_has_no_path() -> None:
    assert build_path("abc", {"a": 0.0, "b": 0.0, "c": 0.0, "abc": -1.0}) == []


def test_characters_need_no_piece_to_merge() -> None:
    assert build_path("xy", {"xy": -1.0}) == ["xy"]


def test_path_is_what_sentencepiece_does(make_tokenizer: Callable[..., Tokenizer]) -> None:
    """A piece with a path is one token; without its last merge it falls into the one before."""
    rng = random.Random(0)
    n_reached = n_not = 0
    for _ in range(60):
        pieces = ["a", "b", "c"]
        while len(pieces) < 20:
            join = rng.choice(pieces) + rng.choice(pieces)
            if join not in pieces:
                pieces.append(join)
        rng.shuffle(pieces)
        tokenizer = make_tokenizer(pieces)
        scores = {piece: -float(rank) for rank, piece in enumerate(pieces)}
        for piece in pieces:
            is_one_token = len(tokenizer.encode(piece)) == 1
            assert is_one_token == bool(build_path(piece, scores))
            n_reached += is_one_token
            n_not += not is_one_token
    assert n_reached > 300
    assert n_not > 100
