"""What the pieces of a tokenizer are built from, and what each is worth."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetiny.tokenizer.merge import NEVER, Rank, last_merge
from edgetiny.tokenizer.model_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    ids_of_types,
)

# In bytes a digit takes no more tokens, but one that the model has hardly ever seen: where rows are
# left over, they go to such symbols before pieces that the text does not need.
_SYMBOL_WORTH = 0.1

Counts = NDArray[np.int64]
Gains = NDArray[np.float64]

# What a piece that never occurred may gain at most, as a share of what any that did gains.
_UNSEEN = 1e-3


class Vocabulary(ABC):
    """The pieces of a tokenizer: which must stay, what each takes to be built, what it saves.

    Losing a piece leaves the pieces that it is built from, so it costs `worth` tokens each time it
    would have been *built*. That is more often than it ends as a token: also on the way to longer
    pieces, whose loss would leave it behind. A part is built at least as often as the whole, so the
    pieces that save most are closed under what they are built from; and of all closed selections
    of their size they save most, as long as what a lost piece leaves does not merge with its
    neighbours.
    """

    def __init__(self, pieces: Sequence[str], mandatory: frozenset[int]) -> None:
        self.pieces = pieces
        self.mandatory = mandatory
        """Ids that every selection keeps: specials, bytes, declared tokens, and the characters
        that nothing else could spell."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[int, tuple[int, ...]]:
        """The pieces that each piece is directly built from, if it is built from any."""

    @abstractmethod
    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece."""

    @property
    @abstractmethod
    def worth(self) -> Gains:
        """About how many tokens a piece saves each time it is built: (n_pieces,)."""

    def closure(self, index: int) -> frozenset[int]:
        """Return the ids that building a piece takes, its own included."""
        found, waiting = {index}, [index]
        while waiting:
            new = set(self.parts.get(waiting.pop(), ())) - found
            found |= new
            waiting += new
        return frozenset(found)

    def prepare(self) -> None:
        """Work out now what `built` needs, a second or so for a large vocabulary."""
        _ = self._ancestry

    def built(self, ids: Counts, occurrences: Counts) -> tuple[Counts, Counts]:
        """Return which pieces are built and how often, for tokens given in the same way.

        Both (n,), ids ascending and each once.
        """
        starts, ends = self._ancestry.starts[ids], self._ancestry.starts[ids + 1]
        n_each = ends - starts
        first = np.repeat(starts - np.concatenate(([0], np.cumsum(n_each)[:-1])), n_each)
        places = first + np.arange(len(first))
        times = self._ancestry.times[places] * np.repeat(occurrences, n_each)
        summed = np.bincount(self._ancestry.ids[places], weights=times)
        found = np.flatnonzero(summed)
        return found, summed[found].astype(np.int64)

    def gains(self, counts: Counts) -> Gains:
        """Return about how many tokens each piece saves: (n_pieces,).

        counts: (n_pieces,), how often each piece is a token of the text.
        """
        ids = np.flatnonzero(counts)
        built = np.zeros(len(self.pieces))
        found, times = self.built(ids, counts[ids])
        built[found] = times
        return self.gains_of_built(built)

    def gains_of_built(self, built: NDArray[np.float64]) -> Gains:
        """Return about how many tokens each piece saves: (n_pieces,).

        built: (n_pieces,), how often each piece is built, or how often it may be expected to. A
        piece that never was gains less than any that was, the more the more often its two parts
        are: they are the likeliest to meet.
        """
        gains = built * self.worth
        meetings = np.zeros(len(built))
        for index, parts in self.parts.items():
            if built[index] == 0 and len(parts) == 2:
                meetings[index] = built[parts[0]] * built[parts[1]]
        if meetings.any():
            smallest = gains[gains > 0].min()
            gains += meetings * (_UNSEEN * smallest / meetings.max())
        return gains

    @cached_property
    def _ancestry(self) -> "_Ancestry":
        return _Ancestry(self.pieces, self.parts)


class _Ancestry:
    """Of every piece, all pieces that are built when it is, and how often each.

    The lists of all pieces lie one after another: those of piece i from starts[i] to starts[i + 1].
    """

    def __init__(self, pieces: Sequence[str], parts: Mapping[int, tuple[int, ...]]) -> None:
        lists = [{index: 1} for index in range(len(pieces))]
        # A part is shorter than the whole, so it comes first.
        for index in sorted(parts, key=lambda index: len(pieces[index])):
            times = lists[index]
            for part in parts[index]:
                for each, count in lists[part].items():
                    times[each] = times.get(each, 0) + count
        self.starts = np.cumsum([0, *map(len, lists)])
        self.ids = np.fromiter(chain.from_iterable(lists), dtype=np.int64)
        self.times = np.fromiter(chain.from_iterable(map(dict.values, lists)), dtype=np.int64)


class MergeVocabulary(Vocabulary):
    """Pieces that merging builds (BPE), each from two others, down to single symbols.

    A piece is built by the same merges wherever it occurs, so losing it leaves its two parts: one
    token more.
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
    def parts(self) -> Mapping[int, tuple[int, ...]]:
        """The pieces that the last merge of each piece joins; only of what merging builds.

        Two, or fewer where a character has no piece of its own, which SentencePiece allows.
        """
        found = {}
        for piece, index in self._ids.items():
            joined = last_merge(piece, self._rank) if len(piece) > 1 else None
            if joined is not None:
                found[index] = tuple(self._ids[part] for part in joined if part in self._ids)
        return found

    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece."""
        return index in self.parts or len(self.pieces[index]) == 1 or index in self.mandatory

    @cached_property
    def worth(self) -> Gains:
        """One token for what is merged from two; of a symbol the bytes that would spell it."""
        worth = np.zeros(len(self.pieces))
        worth[list(self.parts)] = 1
        for index, saved in self._symbol_worth.items():
            worth[index] = max(saved, _SYMBOL_WORTH)
        return worth


def sentencepiece_bpe_vocabulary(proto: Any) -> MergeVocabulary:
    """Return the pieces of a SentencePiece BPE model: the join of the best score merges first."""
    pieces = [piece.piece for piece in proto.pieces]
    normal = set(ids_of_types(proto, [NORMAL]))
    ids = {piece: index for index, piece in enumerate(pieces) if index in normal}
    ranks: dict[str, float] = {piece: -proto.pieces[index].score for piece, index in ids.items()}
    characters: set[int] = set()
    if not ids_of_types(proto, [BYTE]):
        # Without byte pieces a lost character is lost text.
        characters = {index for piece, index in ids.items() if len(piece) == 1}
        characters |= without_spelling(pieces, ids.values())
    types = (UNKNOWN, CONTROL, USER_DEFINED, BYTE)
    worth = {
        index: len(piece.encode("utf-8")) - 1 for piece, index in ids.items() if len(piece) == 1
    }

    def rank(left: str, right: str) -> float:
        return ranks.get(left + right, NEVER)

    return MergeVocabulary(
        pieces, frozenset(ids_of_types(proto, types)) | characters, ids, rank, worth
    )


def without_spelling(pieces: Sequence[str], competing: Iterable[int]) -> set[int]:
    """Return the pieces with a character that has no piece: nothing else could spell them."""
    chosen = list(competing)
    characters = {pieces[index] for index in chosen}
    return {index for index in chosen if not characters.issuperset(pieces[index])}
