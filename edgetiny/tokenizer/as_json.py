"""A SentencePiece model as a `tokenizer.json` with the same ids."""

import base64
import re
from collections.abc import Mapping
from typing import Any

from edgetiny.errors import DataError
from edgetiny.tokenizer.model_file import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    ids_of_types,
    require_supported,
)
from edgetiny.tokenizer.vocabulary import sentencepiece_bpe_vocabulary

# Normalizers that leave ASCII characters as they are.
_ASCII_STAYS = ("nfkc", "nmt_nfkc")


def why_no_json(proto: Any) -> str | None:
    """Return why no `tokenizer.json` can give the ids of a model; None if one can."""
    spec, pieces = proto.normalizer_spec, _user_defined(proto)
    # SentencePiece finds these pieces in the text as it was written, here they come after.
    is_plain = spec.name in _ASCII_STAYS and all(
        piece.replace(SPACE, "").isascii() for piece in pieces
    )
    if pieces and spec.precompiled_charsmap and not is_plain:
        return "its normalizer may rewrite its user-defined pieces"
    if spec.remove_extra_whitespaces and any(SPACE in piece for piece in pieces):
        return "it drops repeated spaces, but has user-defined pieces with spaces"
    return None


def tokenizer_json(proto: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a SentencePiece model in the form of the `tokenizers` library, with the same ids.

    options: add_bos_token and add_eos_token, what the post-processor puts around a text.
    Raises DataError for a model whose ids that library cannot give.
    """
    require_supported(proto, "the tokenizer")
    why = why_no_json(proto)
    if why is not None:
        raise DataError(f"tokenizer.json cannot give the ids of the tokenizer: {why}")
    has_prefix = bool(proto.normalizer_spec.add_dummy_prefix)
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if has_prefix else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(proto),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(proto)},
        "pre_tokenizer": _pre_tokenizer(proto),
        "post_processor": _template(proto, options or {}),
        "decoder": {
            "type": "Sequence",
            "decoders": [_replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": _unigram(proto) if _is_unigram(proto) else _bpe(proto),
    }


def special_piece(proto: Any, role: str) -> str | None:
    """Return the piece of a role (unk, bos, eos, pad), or None if the model has none."""
    name = getattr(proto.trainer_spec, f"{role}_piece")
    kinds = (UNKNOWN,) if role == "unk" else (CONTROL,)
    return next((p.piece for p in proto.pieces if p.piece == name and p.type in kinds), None)


def added_tokens(proto: Any) -> list[dict[str, Any]]:
    """List what is matched in a text as a whole: control pieces and user-defined ones."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    types = [UNKNOWN, CONTROL, *([USER_DEFINED] if _adds_user_defined(proto) else [])]
    return [
        {"id": index, "content": _content(proto, index), **flags}
        | {"special": proto.pieces[index].type != USER_DEFINED}
        for index in ids_of_types(proto, types)
    ]


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


def _normalizers(proto: Any) -> list[dict[str, Any]]:
    """Return the steps of SentencePiece's normalizer, in its order."""
    spec, steps = proto.normalizer_spec, []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        # \A and \z: to the library's regular expressions ^ and $ are the ends of every line.
        steps += [_substitute(r"\A +| +\z", ""), _substitute(" {2,}", " ")]
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return [*steps, _replace(" ", SPACE)]


def _pre_tokenizer(proto: Any) -> dict[str, Any] | None:
    if _splits_at_user_defined(proto):
        longest_first = sorted(_user_defined(proto), key=len, reverse=True)
        pattern = {"Regex": "|".join(map(re.escape, longest_first))}
        return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    pieces = (piece.piece for piece in proto.pieces if piece.type != CONTROL)
    if not _is_unigram(proto) or any(SPACE in piece[1:] for piece in pieces):
        return None
    # No piece goes on after a space, so words can be taken one by one: faster, and the same.
    return {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "never",
        "split": True,
    }


def _adds_user_defined(proto: Any) -> bool:
    """Whether user-defined pieces are added tokens, cut out of a text before all else.

    Not where the normalizer looks at the whole text, or puts something before it: the library
    would do so to every part. Then they are cut out of the normalized text as whole words. To
    unigram they are pieces like others, of a very good score.
    """
    spec = proto.normalizer_spec
    is_whole = spec.precompiled_charsmap or spec.remove_extra_whitespaces or spec.add_dummy_prefix
    return not is_whole and not _is_unigram(proto)


def _splits_at_user_defined(proto: Any) -> bool:
    is_cut = not _adds_user_defined(proto) and not _is_unigram(proto)
    return is_cut and bool(_user_defined(proto))


def _user_defined(proto: Any) -> list[str]:
    return [proto.pieces[index].piece for index in ids_of_types(proto, [USER_DEFINED])]


def _bpe(proto: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": special_piece(proto, "unk"),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": _has_bytes(proto),
        # A user-defined piece is not merged: cut out alone, it is the whole word.
        "ignore_merges": _splits_at_user_defined(proto),
        "vocab": {piece: index for index, piece in enumerate(_vocabulary(proto))},
        "merges": merges(proto),
    }


def _unigram(proto: Any) -> dict[str, Any]:
    best = max((piece.score for piece in proto.pieces if piece.type == NORMAL), default=0.0)
    # What SentencePiece counts for a user-defined piece. Source: its unigram_model.cc.
    scores = [
        len(piece.piece) * best - 0.1 if piece.type == USER_DEFINED else piece.score
        for piece in proto.pieces
    ]
    return {
        "type": "Unigram",
        "unk_id": next(iter(ids_of_types(proto, [UNKNOWN])), None),
        "vocab": [list(entry) for entry in zip(_vocabulary(proto), scores, strict=True)],
        "byte_fallback": _has_bytes(proto),
    }


def _vocabulary(proto: Any) -> list[str]:
    """Return the pieces by id; those that SentencePiece never emits under a name of no text."""
    pieces = [_content(proto, index) for index in range(len(proto.pieces))]
    if _splits_at_user_defined(proto):
        # Merging does not build them, but here a whole word becomes any piece that it equals.
        vocabulary = sentencepiece_bpe_vocabulary(proto)
        for index in range(len(pieces)):
            if not vocabulary.is_reachable(index):
                pieces[index] = f"<unreachable {index}>"
    if _has_bytes(proto):
        # It spells NUL in bytes even if a piece for it exists.
        pieces = ["<unused NUL>" if piece == "\0" else piece for piece in pieces]
    return pieces


def _is_unigram(proto: Any) -> bool:
    return bool(proto.trainer_spec.model_type == UNIGRAM)


def _has_bytes(proto: Any) -> bool:
    return bool(ids_of_types(proto, [BYTE]))


def _content(proto: Any, index: int) -> str:
    piece = proto.pieces[index]
    text: str = piece.piece
    # Added tokens are looked for in the text before its spaces become marks.
    is_raw = piece.type == USER_DEFINED and _adds_user_defined(proto)
    return text.replace(SPACE, " ") if is_raw else text


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _substitute(pattern: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": new}


def _template(proto: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the post-processor that puts BOS before and EOS after a text, where asked for."""
    before = [special_piece(proto, "bos")] if options.get("add_bos_token") else []
    after = [special_piece(proto, "eos")] if options.get("add_eos_token") else []
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
