"""New pieces for a `tokenizer.json`: BPE learnt from text, split and normalised as before."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from edgetiny.errors import ConfigError
from edgetiny.files import read_json
from edgetiny.tokenizer.byte_level import CHARACTER_OF_BYTE
from edgetiny.tokenizer.json_file import split_merge
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.locate import JSON_FILE
from edgetiny.tokenizer.model_file import SPACE

# Without bytes of its own for every character, a text's rare characters would take all rows.
_CHARACTERS_SHARE = 0.5


def grow_json(
    folder: Path, source: JsonTokenizer, lines: Sequence[str], size: int
) -> list[tuple[int, ...]]:
    """Add new pieces to the `tokenizer.json` in a folder; return the old ids of each.

    It holds the pieces that stay; in the end it has `size` of them.
    Raises ConfigError if the text gives too few.
    """
    payload = read_json(folder / JSON_FILE)
    vocab: dict[str, int] = payload["model"]["vocab"]
    # The library numbers added tokens that the model does not hold from the model's size on.
    vocab |= {token["content"]: token["id"] for token in payload.get("added_tokens") or []}
    n_kept = len(vocab)
    learnt = _learn(source, lines, size)
    new = [piece for piece in learnt["vocab"] if piece not in vocab][: size - n_kept]
    if len(new) < size - n_kept:
        raise ConfigError(
            f"--vocab-size {size} is more than this text gives; the largest possible is"
            f" {n_kept + len(new)}: choose that or less, or give more text"
        )
    vocab |= {piece: n_kept + order for order, piece in enumerate(new)}
    merges = [merge for merge in learnt["merges"] if {*_parts(merge)} <= vocab.keys()]
    payload["model"] |= {"vocab": vocab, "merges": merges}
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    model = tokenizers.Tokenizer.from_file(str(source.path)).model
    return [tuple(token.id for token in model.tokenize(piece)) for piece in new]


def _learn(source: JsonTokenizer, lines: Sequence[str], size: int) -> dict[str, Any]:
    """Return the vocabulary (by id) and merges of a new BPE."""
    tokenizer = tokenizers.Tokenizer.from_file(str(source.path))
    tokenizer.model = models.BPE()
    is_byte_level = source.file.is_byte_level
    if not is_byte_level and not source.file.pre_tokenizers:
        tokenizer.pre_tokenizer = _words(source)
    trainer = trainers.BpeTrainer(
        # Learnt pieces that are kept already leave room for others.
        vocab_size=size + len(source.file.added) + len(CHARACTER_OF_BYTE),
        initial_alphabet=list(CHARACTER_OF_BYTE.values()) if is_byte_level else [],
        limit_alphabet=256 if is_byte_level else int(size * _CHARACTERS_SHARE),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    ordered = sorted(model["vocab"].items(), key=lambda item: item[1])
    return {"vocab": dict(ordered), "merges": model["merges"]}


def _words(source: JsonTokenizer) -> pre_tokenizers.PreTokenizer:
    """Return how a text is split before merges are learnt, for a source that splits none.

    Merges must not cross words, or whole lines would become pieces; nor digits, if the source
    keeps each to itself.
    """
    words = pre_tokenizers.Split(SPACE, "merged_with_next")
    bytes_and_specials = source.file.byte_ids.keys() | source.file.special_ids
    learnt = (piece for piece, i in source.file.vocab.items() if i not in bytes_and_specials)
    if any(re.search(r"\d\d", piece) for piece in learnt):
        return words
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([words, digits])


def _parts(merge: str | list[str]) -> tuple[str, str, str]:
    left, right = split_merge(merge)
    return left, right, left + right
