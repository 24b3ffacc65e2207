"""Which pieces a compact tokenizer keeps: those that save most, each with what builds it."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edgetiny.errors import ConfigError
from edgetiny.tokenizer.vocabulary import Counts, Gains, Vocabulary


def select(
    vocabulary: Vocabulary, gains: Gains, size: int, mandatory: Iterable[int] = ()
) -> list[int]:
    """Return the ids of exactly `size` pieces to keep, in their old order.

    gains: (n_pieces,), what keeping each piece is worth. Mandatory pieces (those of the vocabulary
    and those given) come first, with what they are built from; then the pieces of the highest
    gain, each with the pieces it is built from, as long as they fit. Room that is left goes to
    pieces without gain, in their old order. A text all of whose tokens are kept is tokenized as
    before, because every merge it took is still there and still the best of fewer candidates.
    Raises ConfigError if `size` is no size between the mandatory pieces and all of them.
    """
    kept = must_stay(vocabulary, mandatory)
    n_pieces = len(vocabulary.pieces)
    if not len(kept) <= size < n_pieces:
        raise ConfigError(
            f"--vocab-size {size} is not possible: the source has {n_pieces:,} pieces, of which"
            f" {len(kept):,} must stay; choose from {len(kept):,} to {n_pieces - 1:,}"
        )
    order = _by_gain(vocabulary, gains)
    while len(kept) < size:
        # One pass may skip a piece whose parts did not all fit; they are smaller the next time.
        for index in order:
            if len(kept) == size:
                break
            if index in kept:
                continue
            missing = vocabulary.closure(index) - kept
            if len(kept) + len(missing) <= size:
                kept |= missing
    return sorted(kept)


def must_stay(vocabulary: Vocabulary, mandatory: Iterable[int] = ()) -> set[int]:
    """Return the pieces that every selection holds, with all that they are built from."""
    asked = vocabulary.mandatory.union(mandatory)
    return set().union(*(vocabulary.closure(index) for index in asked))


def coverage_curve(
    vocabulary: Vocabulary, counts: Counts, gains: Gains, sizes: Sequence[int] | None = None
) -> list[dict[str, float]]:
    """Return points of {rows, coverage}: the share of token occurrences kept by so many rows.

    sizes: the row counts to report; without them 16, evenly spaced on a logarithmic scale, from
    the mandatory ones to those that cover all.
    """
    rows_and_covered = list(_grow(vocabulary, counts, gains))
    rows = np.array([row for row, _ in rows_and_covered])
    wanted = np.geomspace(max(1, rows[0]), max(1, rows[-1]), 16) if sizes is None else sizes
    after = np.searchsorted(rows, np.asarray(wanted) + 0.5) - 1
    chosen = np.unique(after.clip(0, len(rows) - 1))
    total = max(1, int(counts.sum()))
    points = [rows_and_covered[index] for index in chosen]
    return [{"rows": row, "coverage": covered / total} for row, covered in points]


def _grow(vocabulary: Vocabulary, counts: Counts, gains: Gains) -> Iterator[tuple[int, int]]:
    """Yield (rows, occurrences covered) as pieces are added until all that occur are kept."""
    kept = must_stay(vocabulary)
    covered = int(counts[sorted(kept)].sum())
    total = int(counts.sum())
    yield len(kept), covered
    for index in _by_gain(vocabulary, gains):
        if covered == total:
            return
        if index in kept:
            continue
        missing = vocabulary.closure(index) - kept
        kept |= missing
        covered += int(counts[sorted(missing)].sum())
        yield len(kept), covered


def _by_gain(vocabulary: Vocabulary, gains: Gains) -> Sequence[int]:
    """Order ids by gain; of equal gain first those that text can be tokenized into."""
    idle = [index for index in range(len(gains)) if gains[index] == 0]
    unreachable = {index for index in idle if not vocabulary.is_reachable(index)}
    return sorted(range(len(gains)), key=lambda i: (-float(gains[i]), i in unreachable, i))
