"""The kinds of tokenizer that programs here compress: real ones, and two made from real data."""

import importlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import sentencepiece

from edgetiny.text import read_documents


@dataclass(frozen=True, slots=True)
class Kind:
    """A tokenizer to compress."""

    name: str
    size: int
    find: Callable[[Path, Path], Path]
    """Takes the data folder and an empty one to make files in; returns the tokenizer's file."""


def kinds() -> Iterator[Kind]:
    """Yield what to compress, and to how many rows."""
    real = (
        ("SentencePiece BPE, 103k, user-defined pieces", 16_000, "internlm_v7_sft.model"),
        ("SentencePiece BPE, 32k, dummy prefix", 8_000, "mistral_v1_32k.model"),
        ("byte-level BPE, 50k", 16_000, "gpt_neox_20B_tokenizer.json"),
        ("SentencePiece unigram, 1k", 700, "sp_test_unigram1k.model"),
    )
    for name, size, file in real:
        yield Kind(name, size, partial(_of_data, file))
    yield Kind("tokenizer.json like SentencePiece, 32k", 8_000, _llama_json)
    yield Kind("SentencePiece BPE, 20k, no byte fallback", 8_000, _trained)


def text_files(data: Path) -> list[Path]:
    """Return the corpus: English and Chinese."""
    return [data / "text" / f"{name}.jsonl.xz" for name in ("en", "zh")]


def _of_data(file: str, data: Path, _: Path) -> Path:
    return data / "tokenizers" / file


def _llama_json(data: Path, folder: Path) -> Path:
    """Convert the 32k model as `transformers` does it, with its dummy prefix."""
    model = folder / "slow.model"
    shutil.copyfile(data / "tokenizers" / "mistral_v1_32k.model", model)
    fast = importlib.import_module("transformers").LlamaTokenizerFast
    tokenizer = fast(vocab_file=str(model), add_prefix_space=True, legacy=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def _trained(data: Path, folder: Path) -> Path:
    """Train a model in which a character without a piece is unknown."""
    documents = chain(*(islice(read_documents([file]), 600) for file in text_files(data)))
    lines = (line for document in documents for line in document.text[:3000].split("\n"))
    made = folder / "trained"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=filter(None, lines),
        model_prefix=str(made),
        model_type="bpe",
        vocab_size=20_000,
        character_coverage=0.995,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        byte_fallback=False,
        num_threads=1,
        minloglevel=2,
    )
    return made.with_suffix(".model")
