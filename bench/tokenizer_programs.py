"""Other people's programs that open a tokenizer folder, each in a process of its own."""

import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import sentencepiece

Encode = Callable[[str], list[int]]
Answer = list[int] | str
"""Ids, or what went wrong."""

GGUF = "vocabulary.gguf"
CRASH = "the program crashes"
MAX_CRASHES = 4


def _sentencepiece(folder: Path) -> Encode:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return lambda text: list(processor.encode(text))


def _transformers(folder: Path, *, use_fast: bool) -> Encode:
    auto = importlib.import_module("transformers").AutoTokenizer
    tokenizer = auto.from_pretrained(folder, use_fast=use_fast)
    if tokenizer.is_fast != use_fast:
        raise ValueError("the class has no slow tokenizer")
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False))


def _executorch(folder: Path, file: str, name: str) -> Encode:
    tokenizer = getattr(importlib.import_module("pytorch_tokenizers"), name)()
    tokenizer.load(str(folder / file))
    return lambda text: list(tokenizer.encode(text, bos=0, eos=0))


def _llama2c(folder: Path) -> Encode:
    module = importlib.import_module("pytorch_tokenizers")
    tokenizer = module.Llama2cTokenizer(model_path=str(folder / "tokenizer.model"))
    return lambda text: list(tokenizer.encode(text, bos=False, eos=False))


def _llama_cpp(folder: Path) -> Encode:
    module = importlib.import_module("llama_cpp")
    model = module.Llama(model_path=str(folder / GGUF), vocab_only=True, verbose=False)
    return lambda text: list(model.tokenize(text.encode("utf-8"), add_bos=False, special=False))


@dataclass(frozen=True, slots=True)
class Loader:
    """A program that opens a tokenizer folder, by one of the files in it."""

    file: str
    package: str
    open: Callable[[Path], Encode]


LOADERS = {
    "sentencepiece": Loader("tokenizer.model", "sentencepiece", _sentencepiece),
    "transformers": Loader(
        "tokenizer.json", "transformers", lambda folder: _transformers(folder, use_fast=True)
    ),
    "transformers, slow": Loader(
        "tokenizer.model", "transformers", lambda folder: _transformers(folder, use_fast=False)
    ),
    "ExecuTorch HFTokenizer": Loader(
        "tokenizer.json",
        "pytorch_tokenizers",
        lambda folder: _executorch(folder, "tokenizer.json", "CppHFTokenizer"),
    ),
    "ExecuTorch SPTokenizer": Loader(
        "tokenizer.model",
        "pytorch_tokenizers",
        lambda folder: _executorch(folder, "tokenizer.model", "CppSPTokenizer"),
    ),
    "ExecuTorch Llama2cTokenizer": Loader("tokenizer.model", "pytorch_tokenizers", _llama2c),
    "llama.cpp": Loader(GGUF, "llama_cpp_python", _llama_cpp),
}

# What the programs raise for a file or a text that they cannot take.
FAILURES = (RuntimeError, ValueError, OSError, TypeError, IndexError, KeyError, UnicodeError)

_opened: dict[tuple[str, Path], Encode] = {}


def _answers(loader: str, folder: Path, texts: Sequence[str]) -> list[Answer]:
    """Return the ids of texts in one program; runs in a process that may crash."""
    # llama.cpp would print its stack, through a debugger that takes seconds.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    if (loader, folder) not in _opened:
        _opened[loader, folder] = LOADERS[loader].open(folder)
    encode = _opened[loader, folder]
    found: list[Answer] = []
    for text in texts:
        try:
            found.append([int(index) for index in encode(text)])
        except FAILURES as error:
            found.append(f"{type(error).__name__}: {error}"[:200])
    return found


class Program:
    """One program with one folder open, in a process of its own, which is replaced if it crashes.

    A crash is charged to the text that causes it, found by halving.
    """

    def __init__(self, loader: str, folder: Path) -> None:
        self._loader = loader
        self._folder = folder
        self._crashes = 0
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))

    def answers(self, texts: Sequence[str]) -> list[Answer]:
        """Return the ids of each text, or what went wrong with it."""
        if self._crashes >= MAX_CRASHES:
            return [CRASH] * len(texts)
        try:
            return self._pool.submit(_answers, self._loader, self._folder, texts).result()
        except BrokenProcessPool:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        self._crashes += 1
        if len(texts) == 1:
            return [CRASH]
        half = len(texts) // 2
        return self.answers(texts[:half]) + self.answers(texts[half:])

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()
