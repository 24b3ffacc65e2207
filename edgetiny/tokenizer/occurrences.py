"""How often each token occurs in texts, each word tokenized once however often it comes."""

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgetiny.tokenizer.model_file import BPE, NORMAL, SPACE, load_model, protobuf
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from edgetiny.tokenizer.tokenizer import Tokenizer

Counts = NDArray[np.int64]

# Texts with fewer spaces than one in so many characters have no words that come again.
_CHARACTERS_A_SPACE = 24
_LONGEST_WORD = 32
# About 100 MB in each process.
_MOST_WORDS = 1 << 19
_ID = np.dtype(np.int32)


def occurrences_in(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Counts, Counts]:
    """Return the ids that occur in texts, ascending, and how often: (n,) and (n,)."""
    words: Counter[str] = Counter()
    tokens: list[int] = []
    cache = _word_cache(tokenizer)
    for text in texts:
        if cache is None or not cache.is_worth(text):
            tokens += tokenizer.encode(text)
            continue
        first, *others = cache.split(text)
        tokens += tokenizer.encode(first)
        words.update(others)
    by_id = np.bincount(np.array(tokens, dtype=np.int64), minlength=tokenizer.vocab_size)
    if cache is not None and words:
        ids, times = cache.tokens(words)
        by_id += np.bincount(ids, weights=times, minlength=len(by_id)).astype(np.int64)
    found = np.flatnonzero(by_id)
    return found, by_id[found]


class WordCache:
    """The tokens of words, where a word is what stands between two spaces that no piece spans.

    What merging does on one side of such a place depends on that side alone, so the tokens of a
    text are those of its words, each with the space before it.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        before = sorted(left for left, right in tokenizer.neighbours if right == SPACE)
        joined = re.escape("".join(before))
        # The space comes first, so that the search goes from space to space.
        self._space = re.compile(f" (?<=[^ {joined}] )")
        bare = protobuf.ModelProto()
        bare.CopyFrom(tokenizer.proto)
        bare.normalizer_spec.add_dummy_prefix = False
        self._processor, _ = load_model(bare.SerializeToString(), "the tokenizer")
        self._known: dict[str, bytes] = {}

    def is_worth(self, text: str) -> bool:
        """Whether a text has words enough; U+2581 in it would pass for a space."""
        return text.count(" ") * _CHARACTERS_A_SPACE > len(text) and SPACE not in text

    def split(self, text: str) -> list[str]:
        """Return the words of a text; before each but the first stood a space."""
        words = self._space.split(text)
        if len(words) > 1 and not words[-1]:
            del words[-1]
            words[-1] += " "
        return words

    def tokens(self, words: Counter[str]) -> tuple[Counts, Counts]:
        """Return the ids of words that follow a space, and how often each word occurs."""
        if len(self._known) > _MOST_WORDS:
            self._known.clear()
        known = self._known
        new = self._spell([word for word in words if word not in known])
        spellings = [known.get(word) or new[word] for word in words]
        known |= {word: tokens for word, tokens in new.items() if len(word) <= _LONGEST_WORD}
        lengths = np.fromiter(map(len, spellings), dtype=np.int64, count=len(spellings))
        times = np.fromiter(words.values(), dtype=np.int64, count=len(spellings))
        ids = np.frombuffer(b"".join(spellings), dtype=_ID).astype(np.int64)
        return ids, np.repeat(times, lengths // _ID.itemsize)

    def _spell(self, words: list[str]) -> dict[str, bytes]:
        found = self._processor.encode([f" {word}" for word in words], num_threads=1)
        return {
            word: array(_ID.char, ids).tobytes() for word, ids in zip(words, found, strict=True)
        }


@lru_cache(maxsize=2)
def _word_cache(tokenizer: Tokenizer) -> WordCache | None:
    """Return the words of a tokenizer; None for one whose tokens depend on more than a word."""
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return None
    spec, pieces = tokenizer.proto.normalizer_spec, tokenizer.proto.pieces
    is_verbatim = not spec.precompiled_charsmap and not spec.remove_extra_whitespaces
    is_merging = tokenizer.proto.trainer_spec.model_type == BPE
    # Neighbouring unknown characters become one unknown token: the space must not be one.
    has_space = any(piece.piece == SPACE and piece.type == NORMAL for piece in pieces)
    return WordCache(tokenizer) if is_verbatim and is_merging and has_space else None
