"""Writing a tokenizer with fewer pieces, in the forms that every loader reads."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgetiny.errors import DataError
from edgetiny.files import write_json
from edgetiny.tokenizer.huggingface import carried_settings, write_tokenizer
from edgetiny.tokenizer.locate import standing_beside
from edgetiny.tokenizer.model_file import keep_pieces
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from edgetiny.tokenizer.tokenizer import Tokenizer

SCHEMA_VERSION = 1
MAP_FILE = "vocab_map.json"
_CHAT_TEMPLATE = "chat_template.jinja"


def write_compact(folder: Path, tokenizer: Tokenizer, kept: Sequence[int]) -> None:
    """Write a tokenizer's files with only the pieces of the given ids into an existing folder.

    kept: old ids in the order of the new ones; `vocab_map.json` records them.
    Raises DataError for a tokenizer that cannot be written.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise DataError(f"{tokenizer.path} is {tokenizer.kind}, which cannot be made smaller")
    model = keep_pieces(tokenizer.proto, kept)
    write_tokenizer(folder, model, carried_settings(tokenizer.path, tokenizer.vocab_size))
    template = standing_beside(tokenizer.path, _CHAT_TEMPLATE)
    if template is not None:
        shutil.copyfile(template, folder / _CHAT_TEMPLATE)
    payload = {
        "schema_version": SCHEMA_VERSION,
        "source_tokenizer_sha256": tokenizer.sha256,
        "source_vocab_size": tokenizer.vocab_size,
        "vocab_size": len(kept),
        "new_to_old": list(kept),
    }
    write_json(folder / MAP_FILE, payload)
