"""The pieces of a SentencePiece unigram model: how each would be spelled without itself."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from edgetiny.tokenizer.model_file import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, ids_of_types
from edgetiny.tokenizer.vocabulary import Gains, Vocabulary, without_spelling

# An unknown character must lose against any spelling by pieces.
_UNKNOWN_SCORE = -1e3


class UnigramVocabulary(Vocabulary):
    """Pieces of which a text takes those with the best sum of scores (log-probabilities).

    A text all of whose tokens are kept keeps them, since they remain the best. A lost piece is
    spelled by the next best pieces, so it costs as many tokens as those are more than one. Nothing
    is built from others.
    """

    parts: Mapping[int, tuple[int, ...]] = {}

    def __init__(
        self, pieces: list[str], mandatory: frozenset[int], scores: Mapping[int, float]
    ) -> None:
        """scores: of the pieces that compete, by id."""
        super().__init__(pieces, mandatory)
        self._scores = scores
        self._ids = {pieces[index]: index for index in scores}

    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece."""
        if index not in self._scores:
            return index in self.mandatory
        return self._scores[index] >= self._respelled(index)[0]

    @cached_property
    def worth(self) -> Gains:
        """How many tokens more the next best spelling of each piece takes."""
        worth = np.zeros(len(self.pieces))
        for index in self._scores:
            worth[index] = self._respelled(index)[1] - 1
        return worth

    def _respelled(self, index: int) -> tuple[float, int]:
        """Return score and length of the best spelling of a piece by the others.

        Source: Kudo 2018, "Subword Regularization", section 3.2 (the Viterbi algorithm).
        """
        piece = self.pieces[index]
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(piece) + 1):
            score, length = best[end - 1]
            found = (score + _UNKNOWN_SCORE, length + 1)
            for start in range(end):
                part = self._ids.get(piece[start:end])
                if part is not None and part != index:
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
