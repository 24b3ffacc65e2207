"""What the pieces of a `tokenizer.json` are built from: its merges, the first the best."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from edgetiny.tokenizer.byte_level import CHARACTER_OF_BYTE
from edgetiny.tokenizer.json_file import JsonFile
from edgetiny.tokenizer.merge import NEVER, Rank, last_merge
from edgetiny.tokenizer.vocabulary import MergeVocabulary


class WholeWordVocabulary(MergeVocabulary):
    """Pieces that a word becomes if it is one, whatever merging would build (`ignore_merges`)."""

    def is_reachable(self, index: int) -> bool:
        """Whether any text is tokenized into this piece: an id without a piece is not."""
        return bool(self.pieces[index])


def json_vocabulary(file: JsonFile) -> MergeVocabulary:
    """Return the pieces of a BPE `tokenizer.json`, with the merges that build them.

    Every added token stays, and what nothing else could spell: the symbols of bytes; without
    bytes every single character.
    """
    ranks: dict[tuple[str, str], float] = {}
    for order, merge in enumerate(file.text_merges):
        ranks[merge] = order
    unknown = file.model.get("unk_token")
    ids = {
        piece: index
        for piece, index in file.vocab.items()
        if index not in file.special_ids and index not in file.byte_ids and piece != unknown
    }
    symbols = _symbols(file, ids)
    stays = {*file.added, *file.byte_ids, *symbols}
    if unknown in file.vocab:
        stays.add(file.vocab[unknown])

    def rank(left: str, right: str) -> float:
        return ranks.get((left, right), NEVER)

    kind = WholeWordVocabulary if file.ignores_merges else MergeVocabulary
    return kind(file.pieces, frozenset(stays), ids, rank, _worth(file, ids, rank))


def _symbols(file: JsonFile, ids: Mapping[str, int]) -> set[int]:
    """Return the ids of what every text is spelled in when nothing merges."""
    if file.is_byte_level:
        return {ids[symbol] for symbol in CHARACTER_OF_BYTE.values() if symbol in ids}
    if file.byte_ids:
        return set()
    return {index for piece, index in ids.items() if len(piece) == 1}


def _worth(file: JsonFile, ids: Mapping[str, int], rank: Rank) -> dict[int, int]:
    """Return the tokens that each piece saves which merging does not build."""
    worth = {
        index: len(piece.encode("utf-8")) - 1 for piece, index in ids.items() if len(piece) == 1
    }
    if file.ignores_merges:
        for piece, index in ids.items():
            if len(piece) > 1 and last_merge(piece, rank) is None:
                worth[index] = len(merged(piece, rank)) - 1
    return worth


def merged(text: str, rank: Rank) -> Sequence[str]:
    """Return the pieces that merging makes of a word."""
    symbols = list(text)
    while ranks := [rank(left, right) for left, right in pairwise(symbols)]:
        if (first := min(ranks)) == NEVER:
            break
        place = ranks.index(first)
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    return symbols
