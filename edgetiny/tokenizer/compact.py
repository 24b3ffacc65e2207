"""Writing a tokenizer with fewer pieces, in the forms that every loader reads."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetiny.errors import DataError
from edgetiny.files import write_json
from edgetiny.tokenizer.companions import (
    ADDED_FILE,
    CONFIG_FILE,
    DECODER_KEY,
    ROLES_FILE,
    TEMPLATE_FILE,
    declared_tokens,
    read_beside,
)
from edgetiny.tokenizer.huggingface import carried_settings, write_tokenizer
from edgetiny.tokenizer.json_compact import keep_tokens
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.locate import JSON_FILE, standing_beside
from edgetiny.tokenizer.model_file import keep_pieces
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from edgetiny.tokenizer.tokenizer import Tokenizer

SCHEMA_VERSION = 1
MAP_FILE = "vocab_map.json"
# For a tokenizer.json that stands alone: AutoTokenizer of `transformers` asks for a class.
_BARE_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "model_max_length": int(1e30),
}


def write_compact(folder: Path, tokenizer: Tokenizer, kept: Sequence[int]) -> str | None:
    """Write a tokenizer's files with only the pieces of the given ids into an existing folder.

    kept: old ids in the order of the new ones, `always_kept` among them; `vocab_map.json` records
    them. Files of another form that stand beside a `tokenizer.json` (vocab.json, merges.txt) are
    left out: they say nothing that it does not. Returns why there is no `tokenizer.json` beside a
    SentencePiece model whose ids that form cannot give, else None. Raises DataError for a
    tokenizer that cannot be written.
    """
    why_no_json = None
    if isinstance(tokenizer, JsonTokenizer):
        _write_json_kind(folder, tokenizer, kept)
    else:
        assert isinstance(tokenizer, SentencePieceTokenizer)
        model = keep_pieces(tokenizer.proto, kept)
        why_no_json = write_tokenizer(folder, model, carried_settings(tokenizer.path))
    template = standing_beside(tokenizer.path, TEMPLATE_FILE)
    if template is not None:
        shutil.copyfile(template, folder / TEMPLATE_FILE)
    payload = {
        "schema_version": SCHEMA_VERSION,
        "source_tokenizer_sha256": tokenizer.sha256,
        "source_vocab_size": tokenizer.vocab_size,
        "vocab_size": len(kept),
        "new_to_old": list(kept),
    }
    write_json(folder / MAP_FILE, payload)
    return why_no_json


def _write_json_kind(folder: Path, tokenizer: JsonTokenizer, kept: Sequence[int]) -> None:
    new = {old: index for index, old in enumerate(kept)}
    _require_known(tokenizer)
    compact = keep_tokens(tokenizer.file, kept)
    # Not indented: a hundred thousand merges would be a line for each of their parts.
    text = json.dumps(compact, ensure_ascii=False, separators=(",", ":"))
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    config = read_beside(tokenizer.path, CONFIG_FILE) or _bare_config(tokenizer)
    write_json(folder / CONFIG_FILE, {**config, **_declared(config, new)})
    roles = standing_beside(tokenizer.path, ROLES_FILE)
    if roles is not None:
        shutil.copyfile(roles, folder / ROLES_FILE)
    added = read_beside(tokenizer.path, ADDED_FILE)
    if added:
        write_json(folder / ADDED_FILE, {content: new[old] for content, old in added.items()})


def _bare_config(tokenizer: JsonTokenizer) -> dict[str, Any]:
    # llama.cpp puts a space before a text unless it is told not to; bytes know no such prefix.
    is_unprefixed = not tokenizer.file.is_byte_level and not tokenizer.file.has_prefix
    return _BARE_CONFIG | ({"add_prefix_space": False} if is_unprefixed else {})


def _declared(config: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """Return `added_tokens_decoder` in new ids, if the settings have one."""
    if not config.get(DECODER_KEY):
        return {}
    return {DECODER_KEY: {str(new[int(old)]): token for old, token in config[DECODER_KEY].items()}}


def _require_known(tokenizer: JsonTokenizer) -> None:
    """Raise DataError if files beside add tokens that `tokenizer.json` does not hold."""
    pieces = tokenizer.file.pieces
    for index, token in declared_tokens(tokenizer.path).items():
        if index >= len(pieces) or pieces[index] != token.content:
            raise DataError(
                f"{tokenizer.path.parent} declares {token.content!r} as id {index}, which"
                f" {JSON_FILE} does not hold; save the tokenizer again with transformers"
            )
