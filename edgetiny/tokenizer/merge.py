"""How BPE builds a piece: the last of the merges on the way."""

import math
from collections.abc import Callable
from itertools import pairwise

Rank = Callable[[str, str], float]
"""How early two neighbours merge, the lowest first; NEVER if they do not."""
NEVER = math.inf


def last_merge(piece: str, rank: Rank) -> tuple[str, str] | None:
    """Return the two pieces whose merge makes `piece` when BPE merges its characters.

    None if merging ends elsewhere: then no text is ever merged into this piece. This is also how
    the piece comes about inside any text. As long as it survives, no merge crosses its ends, and a
    merge within it is the best one within it, since it is the best of all. So what the two parts
    are built from is found in the same way, from each part alone.
    """
    symbols = list(piece)
    ranks = [rank(left, right) for left, right in pairwise(symbols)]
    while ranks and (first := min(ranks)) < NEVER:
        # Of equal ranks the leftmost merges first.
        place = ranks.index(first)
        left, right = symbols[place : place + 2]
        if len(symbols) == 2:
            return left, right
        symbols[place : place + 2] = [left + right]
        del ranks[place]
        if place > 0:
            ranks[place - 1] = rank(symbols[place - 1], symbols[place])
        if place < len(ranks):
            ranks[place] = rank(symbols[place], symbols[place + 1])
    return None
