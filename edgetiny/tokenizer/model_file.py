"""The SentencePiece model file: reading and checking its protobuf."""

import importlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from edgetiny.errors import DataError

# Generated without type information, so mypy would not find what is in it.
protobuf: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")

MODEL_FILE = "tokenizer.model"
COMPANION_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab_map.json",
)
SPACE = "\u2581"
"""The character that stands for a space in pieces."""

_ERRORS_ONLY = 3
_BPE = protobuf.TrainerSpec.BPE
_Piece = protobuf.ModelProto.SentencePiece
NORMAL: int = _Piece.NORMAL
UNKNOWN: int = _Piece.UNKNOWN
CONTROL: int = _Piece.CONTROL
USER_DEFINED: int = _Piece.USER_DEFINED
UNUSED: int = _Piece.UNUSED
BYTE: int = _Piece.BYTE

# Names by which other kinds of tokenizer are recognised, for a message that says what was found.
_OTHER_KINDS = {
    "tokenizer.json": "a Hugging Face tokenizer.json",
    "vocab.json": "a byte-level BPE vocab.json",
    "vocab.txt": "a WordPiece vocab.txt",
}


def find_model_file(path: Path) -> Path:
    """Return the SentencePiece file at `path`: the file itself, or `tokenizer.model` in a folder.

    Raises DataError that says what stands there instead.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; give a tokenizer folder or a .model file")
    if path.is_file():
        return path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    for name, kind in _OTHER_KINDS.items():
        if (path / name).is_file():
            raise DataError(f"{path} holds {kind}; supported is SentencePiece ({MODEL_FILE})")
    raise DataError(f"{path} holds no tokenizer; supported is SentencePiece ({MODEL_FILE})")


def copy_tokenizer(model_file: Path, folder: Path) -> None:
    """Copy a tokenizer into an existing folder: the model and what stands beside it."""
    shutil.copyfile(model_file, folder / MODEL_FILE)
    if model_file.name == MODEL_FILE:
        for name in COMPANION_FILES:
            if (model_file.parent / name).is_file():
                shutil.copyfile(model_file.parent / name, folder / name)


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


def require_bpe(proto: Any, where: object) -> None:
    """Raise DataError unless the model is SentencePiece BPE that merges alone describe."""
    if proto.trainer_spec.model_type != _BPE:
        kind = protobuf.TrainerSpec.ModelType.Name(proto.trainer_spec.model_type).lower()
        raise DataError(f"{where} is SentencePiece {kind}; supported is SentencePiece BPE")
    if proto.normalizer_spec.precompiled_charsmap:
        raise DataError(f"{where} rewrites text before splitting; supported is name: identity")
    if proto.normalizer_spec.remove_extra_whitespaces:
        raise DataError(f"{where} drops repeated spaces; supported are models that keep them")
    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise DataError(f"{where} puts spaces at the end of words; supported is at the start")
    if any(piece.type == UNUSED for piece in proto.pieces):
        raise DataError(f"{where} holds pieces of type UNUSED, which other runtimes would emit")


def ids_of_types(proto: Any, types: Iterable[int]) -> list[int]:
    """Return the ids whose pieces are of one of the given types, in order."""
    wanted = set(types)
    return [index for index, piece in enumerate(proto.pieces) if piece.type in wanted]
