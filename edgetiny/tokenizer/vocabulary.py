"""What the pieces of a tokenizer are built from, and what each is worth."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetiny.tokenizer.merge import Rank, last_merge
from edgetiny.tokenizer.model_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    ids_of_types,
)

Counts = NDArray[np.int64]
Gains = NDArray[np.float64]


class Vocabulary(ABC):
    """The pieces of a tokenizer: which must stay, what each takes to be built, what it saves."""

    def __init__(self, pieces: Sequence[str], mandatory: frozenset[int]) -> None:
        self.pieces = pieces
        self.mandatory = mandatory
        """Ids that every selection keeps: specials, bytes, declared tokens, and the characters
        that nothing else could spell."""

    @abstractmethod
    def closure(self, index: int) -> frozenset[int]:
        """Return the ids that building a piece takes, its own included."""

    @abstractmethod
    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece."""

    @abstractmethod
    def gains(self, counts: Counts, kept: NDArray[np.bool_] | None = None) -> Gains:
        """Return about how many tokens each kept piece saves: (n_pieces,), 0 for those not kept.

        counts: (n_pieces,), occurrences in text tokenized with the kept pieces alone; kept:
        (n_pieces,), by default all. The loss of a piece costs its gain when everything that is
        built from it has been lost before.
        """


class MergeVocabulary(Vocabulary):
    """Pieces that merging builds (BPE), each from two others, down to single symbols.

    A piece is built by the same merges wherever it occurs, so losing it leaves its two parts: one
    token more. It also ends as a token of its own less often than it is built, on the way to the
    longer pieces, whose loss would leave it behind. So what it saves is how often it is *built*.
    A part is built at least as often as the whole: the pieces that save most are closed under
    what they are built from, and of all closed selections of their size they save most, as long as
    the parts of a lost piece do not merge with their neighbours.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        mandatory: frozenset[int],
        ids: Mapping[str, int],
        rank: Rank,
        symbol_worth: Mapping[int, int],
    ) -> None:
        """ids: of the pieces that merging may build or start from, by their text.

        symbol_worth: tokens saved by each single symbol that is not mandatory, when it occurs.
        """
        super().__init__(pieces, mandatory)
        self._ids = ids
        self._rank = rank
        self._symbol_worth = symbol_worth

    @cached_property
    def parts(self) -> dict[int, tuple[int, ...]]:
        """The pieces that the last merge of each piece joins; only of what merging builds.

        Two, or fewer where a character has no piece of its own, which SentencePiece allows.
        """
        found = {}
        for piece, index in self._ids.items():
            joined = last_merge(piece, self._rank) if len(piece) > 1 else None
            if joined is not None:
                found[index] = tuple(self._ids[part] for part in joined if part in self._ids)
        return found

    def closure(self, index: int) -> frozenset[int]:
        """Return the ids that building a piece takes, its own included."""
        found, waiting = {index}, [index]
        while waiting:
            new = set(self.parts.get(waiting.pop(), ())) - found
            found |= new
            waiting += new
        return frozenset(found)

    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece."""
        return index in self.parts or len(self.pieces[index]) == 1 or index in self.mandatory

    def gains(self, counts: Counts, kept: NDArray[np.bool_] | None = None) -> Gains:
        """Return about how many tokens each kept piece saves."""
        built = self.built(counts)
        worth = np.zeros(len(self.pieces))
        worth[list(self.parts)] = 1
        for index, saved in self._symbol_worth.items():
            worth[index] = saved
        gains: Gains = built * worth
        return gains if kept is None else np.where(kept, gains, 0.0)

    def built(self, counts: Counts) -> Counts:
        """Return how often each piece is built, as a token or on the way to one: (n_pieces,)."""
        built = counts.copy()
        for index in self._longest_first:
            for part in self.parts[index]:
                built[part] += built[index]
        return built

    @cached_property
    def _longest_first(self) -> list[int]:
        return sorted(self.parts, key=lambda index: -len(self.pieces[index]))


def sentencepiece_bpe_vocabulary(proto: Any) -> MergeVocabulary:
    """Return the pieces of a SentencePiece BPE model: the join of the best score merges first."""
    pieces = [piece.piece for piece in proto.pieces]
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    ids = {piece: index for index, piece in enumerate(pieces) if piece in scores}
    characters: set[int] = set()
    if not ids_of_types(proto, [BYTE]):
        # Without byte pieces a lost character is lost text.
        characters = {index for piece, index in ids.items() if len(piece) == 1}
        characters |= without_spelling(pieces, ids.values())
    types = (UNKNOWN, CONTROL, USER_DEFINED, BYTE)
    worth = {
        index: len(piece.encode("utf-8")) - 1 for piece, index in ids.items() if len(piece) == 1
    }

    def rank(left: str, right: str) -> float | None:
        score = scores.get(left + right)
        return None if score is None else -score

    return MergeVocabulary(
        pieces, frozenset(ids_of_types(proto, types)) | characters, ids, rank, worth
    )


def without_spelling(pieces: Sequence[str], competing: Iterable[int]) -> set[int]:
    """Return the pieces with a character that has no piece: nothing else could spell them."""
    chosen = list(competing)
    characters = {pieces[index] for index in chosen}
    return {index for index in chosen if not characters.issuperset(pieces[index])}
