"""Tokens that are declared beside a SentencePiece model, as pieces of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetiny.errors import DataError
from edgetiny.tokenizer.companions import AddedToken, declared_tokens
from edgetiny.tokenizer.model_file import CONTROL, NORMAL, USER_DEFINED, protobuf


def with_added_pieces(proto: Any, model_file: Path) -> Any:
    """Return the model with the tokens declared beyond its pieces as pieces, under their ids.

    Special ones become control pieces, which no text is split into, the others user-defined ones,
    which are matched whole. So one file holds every token, and the old ids stay as they were.
    Returns the model itself if nothing is declared. Raises DataError for a token that is a piece
    already.
    """
    n_pieces = len(proto.pieces)
    outside = {i: token for i, token in declared_tokens(model_file).items() if i >= n_pieces}
    if not outside:
        return proto
    _require_new(proto, outside, model_file)
    extended = protobuf.ModelProto()
    extended.CopyFrom(proto)
    lowest = min(piece.score for piece in proto.pieces)
    for index in range(n_pieces, max(outside) + 1):
        token = outside.get(index)
        if token is None:
            # An id without a token: a piece that no text is split into in practice.
            extended.pieces.add(piece=f"<no token {index}>", score=lowest, type=NORMAL)
        else:
            kind = CONTROL if token.is_special else USER_DEFINED
            extended.pieces.add(piece=token.content, score=0.0, type=kind)
    extended.trainer_spec.vocab_size = len(extended.pieces)
    return extended


def _require_new(proto: Any, outside: Mapping[int, AddedToken], model_file: Path) -> None:
    pieces = {piece.piece for piece in proto.pieces}
    for index, token in outside.items():
        if token.content in pieces:
            raise DataError(
                f"{model_file.parent} declares {token.content!r} as id {index}, but"
                f" {model_file.name} has a piece of that name; give the token one id"
            )
        pieces.add(token.content)
