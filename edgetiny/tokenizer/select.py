"""Which pieces a compact tokenizer keeps: by frequency, each with what it takes to build it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetiny.errors import ConfigError
from edgetiny.tokenizer.merge import build_path
from edgetiny.tokenizer.model_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    ids_of_types,
)

Counts = NDArray[np.int64]


class Vocabulary:
    """The pieces of a SentencePiece BPE model, and what each is built from."""

    def __init__(self, proto: Any) -> None:
        self.pieces = [piece.piece for piece in proto.pieces]
        self.ids = {piece: index for index, piece in enumerate(self.pieces)}
        self._scores = {p.piece: p.score for p in proto.pieces if p.type == NORMAL}
        self._closures: dict[int, frozenset[int]] = {}
        # Without byte pieces a lost character is lost text.
        is_lossy = not ids_of_types(proto, [BYTE])
        characters = {self.ids[piece] for piece in self._scores if is_lossy and len(piece) == 1}
        types = (UNKNOWN, CONTROL, USER_DEFINED, BYTE)
        self.mandatory = frozenset(ids_of_types(proto, types)) | characters
        """Pieces that every selection keeps, chosen by their type."""

    def closure(self, index: int) -> frozenset[int]:
        """Return the ids that building a piece takes, its own included."""
        if index not in self._closures:
            path = build_path(self.pieces[index], self._scores)
            self._closures[index] = frozenset((index, *(self.ids[piece] for piece in path)))
        return self._closures[index]

    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece by merging."""
        return bool(build_path(self.pieces[index], self._scores))


def select(
    vocabulary: Vocabulary, counts: Counts, size: int, mandatory: Iterable[int] = ()
) -> list[int]:
    """Return the ids of exactly `size` pieces to keep, in their old order.

    counts: (n_pieces,), how often each id occurs. Mandatory pieces (those of the vocabulary and
    those given) come first, then the most frequent, each with the pieces it is built from, as
    long as they fit. Room that is left goes to pieces that do not occur, in their old order.
    A text all of whose tokens are kept is tokenized as before, because every merge it took is
    still there and still the best of fewer candidates.
    Raises ConfigError if `size` is no size between the mandatory pieces and all of them.
    """
    kept = set(vocabulary.mandatory) | set(mandatory)
    n_pieces = len(vocabulary.pieces)
    if not len(kept) <= size < n_pieces:
        raise ConfigError(
            f"--vocab-size {size} is not possible: the source has {n_pieces:,} pieces, of which"
            f" {len(kept):,} must stay; choose from {len(kept):,} to {n_pieces - 1:,}"
        )
    order = _by_frequency(vocabulary, counts)
    while len(kept) < size:
        # One pass may skip a piece whose parts did not all fit; they are smaller the next time.
        for index in order:
            if len(kept) == size:
                break
            missing = vocabulary.closure(index) - kept
            if len(kept) + len(missing) <= size:
                kept |= missing
    return sorted(kept)


def coverage_curve(
    vocabulary: Vocabulary, counts: Counts, n_points: int = 16
) -> list[dict[str, float]]:
    """Return points of {rows, coverage}: the share of token occurrences kept by so many rows.

    Rows are evenly spaced on a logarithmic scale, from the mandatory ones to those that cover all.
    """
    rows_and_covered = list(_grow(vocabulary, counts))
    rows = np.array([row for row, _ in rows_and_covered])
    wanted = np.geomspace(max(1, rows[0]), max(1, rows[-1]), n_points)
    chosen = np.unique(np.searchsorted(rows, wanted - 0.5).clip(0, len(rows) - 1))
    total = max(1, int(counts.sum()))
    points = [rows_and_covered[index] for index in chosen]
    return [{"rows": row, "coverage": covered / total} for row, covered in points]


def _grow(vocabulary: Vocabulary, counts: Counts) -> Iterator[tuple[int, int]]:
    """Yield (rows, occurrences covered) as pieces are added until all that occur are kept."""
    kept = set(vocabulary.mandatory)
    covered = int(counts[sorted(kept)].sum())
    yield len(kept), covered
    for index in _by_frequency(vocabulary, counts):
        if counts[index] == 0:
            return
        missing = vocabulary.closure(index) - kept
        kept |= missing
        covered += int(counts[sorted(missing)].sum())
        if missing:
            yield len(kept), covered


def _by_frequency(vocabulary: Vocabulary, counts: Counts) -> Sequence[int]:
    """Order ids by count; of equal count first those that text can be tokenized into."""
    occurs_not = [index for index in range(len(counts)) if counts[index] == 0]
    unreachable = {index for index in occurs_not if not vocabulary.is_reachable(index)}
    return sorted(range(len(counts)), key=lambda i: (-int(counts[i]), i in unreachable, i))
