"""A tokenizer as a GGUF file holds it, so that llama.cpp splits text into the same ids.

SentencePiece BPE is llama.cpp's `llama` model, unigram its `t5`, byte-level BPE its `gpt2` with the
name of the rule that cuts text into words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from edgetiny.errors import ConfigError
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.json_file import JsonFile
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.model_file import UNIGRAM
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

# The rule of GPT-2 is the ByteLevel pre-tokenizer's own; the others come as a Split before it.
# Source: src/llama-vocab.cpp, which names a rule after the first model that had it.
_GPT2 = "gpt-2"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_RULES = {
    rf"{_WORD}\p{{N}}{{1,3}}{_REST}": "llama-bpe",
    rf"{_WORD}\p{{N}}{_REST}": "qwen2",
}
# What stands in the place of an id that no piece has: a vocabulary padded to a round number.
_FILLER = "[PAD{}]"


def write_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer | None, vocab_size: int) -> str:
    """Add the tokens to a file; return llama.cpp's name of the tokenizer's kind.

    vocab_size: rows of the embedding; ids that the tokenizer lacks are filled up as unused, pieces
    beyond the rows left out: llama.cpp takes as many rows as there are tokens.
    Raises ConfigError for a byte-level tokenizer whose rule llama.cpp has no name for.
    """
    if tokenizer is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(vocab_size)
        return "none"
    writer.add_vocab_size(vocab_size)
    if isinstance(tokenizer, SentencePieceTokenizer):
        kind = _write_sentencepiece(writer, tokenizer, vocab_size)
    else:
        assert isinstance(tokenizer, JsonTokenizer)
        kind = _write_json(writer, tokenizer, vocab_size)
    if tokenizer.bos_id is not None:
        writer.add_bos_token_id(tokenizer.bos_id)
    if tokenizer.eos_id is not None:
        writer.add_eos_token_id(tokenizer.eos_id)
    if tokenizer.pad_id is not None and tokenizer.pad_id < vocab_size:
        writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(tokenizer.bos_id is not None)
    writer.add_add_eos_token(False)
    return kind


def _write_sentencepiece(
    writer: GGUFWriter, tokenizer: SentencePieceTokenizer, vocab_size: int
) -> str:
    proto = tokenizer.proto
    is_unigram = proto.trainer_spec.model_type == UNIGRAM
    kind = "t5" if is_unigram else "llama"
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("default")
    # SentencePiece numbers the kinds of pieces as GGUF does.
    rows = [(piece.piece, piece.score, int(piece.type)) for piece in proto.pieces]
    _add_rows(writer, rows, vocab_size)
    unknown = next((i for i, row in enumerate(rows) if row[2] == TokenType.UNKNOWN), None)
    if unknown is not None:
        writer.add_unk_token_id(unknown)
    writer.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    if is_unigram:
        writer.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
        if proto.normalizer_spec.precompiled_charsmap:
            writer.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    return kind


def _write_json(writer: GGUFWriter, tokenizer: JsonTokenizer, vocab_size: int) -> str:
    file = tokenizer.file
    if file.is_byte_level:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer_name(file.pre_tokenizers, tokenizer.path))
        writer.add_token_merges([" ".join(merge) for merge in file.merges])
        scores = {}
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_add_space_prefix(file.has_prefix)
        scores = _merge_scores(file)
    rows = [
        (piece, scores.get(index, 0.0), _json_type(tokenizer, index, piece))
        for index, piece in enumerate(file.pieces)
    ]
    _add_rows(writer, rows, vocab_size)
    return "gpt2" if file.is_byte_level else "llama"


def pre_tokenizer_name(steps: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Return llama.cpp's name of the rule by which a byte-level tokenizer cuts text into words.

    steps: the pre-tokenizers of `tokenizer.json`. Raises ConfigError if it has no name for them.
    """
    *before, last = steps
    uses_own_rule = last["type"] == "ByteLevel" and last.get("use_regex", True)
    if not before and uses_own_rule and not last.get("add_prefix_space"):
        return _GPT2
    if len(before) == 1 and not uses_own_rule and before[0]["type"] == "Split":
        name = _RULES.get(before[0]["pattern"].get("Regex"))
        if name is not None:
            return name
    raise ConfigError(
        f"{path} cuts text into words by a rule that no llama.cpp tokenizer has; a GGUF file with"
        " it would give other ids; leave --format gguf out"
    )


def _add_rows(writer: GGUFWriter, rows: list[tuple[str, float, int]], vocab_size: int) -> None:
    rows = rows[:vocab_size] + [
        (_FILLER.format(index), 0.0, int(TokenType.UNUSED))
        for index in range(len(rows), vocab_size)
    ]
    writer.add_token_list([piece.encode("utf-8") for piece, _, _ in rows])
    writer.add_token_scores([score for _, score, _ in rows])
    writer.add_token_types([kind for _, _, kind in rows])


def _json_type(tokenizer: JsonTokenizer, index: int, piece: str) -> int:
    file = tokenizer.file
    if piece == file.model.get("unk_token"):
        return int(TokenType.UNKNOWN)
    if index in file.special_ids:
        return int(TokenType.CONTROL)
    if not file.is_byte_level and index in file.byte_ids:
        return int(TokenType.BYTE)
    return int(TokenType.USER_DEFINED if index in file.added else TokenType.NORMAL)


def _merge_scores(file: JsonFile) -> dict[int, float]:
    """Return scores that order pieces as the merges do: the first merge is the best."""
    scores: dict[int, float] = {}
    for rank, (left, right) in enumerate(file.merges):
        scores.setdefault(file.vocab[left + right], float(-rank))
    return scores
