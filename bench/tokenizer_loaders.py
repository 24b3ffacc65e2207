"""Load compact tokenizers in other people's programs and compare the ids that each gives.

    python bench/tokenizer_loaders.py --data DATA --write docs/results/tokenizer_loaders \
        [--convert llama.cpp/convert_hf_to_gguf.py]

For each kind of tokenizer: compress it, open the folder in sentencepiece, transformers, llama.cpp
and ExecuTorch's pytorch_tokenizers, and compare ids with edgetiny's on documents, lines and odd
strings. Where a program gives other ids, the original tokenizer is asked too: what it does with
that is the program's own way and no fault of the compact one. llama.cpp takes part if --convert
names its converter and its Python binding (`llama_cpp`) can be imported.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizer_kinds import Kind, kinds, text_files
from tokenizer_programs import CRASH, FAILURES, GGUF, LOADERS, Answer, Program

from edgetiny.config.tokenizer import TokenizerCompressConfig
from edgetiny.console import Reporter
from edgetiny.files import write_json
from edgetiny.text import Document, read_documents
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compact import write_compact
from edgetiny.tokenizer.compress import run as compress

EXAMPLES = 6
ODD_TEXTS = (
    "",
    " ",
    "  two  spaces ",
    "\n\n\n  x\t\t\r\n\r\n{\r\n}",
    "a\n\nb\n\n\nc\n\n\n\n",
    "\0",
    "x\0y \0\0",
    "\x01\x02\x1b[0m\x7f\x85",
    "\u2581",
    "a\u2581b \u2581c",
    "\ufeffabc\ufffd",
    "\u00a0\u3000\u2028\u200b",
    "e\u0301 \u00e9 o\u0308\u0323 \u1100\u1161",
    "\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u0420\u0443\u0441\u0441\u043a\u0438\u0439",
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 \u10ffff \U0010ffff",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 12345 3.14159 1,000",
    "don't I'LL we've it's 'tis",
    "def f(x):\n    return x  # two\n\n\tif x:\n\t\tpass\n",
    "=" * 100,
    "ab" * 200,
    "a" * 300,
    "</s>",
    "x <s> y</s>\n<unk>",
    "<|endoftext|> <eoh> <0x41>",
    *(" " * count for count in (3, 7, 16, 25, 64)),
    *(f"a{' ' * count}b" for count in (2, 3, 5, 24, 30)),
    *(f"a{chr(10) * count}b" for count in (2, 3, 9)),
)


def as_original(file: Path, folder: Path) -> Path:
    """Write all pieces of a tokenizer for every loader, with its own file where it has one."""
    folder.mkdir()
    tokenizer = Tokenizer.open(file)
    write_compact(folder, tokenizer, range(tokenizer.vocab_size))
    shutil.copyfile(file, folder / f"tokenizer{file.suffix}")
    return folder


def texts_of(data: Path) -> list[str]:
    """Return documents, lines of others, and odd strings, each once."""
    found: list[str] = list(ODD_TEXTS)
    for file in text_files(data):
        documents: list[Document] = list(islice(read_documents([file]), 0, 1200, 8))
        found += [document.text[:6000] for document in documents[:75]]
        lines = [line for document in documents[75:] for line in document.text.split("\n")]
        found += lines[:: max(1, len(lines) // 1500)]
    return list(dict.fromkeys(found))


def write_gguf(converter: Path, folder: Path, original: Path) -> str | None:
    """Convert a tokenizer folder for llama.cpp; return what went wrong, if anything."""
    program = Path(__file__).parents[1] / "export" / "convert_to_gguf.py"
    words = [program, folder, "--converter", converter, "--vocab-only"]
    words += ["--outfile", folder / GGUF]
    if not (original / "tokenizer.model").is_file():
        words += ["--original", original]
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


OWN_WAYS = """## The programs' own ways

- Special tokens written out in a text (`</s>`): transformers and ExecuTorch's HFTokenizer take them
  for special, edgetiny, sentencepiece and llama.cpp (unless asked) for text.
- U+2581 in a text: edgetiny spells it in bytes where the model can, so that it comes back; others
  take it for a space, and so does edgetiny with a dummy prefix.
- NUL in a text: for ExecuTorch's SPTokenizer the text ends there.
- NFC: llama.cpp applies none; ExecuTorch's is approximate, and says so.
- Neighbouring unknown characters: one token in sentencepiece and transformers, one each in
  ExecuTorch's HFTokenizer. llama.cpp ends at the first where a model has no byte pieces.
