"""The pieces of a SentencePiece unigram model: how each would be spelled without itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetiny.tokenizer.model_file import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, ids_of_types
from edgetiny.tokenizer.vocabulary import Counts, Gains, Vocabulary, without_spelling


class UnigramVocabulary(Vocabulary):
    """Pieces of which a text takes those with the best sum of scores (log-probabilities).

    A text all of whose tokens are kept keeps them, since they remain the best. A lost piece is
    spelled by the next best pieces, so it costs as many tokens as those are more than one.
    """

    def __init__(
        self, pieces: list[str], mandatory: frozenset[int], scores: Mapping[int, float]
    ) -> None:
        """scores: of the pieces that compete, by id."""
        super().__init__(pieces, mandatory)
        self._scores = scores
        self._ids = {pieces[index]: index for index in scores}

    def closure(self, index: int) -> frozenset[int]:
        """Return the piece alone: nothing is built from others."""
        return frozenset((index,))

    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece."""
        if index not in self._scores:
            return index in self.mandatory
        score, _ = self._respell(index, np.ones(len(self.pieces), dtype=np.bool_))
        return self._scores[index] >= score

    def gains(self, counts: Counts, kept: NDArray[np.bool_] | None = None) -> Gains:
        """Return how many tokens each kept piece saves, were it the only one to be lost."""
        gains = np.zeros(len(self.pieces))
        if kept is None:
            kept = np.ones(len(self.pieces), dtype=np.bool_)
        for index in np.flatnonzero((counts > 0) & kept).tolist():
            if index in self._scores and len(self.pieces[index]) > 1:
                _, n_tokens = self._respell(index, kept)
                gains[index] = counts[index] * (n_tokens - 1)
        return gains

    def _respell(self, index: int, kept: NDArray[np.bool_]) -> tuple[float, int]:
        """Return score and length of the best spelling of a piece by other kept pieces.

        Source: Kudo 2018, "Subword Regularization", section 3.2 (the Viterbi algorithm).
        """
        piece = self.pieces[index]
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(piece) + 1):
            # A character without a piece of its own is one unknown token, and no good one.
            score, length = best[end - 1]
            found = (score - 1e3, length + 1)
            for start in range(end):
                part = self._ids.get(piece[start:end])
                if part is not None and part != index and kept[part]:
                    score, length = best[start]
                    found = max(found, (score + self._scores[part], length + 1))
            best.append(found)
        return best[-1]


def unigram_vocabulary(proto: Any) -> UnigramVocabulary:
    """Return the pieces of a SentencePiece unigram model. Every single character must stay."""
    pieces = [piece.piece for piece in proto.pieces]
    scores = {
        index: piece.score for index, piece in enumerate(proto.pieces) if piece.type == NORMAL
    }
    characters = {index for index in scores if len(pieces[index]) == 1}
    if not ids_of_types(proto, [BYTE]):
        characters |= without_spelling(pieces, scores)
    types = (UNKNOWN, CONTROL, USER_DEFINED, BYTE)
    return UnigramVocabulary(pieces, frozenset(ids_of_types(proto, types)) | characters, scores)
