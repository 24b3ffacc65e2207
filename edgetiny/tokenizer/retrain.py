"""`edgetiny tokenizer compress --retrain`: new pieces for an existing model, in old ones' terms."""

from collections.abc import Sequence
from pathlib import Path

from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.console import Reporter
from edgetiny.errors import ConfigError
from edgetiny.files import read_json, write_json
from edgetiny.tokenizer.always_kept import named
from edgetiny.tokenizer.compact import MAP_FILE, write_compact
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.retrain_json import grow_json
from edgetiny.tokenizer.retrain_sentencepiece import grow_sentencepiece
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from edgetiny.tokenizer.source import Source
from edgetiny.tokenizer.tokenizer import Tokenizer
from edgetiny.tokenizer.train import read_corpus

MEANS_KEY = "new_to_old_means"


def write_retrained(
    folder: Path, source: Source, text: Sequence[Path], size: int, reporter: Reporter
) -> list[tuple[int, ...]]:
    """Write a tokenizer of `size` pieces learnt from text; return the old ids of each new one.

    What no text needs to learn stays, first and in its old order: specials, bytes, added tokens,
    without bytes every character. Then come the new pieces, the best first. The old ids of a new
    piece are the tokens that spelled it: its row starts as the mean of theirs.
    Raises ConfigError if the text gives fewer pieces.
    """
    tokenizer = source.tokenizer
    kept = sorted(named(tokenizer) | source.special_ids)
    if size <= len(kept):
        raise ConfigError(
            f"--vocab-size {size} leaves no room for new pieces: {len(kept):,} must stay"
        )
    lines = read_corpus(TokenizerTrainConfig(text=tuple(text), out=folder), reporter).lines
    reporter.say(f"learning {size - len(kept):,} new pieces from {len(lines):,} lines")
    write_compact(folder, tokenizer, kept)
    learnt = _grow(folder, tokenizer, kept, lines, size)
    old_ids = [*((index,) for index in kept), *learnt]
    mapping = read_json(folder / MAP_FILE) | {"vocab_size": size}
    del mapping["new_to_old"]
    write_json(folder / MAP_FILE, mapping | {MEANS_KEY: [list(old) for old in old_ids]})
    return old_ids


def _grow(
    folder: Path, tokenizer: Tokenizer, kept: Sequence[int], lines: list[str], size: int
) -> list[tuple[int, ...]]:
    if isinstance(tokenizer, JsonTokenizer):
        return grow_json(folder, tokenizer, lines, size)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return grow_sentencepiece(folder, tokenizer, kept, lines, size)
