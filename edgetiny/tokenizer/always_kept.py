"""The tokens that no smaller vocabulary may lose."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgetiny.tokenizer.chat_template import template_texts
from edgetiny.tokenizer.companions import (
    additional_specials,
    chat_templates,
    declared_tokens,
    role_tokens,
)
from edgetiny.tokenizer.json_compact import post_processor_ids
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.tokenizer import Tokenizer


def always_kept(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids that every selection keeps, those of its vocabulary included.

    What is `named`, and every token that the chat template emits. Raises DataError for companions
    that are damaged.
    """
    pieces, stays = tokenizer.vocabulary().pieces, set(named(tokenizer))
    whole = {pieces[index] for index in stays}
    stays.update(_template_ids(tokenizer, {piece for piece in whole if len(piece) > 1}))
    return frozenset(index for index in stays if index < tokenizer.vocab_size)


def named(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids of specials, bytes and added tokens, and of what the files beside give a role.

    Raises DataError for companions that are damaged.
    """
    vocabulary = tokenizer.vocabulary()
    ids = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    stays = {*vocabulary.mandatory, *declared_tokens(tokenizer.path)}
    roles = (*role_tokens(tokenizer.path).values(), *additional_specials(tokenizer.path))
    stays |= {ids[token] for token in roles if token in ids}
    if isinstance(tokenizer, JsonTokenizer):
        stays |= post_processor_ids(tokenizer.file.payload)
    return frozenset(index for index in stays if index < tokenizer.vocab_size)


def _template_ids(tokenizer: Tokenizer, whole: Iterable[str]) -> Iterator[int]:
    """Yield the ids of what chat templates emit, around the tokens that are matched whole."""
    longest_first = sorted(whole, key=len, reverse=True)
    marks = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    for text in _template_texts(tokenizer.path):
        for part in filter(None, marks.split(text)):
            yield from tokenizer.encode(part)
            # Inside a text there is no dummy prefix.
            yield from tokenizer.encode(f"\n{part}")


def _template_texts(model_file: Path) -> Iterator[str]:
    roles = role_tokens(model_file)
    for template in chat_templates(model_file):
        yield from template_texts(template, roles)
