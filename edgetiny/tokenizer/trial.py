"""What a smaller vocabulary would be at any size: its pieces, their coverage, the growth."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgetiny.errors import ConfigError
from edgetiny.tokenizer.counts import TokenCounts
from edgetiny.tokenizer.growth import Growth
from edgetiny.tokenizer.json_compact import keep_tokens
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.locate import JSON_FILE, MODEL_FILE
from edgetiny.tokenizer.model_file import keep_pieces
from edgetiny.tokenizer.rows import padded
from edgetiny.tokenizer.sample import Sample
from edgetiny.tokenizer.select import must_stay, select
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from edgetiny.tokenizer.tokenizer import Tokenizer
from edgetiny.tokenizer.vocabulary import Counts, Gains, Vocabulary


@dataclass(frozen=True, slots=True)
class Trial:
    """One size: which pieces stay, the share of token occurrences that they cover, the growth."""

    kept: Sequence[int]
    coverage: float
    growth: Mapping[str, Growth]
    """By group of the sample; empty without one."""

    @property
    def pieces(self) -> int:
        return len(self.kept)

    @property
    def worst_growth(self) -> float:
        """The growth of the group that grows most."""
        return max(part.share for part in self.growth.values())


class Trials:
    """The vocabularies that one source gives for one text, by size. Each is made once."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        counts: TokenCounts,
        mandatory: Iterable[int],
        sample: Sample | None = None,
    ) -> None:
        """counts: of the text to choose by. sample: what growth is measured on."""
        self.tokenizer = tokenizer
        self.counts: Counts = counts.by_id
        self._spread = counts.spread
        self.vocabulary: Vocabulary = tokenizer.vocabulary()
        self.mandatory = must_stay(self.vocabulary, mandatory)
        self._sample = sample
        self._done: dict[int, Trial] = {}

    @cached_property
    def sizes(self) -> range:
        """The multiples of 64 that are possible: no row of theirs is padding."""
        last = len(self.vocabulary.pieces) - 1
        sizes = range(padded(max(1, len(self.mandatory))), last + 1, padded(1))
        if not sizes:
            raise ConfigError(
                f"{self.tokenizer.path} has {last + 1:,} pieces, of which {len(self.mandatory):,}"
                " must stay: no multiple of 64 lies between; give a --vocab-size"
            )
        return sizes

    def kept(self, size: int) -> list[int]:
        """Return the ids that stay at a size. Raises ConfigError for an impossible one."""
        return select(self.vocabulary, self.gains, size, self.mandatory)

    def coverage(self, kept: Sequence[int]) -> float:
        """Return the share of token occurrences whose piece is kept."""
        return int(self.counts[list(kept)].sum()) / int(self.counts.sum())

    def fewest_covering(self, share: float) -> int:
        """Return the smallest of `sizes` that covers a share. Raises ConfigError if none does."""
        if self.coverage(self.kept(self.sizes[-1])) < share:
            raise ConfigError(
                f"--coverage {share} cannot be reached with {self.sizes[-1]:,} pieces, the most"
            )
        low, high = 0, len(self.sizes) - 1
        while low < high:
            middle = (low + high) // 2
            if self.coverage(self.kept(self.sizes[middle])) >= share:
                high = middle
            else:
                low = middle + 1
        return self.sizes[high]

    def at(self, size: int) -> Trial:
        """Return the vocabulary of a size, measured on the sample."""
        if size not in self._done:
            kept = self.kept(size)
            growth = {} if self._sample is None else self._growth(self._sample, kept)
            self._done[size] = Trial(kept, self.coverage(kept), growth)
        return self._done[size]

    def _growth(self, sample: Sample, kept: Sequence[int]) -> dict[str, Growth]:
        compact = _compact(self.tokenizer, kept)
        return {
            group: Growth(sample.bytes(group), before, _count(compact, sample.texts(group)))
            for group, before in self._before.items()
        }

    @cached_property
    def _before(self) -> dict[str, int]:
        assert self._sample is not None
        return {
            group: _count(self.tokenizer, self._sample.texts(group))
            for group in self._sample.groups
        }

    @cached_property
    def gains(self) -> Gains:
        """What keeping each piece is worth: (vocab_size,)."""
        return self.vocabulary.gains_of_built(self._spread)


def _compact(tokenizer: Tokenizer, kept: Sequence[int]) -> Tokenizer:
    """Return the tokenizer with only the kept pieces, without the files that other loaders need."""
    with tempfile.TemporaryDirectory(prefix="edgetiny-") as folder:
        if isinstance(tokenizer, JsonTokenizer):
            path = Path(folder) / JSON_FILE
            path.write_text(json.dumps(keep_tokens(tokenizer.file, kept)), encoding="utf-8")
        else:
            assert isinstance(tokenizer, SentencePieceTokenizer)
            path = Path(folder) / MODEL_FILE
            path.write_bytes(keep_pieces(tokenizer.proto, kept))
        return Tokenizer.open(path)


def _count(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    return sum(len(tokenizer.encode(text)) for text in texts)
