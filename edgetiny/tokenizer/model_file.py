"""The SentencePiece model file: reading and checking its protobuf."""

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece

from edgetiny.errors import DataError

# Generated without type information, so mypy would not find what is in it.
protobuf: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")

SPACE = "\u2581"
"""The character that stands for a space in pieces."""

_ERRORS_ONLY = 3
BPE: int = protobuf.TrainerSpec.BPE
UNIGRAM: int = protobuf.TrainerSpec.UNIGRAM
_Piece = protobuf.ModelProto.SentencePiece
NORMAL: int = _Piece.NORMAL
UNKNOWN: int = _Piece.UNKNOWN
CONTROL: int = _Piece.CONTROL
USER_DEFINED: int = _Piece.USER_DEFINED
UNUSED: int = _Piece.UNUSED
BYTE: int = _Piece.BYTE


def load_model(content: bytes, where: object) -> tuple[sentencepiece.SentencePieceProcessor, Any]:
    """Return the processor and the ModelProto of the bytes of a SentencePiece file.

    Raises DataError if it is damaged or another kind of file.
    """
    sentencepiece.set_min_log_level(_ERRORS_ONLY)
    try:
        # The processor checks more than the protobuf parser does, so it comes first.
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, OSError, ValueError):
        raise DataError(f"{where} is damaged or not a SentencePiece model") from None
    proto = protobuf.ModelProto()
    proto.ParseFromString(content)
    if not proto.pieces:
        raise DataError(f"{where} is damaged or not a SentencePiece model")
    return processor, proto


def keep_pieces(proto: Any, kept: Sequence[int]) -> bytes:
    """Return the model file with only the pieces of the given ids, scores unchanged, in order."""
    compact = protobuf.ModelProto()
    # Not a copy of the whole: self tests recorded for the old vocabulary no longer hold.
    for name in ("trainer_spec", "normalizer_spec", "denormalizer_spec"):
        getattr(compact, name).CopyFrom(getattr(proto, name))
    compact.pieces.extend(proto.pieces[index] for index in kept)
    new = {old: index for index, old in enumerate(kept)}
    spec = compact.trainer_spec
    spec.vocab_size = len(kept)
    for role in ("unk_id", "bos_id", "eos_id", "pad_id"):
        setattr(spec, role, new.get(getattr(spec, role), -1))
    content: bytes = compact.SerializeToString()
    return content


def require_supported(proto: Any, where: object) -> None:
    """Raise DataError unless the model is a BPE or unigram one that other loaders can follow."""
    if proto.trainer_spec.model_type not in (BPE, UNIGRAM):
        kind = protobuf.TrainerSpec.ModelType.Name(proto.trainer_spec.model_type).lower()
        raise DataError(f"{where} is a SentencePiece {kind} model; supported are bpe and unigram")
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise DataError(f"{where} puts spaces at the end of words; supported is at the start")
    if any(piece.type == UNUSED for piece in proto.pieces):
        raise DataError(f"{where} holds pieces of type UNUSED, which other runtimes would emit")


def ids_of_types(proto: Any, types: Iterable[int]) -> list[int]:
    """Return the ids whose pieces are of one of the given types, in order."""
    wanted = set(types)
    return [index for index, piece in enumerate(proto.pieces) if piece.type in wanted]
