"""The tokenizer folder: the SentencePiece model beside its Hugging Face form, with equal ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetiny.errors import DataError
from edgetiny.files import read_json, write_json
from edgetiny.tokenizer.locate import MODEL_FILE
from edgetiny.tokenizer.model_file import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    ids_of_types,
    load_model,
    require_bpe,
    require_supported,
)

CARRIED_KEYS = ("chat_template", "add_bos_token", "add_eos_token", "model_max_length")
"""What a remade tokenizer keeps of its source's `tokenizer_config.json`."""


def write_tokenizer(
    folder: Path, model_proto: bytes, carried: Mapping[str, Any] | None = None
) -> None:
    """Write a tokenizer folder: `tokenizer.model`, `tokenizer.json` and the two configs.

    model_proto: a SentencePiece BPE model; carried: keys of CARRIED_KEYS for tokenizer_config.json.
    Raises DataError if it is no BPE model whose ids `tokenizer.json` can give.
    """
    _, proto = load_model(model_proto, "the tokenizer")
    options = {"add_bos_token": _special(proto, "bos") is not None, "add_eos_token": False}
    options |= {key: value for key, value in (carried or {}).items() if key in CARRIED_KEYS}
    payload = tokenizer_json(proto, options)
    (folder / MODEL_FILE).write_bytes(model_proto)
    write_json(folder / "tokenizer.json", payload)
    specials = {f"{role}_token": _special(proto, role) for role in ("unk", "bos", "eos", "pad")}
    named = {key: piece for key, piece in specials.items() if piece is not None}
    write_json(folder / "special_tokens_map.json", named)
    config = {
        # Roles without a piece are null: left out, the class would add its own default token.
        **specials,
        **_class(proto),
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(1e30),
        "sp_model_kwargs": {},
        "added_tokens_decoder": {str(token.pop("id")): token for token in _added_tokens(proto)},
    }
    write_json(folder / "tokenizer_config.json", config | options)


def tokenizer_json(proto: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a SentencePiece BPE model as the `tokenizers` library's BPE with the same ids.

    options: add_bos_token and add_eos_token, what the post-processor puts around a text.
    Raises DataError for a model whose ids that library cannot give.
    """
    require_supported(proto, "the tokenizer")
    require_bpe(proto, "the tokenizer")
    has_prefix = bool(proto.normalizer_spec.add_dummy_prefix)
    if has_prefix and ids_of_types(proto, [USER_DEFINED]):
        raise DataError(
            "the tokenizer has user-defined pieces and a dummy prefix; tokenizer.json cannot"
            " give the same ids, so supported is one or the other"
        )
    prepend = [{"type": "Prepend", "prepend": SPACE}] if has_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if has_prefix else []
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    to_space = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    has_bytes = bool(ids_of_types(proto, [BYTE]))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(proto),
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, to_mark]},
        "pre_tokenizer": None,
        "post_processor": _template(proto, options or {}),
        "decoder": {
            "type": "Sequence",
            "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _special(proto, "unk"),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": has_bytes,
            "ignore_merges": False,
            "vocab": _vocabulary(proto, has_bytes),
            "merges": merges(proto),
        },
    }


def carried_settings(model_file: Path, n_pieces: int) -> dict[str, Any]:
    """Return what a remade tokenizer keeps of the settings beside a model file.

    Raises DataError if tokens were added to the model's `n_pieces` from outside: remaking the
    tokenizer from its model would lose them.
    """
    folder = model_file.parent
    if model_file.name != MODEL_FILE or not (folder / "tokenizer_config.json").is_file():
        return {}
    config = read_json(folder / "tokenizer_config.json")
    added = {
        int(index): token["content"]
        for index, token in config.get("added_tokens_decoder", {}).items()
    }
    if (folder / "added_tokens.json").is_file():
        added |= {index: name for name, index in read_json(folder / "added_tokens.json").items()}
    outside = [name for index, name in sorted(added.items()) if index >= n_pieces]
    if outside:
        raise DataError(
            f"{folder} adds tokens that are not in {MODEL_FILE} ({', '.join(outside[:3])});"
            " supported are tokenizers whose every token is a piece of the model"
        )
    return {key: config[key] for key in CARRIED_KEYS if key in config}


def merges(proto: Any) -> list[list[str]]:
    """Return every (left, right) whose join is a piece, best first, as SentencePiece merges them.

    SentencePiece joins any neighbours whose join is a piece, the highest score first. So each
    split of a piece into two pieces is a merge, at the rank of the piece's score. Only normal
    pieces take part: the others are never built by merging.
    """
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    ranked = sorted(scores, key=lambda piece: -scores[piece])
    return [
        [piece[:cut], piece[cut:]]
        for piece in ranked
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _vocabulary(proto: Any, has_bytes: bool) -> dict[str, int]:
    """Return piece -> id. SentencePiece spells NUL in bytes even if a piece for it exists."""
    ids = {_content(piece): index for index, piece in enumerate(proto.pieces)}
    if has_bytes and "\0" in ids:
        ids["<unused NUL>"] = ids.pop("\0")
    return ids


def _class(proto: Any) -> dict[str, Any]:
    """Name the class of `transformers` that splits text as this model does.

    onnxruntime-genai chooses by it too: as a LlamaTokenizer a model without dummy prefix gets other
    ids there for repeated spaces, as a GemmaTokenizer the same.
    """
    if proto.normalizer_spec.add_dummy_prefix:
        return {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    return {"tokenizer_class": "GemmaTokenizer"}


def _special(proto: Any, role: str) -> str | None:
    """Return the piece of a role (unk, bos, eos, pad), or None if the model has none."""
    name = getattr(proto.trainer_spec, f"{role}_piece")
    kinds = (UNKNOWN,) if role == "unk" else (CONTROL,)
    return next((p.piece for p in proto.pieces if p.piece == name and p.type in kinds), None)


def _added_tokens(proto: Any) -> list[dict[str, Any]]:
    """List what is matched in a text as a whole: control pieces and user-defined ones."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": _content(proto.pieces[index]), **flags}
        | {"special": proto.pieces[index].type != USER_DEFINED}
        for index in ids_of_types(proto, [UNKNOWN, CONTROL, USER_DEFINED])
    ]


def _content(piece: Any) -> str:
    # User-defined pieces are looked for in the text before its spaces become marks.
    text: str = piece.piece
    return text.replace(SPACE, " ") if piece.type == USER_DEFINED else text


def _template(proto: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the post-processor that puts BOS before and EOS after a text, where asked for."""
    before = [_special(proto, "bos")] if options.get("add_bos_token") else []
    after = [_special(proto, "eos")] if options.get("add_eos_token") else []
    pieces = [piece for piece in (*before, *after) if piece is not None]
    if not pieces:
        return None
    ids = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    second: list[dict[str, Any]] = [{"Sequence": {"id": "B", "type_id": 1}}]

    def around(body: list[dict[str, Any]], type_id: int) -> list[dict[str, Any]]:
        def token(piece: str | None) -> dict[str, Any]:
            return {"SpecialToken": {"id": piece, "type_id": type_id}}

        return [*map(token, before), *body, *map(token, after)]

    return {
        "type": "TemplateProcessing",
        "single": around(single, 0),
        "pair": around(single, 0) + around(second, 1),
        "special_tokens": {
            piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]} for piece in pieces
        },
    }
