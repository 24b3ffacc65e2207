import random
from collections.abc import Callable, Mapping

from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.merge import NEVER, Rank, last_merge


def _best_score(scores: Mapping[str, float]) -> Rank:
    def rank(left: str, right: str) -> float:
        return -scores.get(left + right, -NEVER)

    return rank


def test_the_best_pair_merges_first() -> None:
    rank = _best_score({"bc": -1.0, "ab": -2.0, "abc": -3.0})
    assert last_merge("abc", rank) == ("a", "bc")
    assert last_merge("ab", rank) == ("a", "b")


def test_equal_ranks_merge_from_the_left() -> None:
    rank = _best_score({"aa": -1.0, "aaa": -1.0, "aaaa": -2.0})
    assert last_merge("aaa", rank) == ("aa", "a")
    assert last_merge("aaaa", rank) == ("aaa", "a")


def test_a_piece_that_no_merge_reaches_has_no_last_merge() -> None:
    assert last_merge("abc", _best_score({"abc": -1.0})) is None
    assert last_merge("a", _best_score({"a": -1.0})) is None


def test_ranks_may_belong_to_pairs_rather_than_to_their_join() -> None:
    order = {("a", "b"): 0.0, ("b", "c"): 1.0, ("a", "bc"): 2.0}
    assert last_merge("bc", lambda left, right: order.get((left, right), NEVER)) == ("b", "c")
    # "abc" is only made from "a" and "bc", and "ab" comes in between.
    assert last_merge("abc", lambda left, right: order.get((left, right), NEVER)) is None


def test_it_is_what_sentencepiece_does(make_tokenizer: Callable[..., Tokenizer]) -> None:
    """A piece with a last merge is one token; without the piece it falls into those two."""
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
        rank = _best_score({piece: -float(order) for order, piece in enumerate(pieces)})
        for piece in pieces:
            joined = last_merge(piece, rank)
            is_one_token = len(tokenizer.encode(piece)) == 1
            assert is_one_token == (joined is not None or len(piece) == 1)
            n_reached += is_one_token
            n_not += not is_one_token
            if joined is not None:
                without = make_tokenizer([each for each in pieces if each != piece])
                spelled = [without.token_bytes(index).decode() for index in without.encode(piece)]
                assert spelled == list(joined)
    assert n_reached > 300
    assert n_not > 100
