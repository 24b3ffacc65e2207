"""`edgetiny tokenizer train`: a SentencePiece BPE tokenizer from text."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import sentencepiece

from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_folder, refuse_existing
from edgetiny.text import read_documents, total_bytes
from edgetiny.tokenizer.huggingface import write_tokenizer
from edgetiny.tokenizer.model_file import load_model
from edgetiny.tokenizer.tokenizer import Tokenizer

# SentencePiece skips longer lines; cutting them at spaces keeps their words.
_LINE_BYTES = 16_384
_SAMPLE_CHARACTERS = 1_000_000
_LOG_FATAL_ONLY = 4
_UNK_ID, _BOS_ID, _EOS_ID = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTrainResult:
    """What was trained, on how much text, and how well it packs a sample of it."""

    path: Path
    vocab_size: int
    documents: int
    lines: int
    bytes: int
    bytes_per_token: float
    sha256: str

    def summary(self) -> dict[str, Any]:
        """Return the fields, for `console.show`."""
        return {
            "tokenizer": str(self.path),
            "vocab_size": self.vocab_size,
            "documents": self.documents,
            "lines": self.lines,
            "bytes": self.bytes,
            "bytes_per_token": self.bytes_per_token,
            "sha256": self.sha256,
        }


@dataclass(kw_only=True, slots=True)
class _Corpus:
    """A uniform sample of the lines of text files, and what the whole of them holds."""

    lines: list[str]
    n_lines: int = 0
    documents: int = 0
    bytes: int = 0
    sample: list[str]
    """The first million characters or so, to measure the result on."""


def run(config: TokenizerTrainConfig, reporter: Reporter = QUIET) -> TokenizerTrainResult:
    """Train a tokenizer that loses nothing: BPE, byte fallback, no normalisation, no prefix.

    `<unk>`, `<s>`, `</s>` are 0, 1, 2; digits stand alone, as in LLaMA. The same text, settings
    and seed give the same tokenizer. Raises ConfigError if the text is too small for the size, or
    its characters alone are more; DataError for text that cannot be read.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    corpus = read_corpus(config, reporter)
    reporter.say(f"learning {config.vocab_size:,} pieces from {len(corpus.lines):,} lines")
    model = train_model(corpus.lines, config)
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        write_tokenizer(folder, model)
    tokenizer = Tokenizer.open(config.out)
    n_tokens = sum(len(tokenizer.encode(text)) for text in corpus.sample)
    sample_bytes = sum(len(text.encode("utf-8")) for text in corpus.sample)
    return TokenizerTrainResult(
        path=config.out,
        vocab_size=tokenizer.vocab_size,
        documents=corpus.documents,
        lines=corpus.n_lines,
        bytes=corpus.bytes,
        bytes_per_token=sample_bytes / n_tokens,
        sha256=tokenizer.sha256,
    )


def read_corpus(config: TokenizerTrainConfig, reporter: Reporter) -> _Corpus:
    """Read the text files once and keep `max_sentences` of their lines, each as likely as any.

    Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
    """
    corpus, random = _Corpus(lines=[], sample=[]), Random(config.seed)
    wanted_characters = _SAMPLE_CHARACTERS
    size_bytes = total_bytes(config.text, stdin=config.text_format)
    with reporter.task("reading text", size_bytes or None) as task:
        documents = read_documents(config.text, task.advance, stdin=config.text_format)
        for document in documents:
            corpus.documents += 1
            corpus.bytes += len(document.text.encode("utf-8"))
            if wanted_characters > 0:
                corpus.sample.append(document.text[:wanted_characters])
                wanted_characters -= len(corpus.sample[-1])
            for line in document.text.split("\n"):
                for part in cut_line(line):
                    corpus.n_lines += 1
                    if len(corpus.lines) < config.max_sentences:
                        corpus.lines.append(part)
                    elif (place := random.randrange(corpus.n_lines)) < config.max_sentences:
                        corpus.lines[place] = part
    return corpus


def train_model(lines: list[str], config: TokenizerTrainConfig) -> bytes:
    """Return the SentencePiece model file learnt from lines, which are used up."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_drain(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            # Checked below: the trainer's own check does not say which size would do.
            hard_vocab_limit=False,
            max_sentence_length=2 * _LINE_BYTES,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            unk_id=_UNK_ID,
            bos_id=_BOS_ID,
            eos_id=_EOS_ID,
            pad_id=-1,
            minloglevel=_LOG_FATAL_ONLY,
        )
    except RuntimeError as error:
        raise _too_small(str(error), config) from error
    _, proto = load_model(model.getvalue(), "the trained tokenizer")
    if len(proto.pieces) < config.vocab_size:
        raise ConfigError(
            f"--vocab-size {config.vocab_size} is more than this text gives; the largest possible"
            f" is {len(proto.pieces)}: choose that or less, or give more text"
        )
    return model.getvalue()


def _drain(lines: list[str]) -> Iterator[str]:
    """Hand lines over one by one, so that they are not in memory twice."""
    lines.reverse()
    while lines:
        yield lines.pop()


def cut_line(line: str) -> Iterator[str]:
    """Yield a line in parts of at most 16,384 UTF-8 bytes, cut at spaces where there are some."""
    if len(line) * 4 <= _LINE_BYTES or len(line.encode("utf-8")) <= _LINE_BYTES:
        if line:
            yield line
        return
    part: list[str] = []
    size = 0
    for word in re.findall(r" *[^ ]+| +$", line):
        for piece in _cut_word(word):
            n_bytes = len(piece.encode("utf-8"))
            if size + n_bytes > _LINE_BYTES:
                yield "".join(part)
                part, size = [], 0
            part.append(piece)
            size += n_bytes
    yield "".join(part)


def _cut_word(word: str) -> Iterator[str]:
    limit = _LINE_BYTES // 4
    return (word[start : start + limit] for start in range(0, len(word), limit))


def _too_small(message: str, config: TokenizerTrainConfig) -> ConfigError:
    """Put the trainer's refusal in the words of our settings."""
    found = re.search(r"required_chars\. (\d+) vs (\d+)", message)
    if found is None:
        return ConfigError(f"the tokenizer cannot be trained: {' '.join(message.split())}")
    return ConfigError(
        f"--vocab-size {config.vocab_size} has no room for the characters of this text; give more"
        f" than {found[2]}, or a --character-coverage under {config.character_coverage}"
        " (rare characters are then spelled in bytes)"
    )
