"""How SentencePiece BPE builds a piece: the merges on the way, and so the pieces it needs."""

from collections.abc import Mapping
from itertools import pairwise


def build_path(piece: str, scores: Mapping[str, float]) -> list[str]:
    """Return the pieces that come about while BPE merges the characters of `piece`, in order.

    scores: of every piece that merging can make. Characters come first, `piece` itself last;
    characters without a piece of their own are left out. Empty if merging ends elsewhere: then
    no text is ever tokenized into this piece.

    This is also how the piece comes about inside any text. As long as it survives, no merge
    crosses its ends, and a merge within it is the best one within it, since it is the best of all.
    """
    symbols = list(piece)
    path = [symbol for symbol in dict.fromkeys(symbols) if symbol in scores]
    while len(symbols) > 1:
        joins = [left + right for left, right in pairwise(symbols)]
        known = [index for index, join in enumerate(joins) if join in scores]
        if not known:
            return []
        # Of equal scores the leftmost merges first, as max() returns the first of the best.
        best = max(known, key=lambda index: scores[joins[index]])
        symbols[best : best + 2] = [joins[best]]
        path.append(joins[best])
    return list(dict.fromkeys([*path, piece]))