- Unigram: ExecuTorch's HFTokenizer reads BPE only.

llama.cpp's files are written by `export/convert_to_gguf.py`, which runs llama.cpp's own converter:
without it that one refuses a compact byte-level tokenizer, and writes unigram models and
SentencePiece-like `tokenizer.json` of LLaMA models, originals too, so that texts are cut otherwise.
"""


@dataclass(slots=True)
class Cell:
    """What one program made of one kind."""

    kind: str
    loader: str
    texts: int = 0
    differ: int = 0
    """Texts with other ids than edgetiny's."""
    real_differ: int = 0
    """Of those, texts of the corpus: not odd strings."""
    own_way: int = 0
    """Of those, texts where the program differs from edgetiny with the original tokenizer too."""
    crashes: int = 0
    """Of those, texts that end the program: after a few it is not asked about all the others that
    hold a character without a token."""
    note: str = ""
    """Why nothing was compared."""
    examples: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Texts that only the compact tokenizer gives other ids."""
        return self.differ - self.own_way

    def __str__(self) -> str:
        """Return the cell of the table."""
        if self.note:
            return self.note
        if self.differ == 0:
            return f"{self.texts:,}: equal"
        if self.crashes:
            whose = "as the original" if self.faults == 0 else "unlike the original"
            return f"{self.texts:,}: crashes on {self.crashes:,} with unknown characters, {whose}"
        of_corpus = f", {self.real_differ:,} of the corpus" if self.real_differ else ""
        return (
            f"{self.texts:,}: {self.differ:,} differ{of_corpus}; {self.own_way:,} as the original"
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """Two folders of one kind: the original in the form that compact ones are written, and one."""

    original: Path
    compact: Path


def compare(cell: Cell, pair: Pair, texts: Sequence[str]) -> None:
    """Compare the ids of one program with ours, and ask the original where they differ."""
    if not (pair.compact / LOADERS[cell.loader].file).is_file():
        cell.note = f"no {LOADERS[cell.loader].file}"
        return
    try:
        theirs = _ask(cell.loader, pair.compact, texts)
    except ImportError as error:
        cell.note = f"not run: {error}"
        return
    except FAILURES as error:
        nor = ", nor does the original" if _does_not_load(cell.loader, pair.original) else ""
        cell.note = f"does not load{nor}: {error}"[:200]
        return
    ours = _edgetiny(pair.compact, texts)
    both = enumerate(zip(ours, theirs, strict=True))
    wrong = [index for index, (mine, other) in both if mine != other]
    asked = [texts[index] for index in wrong]
    before = zip(wrong, _edgetiny(pair.original, asked), strict=True)
    originally = _originally(cell.loader, pair.original, asked)
    faults = {
        index for (index, mine), other in zip(before, originally, strict=True) if mine == other
    }
    cell.texts = len(texts)
    cell.differ = len(wrong)
    cell.crashes = sum(answer == CRASH for answer in theirs)
    cell.real_differ = sum(text not in ODD_TEXTS for text in asked)
    cell.own_way = len(wrong) - len(faults)
    shown = sorted(wrong, key=lambda index: (index not in faults, len(texts[index])))
    cell.examples = [
        f"{'FAULT ' if index in faults else ''}{texts[index][:60]!r}:"
        f" {_short(theirs[index], ours[index])} for {_short(ours[index], theirs[index])}"
        for index in shown[:EXAMPLES]
    ]


def _does_not_load(loader: str, folder: Path) -> bool:
    try:
        _ask(loader, folder, [])
    except FAILURES:
        return True
    return False


def _originally(loader: str, folder: Path, texts: Sequence[str]) -> list[Answer]:
    try:
        return _ask(loader, folder, texts) if texts else []
    except FAILURES as error:
        return [f"does not load: {error}"] * len(texts)


def _ask(loader: str, folder: Path, texts: Sequence[str]) -> list[Answer]:
    """Return a program's ids of texts, those with unknown characters asked apart from the rest."""
    tokenizer = Tokenizer.open(folder)
    # Only the unknown token, of those that text is cut into, stands for no bytes.
    unknown = [not all(map(tokenizer.token_bytes, tokenizer.encode(text))) for text in texts]
    found: dict[int, Answer] = {}
    for group in (False, True):
        chosen = [index for index, is_unknown in enumerate(unknown) if is_unknown == group]
        if group and not chosen:
            continue
        program = Program(loader, folder)
        try:
            answers = program.answers([texts[index] for index in chosen])
        finally:
            program.close()
        found |= zip(chosen, answers, strict=True)
    return [found[index] for index in range(len(texts))]


