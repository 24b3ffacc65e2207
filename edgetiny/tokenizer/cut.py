"""Where a long text can be cut so that its parts give the ids of the whole."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise

CHUNK_CHARACTERS = 1 << 16
"""Longer texts are cut: memory grows by some hundred bytes a character while one is merged."""

IsSafe = Callable[[str, str], bool]
"""Whether a text may be cut between two characters."""


def neighbours(pieces: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return every two characters that stand side by side in a piece.

    No piece spans a cut between any other two. So what merging does on one side of it depends
    on that side alone.
    """
    return frozenset(pair for piece in pieces for pair in pairwise(piece))


def chunks(text: str, is_safe: IsSafe, limit: int) -> Iterator[str]:
    """Yield a text in parts of about `limit` characters, cut only where that is safe."""
    start = 0
    while len(text) - start > limit:
        cut = _find(text, is_safe, start + 1, start + limit)
        if cut is None:
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def _find(text: str, is_safe: IsSafe, first: int, limit: int) -> int | None:
    """Return the last safe place up to `limit`, or the first one after it."""
    places = chain(range(limit, first, -1), range(limit + 1, len(text)))
    return next((place for place in places if is_safe(text[place - 1], text[place])), None)
