"""New pieces for a SentencePiece model: BPE learnt from text under the model's own settings."""

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from edgetiny.errors import ConfigError, DataError
from edgetiny.tokenizer.huggingface import carried_settings, write_tokenizer
from edgetiny.tokenizer.model_file import (
    NORMAL,
    SPACE,
    USER_DEFINED,
    ids_of_types,
    keep_pieces,
    load_model,
    protobuf,
)
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

_LOG_FATAL_ONLY = 4
_OWN_SPECIALS = 3
# The trainer's own rules of normalisation, by name.
_KNOWN_RULES = ("identity", "nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf")
# How the trainer splits text, taken over from the source.
_SPLITTING = (
    "split_by_unicode_script",
    "split_by_whitespace",
    "split_by_number",
    "split_digits",
    "allow_whitespace_only_pieces",
    "max_sentencepiece_length",
    "byte_fallback",
)


def grow_sentencepiece(
    folder: Path,
    source: SentencePieceTokenizer,
    kept: Sequence[int],
    lines: Sequence[str],
    size: int,
) -> list[tuple[int, ...]]:
    """Write the kept pieces and new ones, `size` in all; return the old ids of each new one.

    Raises ConfigError if the text gives too few, DataError for a normalisation without a name.
    """
    taken = {source.proto.pieces[index].piece for index in kept}
    learnt = _learn(source.proto, lines, size - len(kept), taken)
    compact = protobuf.ModelProto()
    compact.ParseFromString(keep_pieces(source.proto, kept))
    for piece in compact.pieces:
        if piece.type == NORMAL:
            # Kept for its role, or as a character: no merge of the new ones comes after it.
            piece.score = -float(size)
    for order, text in enumerate(learnt):
        compact.pieces.add(piece=text, type=NORMAL, score=-float(order))
    compact.trainer_spec.model_type = protobuf.TrainerSpec.BPE
    compact.trainer_spec.vocab_size = size
    write_tokenizer(folder, compact.SerializeToString(), carried_settings(source.path))
    spell = _speller(source.proto)
    return [tuple(spell.encode(text.replace(SPACE, " "))) for text in learnt]


def _learn(proto: Any, lines: Sequence[str], count: int, taken: set[str]) -> list[str]:
    """Return `count` new pieces that are not taken: merges, the best first, then characters."""
    rule = proto.normalizer_spec.name or "identity"
    if rule not in _KNOWN_RULES:
        raise DataError(f"the tokenizer normalises by {rule!r}, a rule that is only in its file")
    spec, model = proto.trainer_spec, io.BytesIO()
    n_bytes = 256 if spec.byte_fallback else 0
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(lines),
            model_writer=model,
            model_type="bpe",
            # Learnt pieces that are taken already leave room for others.
            vocab_size=count + len(taken) + n_bytes + _OWN_SPECIALS,
            hard_vocab_limit=False,
            character_coverage=0.9995,
            max_sentence_length=1 << 16,
            normalization_rule_name=rule,
            add_dummy_prefix=proto.normalizer_spec.add_dummy_prefix,
            remove_extra_whitespaces=proto.normalizer_spec.remove_extra_whitespaces,
            minloglevel=_LOG_FATAL_ONLY,
            **{name: getattr(spec, name) for name in _SPLITTING},
        )
    except RuntimeError as error:
        message = " ".join(str(error).split())
        found = re.search(r"required_chars\. (\d+) vs (\d+)", message)
        if found is None:
            raise ConfigError(f"no tokenizer can be learnt: {message}") from error
        raise ConfigError(
            f"--vocab-size has no room for the {found[2]} characters of this text; give more"
        ) from error
    _, trained = load_model(model.getvalue(), "the trained tokenizer")
    whole = [proto.pieces[index].piece for index in ids_of_types(proto, [USER_DEFINED])]
    new = [
        piece.piece
        for piece in trained.pieces
        if piece.type == NORMAL
        and piece.piece not in taken
        # What is matched whole never merges with its neighbours.
        and not any(part in piece.piece for part in whole)
    ]
    characters = [piece for piece in new if len(piece) == 1]
    merges = [piece for piece in new if len(piece) > 1]
    if len(characters) > count:
        raise ConfigError(
            f"--vocab-size leaves room for {count:,} new pieces, but the text has"
            f" {len(characters):,} characters; give more"
        )
    n_merges = count - len(characters)
    if len(merges) < n_merges:
        raise ConfigError(
            f"--vocab-size is {n_merges - len(merges):,} more than this text gives; choose less, or"
            " give more text"
        )
    # A merge joins pieces that come before it, so what comes first needs nothing that is cut off.
    return merges[:n_merges] + characters


def _speller(proto: Any) -> sentencepiece.SentencePieceProcessor:
    """Return the source's processor without what it puts before a text or rewrites in it."""
    bare = protobuf.ModelProto()
    bare.CopyFrom(proto)
    bare.normalizer_spec.add_dummy_prefix = False
    bare.normalizer_spec.remove_extra_whitespaces = False
    bare.normalizer_spec.precompiled_charsmap = b""
    return sentencepiece.SentencePieceProcessor(model_proto=bare.SerializeToString())


def _sentences(lines: Sequence[str]) -> Iterator[str]:
    # The trainer takes a NUL for an error.
    return (line.replace("\0", "") for line in lines)