def _edgetiny(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    tokenizer = Tokenizer.open(folder)
    return [tokenizer.encode(text) for text in texts]


def _short(answer: Answer, other: Answer) -> str:
    """Return the ids around the first difference from another answer."""
    if isinstance(answer, str) or isinstance(other, str):
        return answer if isinstance(answer, str) else "ids"
    pairs = enumerate(zip(answer, other, strict=False))
    first = next((place for place, (a, b) in pairs if a != b), min(len(answer), len(other)))
    return str(answer[first : first + 5])


def check(
    kind: Kind, folder: Path, texts: Sequence[str], data: Path, converter: Path | None
) -> list[Cell]:
    """Compress one kind and compare it in every program."""
    reporter = Reporter()
    reporter.say(f"{kind.name} to {kind.size:,} rows")
    cells = [Cell(f"{kind.name} to {kind.size:,}", loader) for loader in LOADERS]
    pair = Pair(folder / "original", folder / "compact")
    (folder / "made").mkdir(parents=True)
    as_original(kind.find(data, folder / "made"), pair.original)
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source, size = pair.original, kind.size
    compress(
        TokenizerCompressConfig(source=source, text=(corpus,), vocab_size=size, out=pair.compact)
    )
    for cell in cells:
        if LOADERS[cell.loader].file == GGUF:
            cell.note = "not run" if converter is None else convert_both(converter, pair)
        if not cell.note:
            compare(cell, pair, texts)
        reporter.say(f"{cell.loader}: {cell}")
    return cells


def convert_both(converter: Path, pair: Pair) -> str:
    """Convert both folders for llama.cpp; return what went wrong with the compact one, if any."""
    write_gguf(converter, pair.original, pair.original)
    trouble = write_gguf(converter, pair.compact, pair.original)
    return f"does not convert: {trouble}" if trouble else ""


def versions() -> str:
    """Return the versions of the packages that take part."""
    found = []
    for package in sorted({loader.package for loader in LOADERS.values()} | {"tokenizers"}):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def markdown(cells: Sequence[Cell], facts: dict[str, Any]) -> str:
    """Return the page for people."""
    table: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        table.setdefault(cell.kind, {})[cell.loader] = cell
    lines = [
        "# Compact tokenizers in other programs",
        "",
        f"Written by `python bench/tokenizer_loaders.py`: {facts['versions']}, Python"
        f" {platform.python_version()}. {facts['texts']:,} texts: documents and lines of English"
        " and Chinese, and odd strings (special tokens in text, NUL, U+2581, runs of spaces,"
        " combining marks, emoji, control characters). Each compact tokenizer's ids in each program"
        ' are compared with edgetiny\'s. "As the original": the program gives other ids than'
        " edgetiny for the original tokenizer as well, so it is the program's own way.",
        "",
        f"| kind, rows | {' | '.join(LOADERS)} |",
        "|---|" + "---|" * len(LOADERS),
    ]
    for kind, row in table.items():
        lines.append(f"| {kind} | {' | '.join(str(row[loader]) for loader in LOADERS)} |")
    lines += [
        "",
        OWN_WAYS,
        "## What differs",
        "",
        "First other ids, theirs for ours, of the shortest texts.",
        "",
    ]
    for cell in cells:
        if cell.differ:
            lines.append(f"- {cell.kind}, {cell.loader}: {cell.faults} by the compact one alone")
            lines += [f"    - `{example}`" for example in cell.examples]
    return "\n".join([*lines, ""])


def main() -> None:
    """Compare, print and, if asked, write. Ends with status 1 for a fault of a compact one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of text/ and tokenizers/")
    parser.add_argument("--convert", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--write", type=Path, help="results, without suffix: .md and .json")
    options = parser.parse_args()
    texts = texts_of(options.data)
    cells = []
    with tempfile.TemporaryDirectory(prefix="edgetiny-") as name:
        for number, kind in enumerate(kinds()):
            folder = Path(name) / str(number)
            cells += check(kind, folder, texts, options.data, options.convert)
    facts = {"versions": versions(), "texts": len(texts)}
    page = markdown(cells, facts)
    print(page)
    if options.write is not None:
        options.write.with_suffix(".md").write_text(page, encoding="utf-8")
        rows = [asdict(cell) for cell in cells]
        write_json(options.write.with_suffix(".json"), {**facts, "rows": rows})
    sys.exit(any(cell.faults for cell in cells))


if __name__ == "__main__":
    main()
