"""How often each piece is built, summed over works so that no single one decides."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from edgetiny.tokenizer.vocabulary import Counts, Vocabulary

# What a text needs of rare pieces is mostly its own: names, a topic, a language that it quotes.
# Counts to this power expect of the next work what many works share rather than what one repeats.
# Chosen on held-out works, see docs/results/tokenizer_growth.md.
_EXPONENT = 0.7
# Works whose parts are still coming; a part of an older one counts as another work.
_OPEN_WORKS = 16


class Spread:
    """The sum over works of the times that each piece is built in the work, to the power of 0.7.

    The parts of a work come one after another, perhaps between those of a few other works.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._total = np.zeros(len(vocabulary.pieces))
        self._open: OrderedDict[str, Counts] = OrderedDict()

    def add(self, work: str | None, ids: Counts, occurrences: Counts) -> None:
        """Add tokens of a work: ids ascending and each once. Without a name it is complete."""
        if work is None:
            self._close(ids, occurrences)
            return
        counts = self._open.pop(work, None)
        if counts is None:
            counts = np.zeros(len(self._total), dtype=np.int64)
        counts[ids] += occurrences
        self._open[work] = counts
        if len(self._open) > _OPEN_WORKS:
            _, oldest = self._open.popitem(last=False)
            self._close_counts(oldest)

    def total(self) -> NDArray[np.float64]:
        """Return the sum over all works so far: (n_pieces,). Open works are complete now."""
        while self._open:
            self._close_counts(self._open.popitem()[1])
        return self._total

    def _close_counts(self, counts: Counts) -> None:
        ids = np.flatnonzero(counts)
        self._close(ids, counts[ids])

    def _close(self, ids: Counts, occurrences: Counts) -> None:
        built, times = self._vocabulary.built(ids, occurrences)
        self._total[built] += times.astype(np.float64) ** _EXPONENT
