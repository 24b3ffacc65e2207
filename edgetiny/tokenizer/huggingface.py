"""The tokenizer folder: a SentencePiece model beside its Hugging Face form, with equal ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetiny.files import write_json
from edgetiny.tokenizer.as_json import added_tokens, special_piece, tokenizer_json, why_no_json
from edgetiny.tokenizer.companions import (
    CONFIG_FILE,
    DECODER_KEY,
    ROLES_FILE,
    additional_specials,
    read_beside,
    role_tokens,
)
from edgetiny.tokenizer.locate import JSON_FILE, MODEL_FILE
from edgetiny.tokenizer.model_file import UNIGRAM, load_model

CARRIED_KEYS = ("chat_template", "add_bos_token", "add_eos_token", "model_max_length")
"""What a remade tokenizer keeps of its source's `tokenizer_config.json`, besides the roles."""

_ADDITIONAL = "additional_special_tokens"


def write_tokenizer(
    folder: Path, model_proto: bytes, carried: Mapping[str, Any] | None = None
) -> str | None:
    """Write a tokenizer folder: `tokenizer.model`, `tokenizer.json` and the two configs.

    model_proto: a SentencePiece model; carried: what `carried_settings` gives. Returns why there
    is no `tokenizer.json` if that form cannot give the model's ids, else None.
    """
    _, proto = load_model(model_proto, "the tokenizer")
    carried = carried or {}
    options = {"add_bos_token": special_piece(proto, "bos") is not None, "add_eos_token": False}
    options |= {key: value for key, value in carried.items() if key in CARRIED_KEYS}
    why = why_no_json(proto)
    if why is None:
        write_json(folder / JSON_FILE, tokenizer_json(proto, options))
    (folder / MODEL_FILE).write_bytes(model_proto)
    # Roles without a piece are null: left out, the class would add its own default token.
    specials = {
        f"{role}_token": special_piece(proto, role) for role in ("unk", "bos", "eos", "pad")
    }
    specials |= _roles(proto, carried)
    named = {key: piece for key, piece in specials.items() if piece is not None}
    write_json(folder / ROLES_FILE, named)
    config = {
        **specials,
        **_class(proto),
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        "sp_model_kwargs": {},
        DECODER_KEY: {str(token.pop("id")): token for token in added_tokens(proto)},
    }
    write_json(folder / CONFIG_FILE, config | options)
    return why


def carried_settings(model_file: Path) -> dict[str, Any]:
    """Return what a remade tokenizer keeps of the settings beside a model file."""
    config = read_beside(model_file, CONFIG_FILE)
    kept = {key: config[key] for key in CARRIED_KEYS if key in config}
    additional = additional_specials(model_file)
    return kept | role_tokens(model_file) | ({_ADDITIONAL: additional} if additional else {})


def _roles(proto: Any, carried: Mapping[str, Any]) -> dict[str, Any]:
    """Return the carried roles whose tokens are pieces: a chat model may end with another EOS."""
    pieces = {piece.piece for piece in proto.pieces}
    roles = {
        key: token
        for key, token in carried.items()
        if key.endswith("_token") and isinstance(token, str) and token in pieces
    }
    additional = [token for token in carried.get(_ADDITIONAL, ()) if token in pieces]
    return roles | ({_ADDITIONAL: additional} if additional else {})


def _class(proto: Any) -> dict[str, Any]:
    """Name the class of `transformers` that splits text as this model does.

    onnxruntime-genai chooses by it too: as a LlamaTokenizer a model without dummy prefix gets other
    ids there for repeated spaces, as a GemmaTokenizer the same. llama.cpp's converter learns here
    alone that no space goes before a text. To say that one does is not needed, and as a
    LlamaTokenizer `transformers` would then make the tokenizer anew, with other ids.
    """
    spec = proto.normalizer_spec
    if why_no_json(proto) is not None:
        return {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    if (
        proto.trainer_spec.model_type == UNIGRAM
        or spec.precompiled_charsmap
        or spec.remove_extra_whitespaces
    ):
        # The classes named after models put spaces by rules of their own.
        return {"tokenizer_class": "PreTrainedTokenizerFast"}
    if spec.add_dummy_prefix:
        return {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    return {"tokenizer_class": "GemmaTokenizer", "add_prefix_space": False}
