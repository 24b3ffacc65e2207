"""Measure how many more tokens text takes with fewer rows, by four ways of choosing them.

    python bench/tokenizer_growth.py --tokenizer big.model --text en.jsonl.xz --text zh.jsonl.xz \
        --size 8000 --size 16000 --seed 0 --write docs/results/tokenizer_growth

Pieces are chosen on the training works and growth is measured on the held-out ones (6% of the
bytes, whole works, which ones the seed decides). naive: the most frequent pieces and nothing else.
closure: the most frequent, each with the pieces it is built from. edgetiny: what `edgetiny
tokenizer compress` keeps. retrained: a BPE learnt from the same training text, the floor; its first
merges are those of every smaller size. SentencePiece BPE only. Results add up in `--write`, named
without suffix: `.json` and `.md`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.console import Reporter
from edgetiny.data.holdout import Holdout
from edgetiny.text import Document, read_documents, work_of
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.model_file import BYTE, CONTROL, UNKNOWN, keep_pieces, load_model
from edgetiny.tokenizer.select import select
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from edgetiny.tokenizer.spread import Spread
from edgetiny.tokenizer.train import cut_line, train_model
from edgetiny.tokenizer.vocabulary import Counts, Gains, Vocabulary

HELD_OUT = 0.06
WAYS = ("naive", "closure", "edgetiny", "retrained")


@dataclass(frozen=True)
class Corpus:
    """Documents by side."""

    train: list[Document]
    held_out: list[Document]

    @classmethod
    def read(cls, paths: Sequence[Path], seed: int) -> "Corpus":
        documents = list(read_documents(paths))
        holdout = Holdout(HELD_OUT, seed)
        holdout.survey(documents)
        sides: tuple[list[Document], list[Document]] = ([], [])
        for document, is_held_out in holdout.split(documents):
            sides[is_held_out].append(document)
        return cls(*sides)

    def held_out_of(self, group: str) -> list[str]:
        return [document.text for document in self.held_out if document.group == group]

    @property
    def groups(self) -> list[str]:
        return sorted({document.group for document in self.held_out})


class Chooser:
    """The ways to choose pieces of one tokenizer, counted on the training works."""

    def __init__(self, tokenizer: SentencePieceTokenizer, corpus: Corpus) -> None:
        self.vocabulary: Vocabulary = tokenizer.vocabulary()
        self._counts: Counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        spread = Spread(self.vocabulary)
        for document in corpus.train:
            ids, occurrences = np.unique(tokenizer.encode(document.text), return_counts=True)
            self._counts[ids] += occurrences
            spread.add(work_of(document.source or document.group), ids, occurrences)
        self._gains: Gains = self.vocabulary.gains_of_built(spread.total())

    def naive(self, size: int) -> list[int]:
        stays = self.vocabulary.mandatory
        by_count = np.argsort(-self._counts, kind="stable").tolist()
        others = [index for index in by_count if index not in stays]
        return sorted([*stays, *others[: size - len(stays)]])

    def closure(self, size: int) -> list[int]:
        return select(self.vocabulary, self._counts.astype(np.float64), size)

    def edgetiny(self, size: int) -> list[int]:
        return select(self.vocabulary, self._gains, size)


def retrained(corpus: Corpus, size: int, options: argparse.Namespace) -> Any:
    """Return the model of a BPE of `size` pieces learnt from the training works."""
    lines = [
        part
        for document in corpus.train
        for line in document.text.split("\n")
        for part in cut_line(line)
    ]
    config = TokenizerTrainConfig(text=tuple(options.text), out=Path("unused"), vocab_size=size)
    _, proto = load_model(train_model(lines, config), "the retrained tokenizer")
    return proto


def first_rows(proto: Any, size: int) -> list[int]:
    """Return what a smaller training would have given: specials, characters, the first merges."""
    fixed = {
        index
        for index, piece in enumerate(proto.pieces)
        if piece.type in (UNKNOWN, CONTROL, BYTE) or len(piece.piece) == 1
    }
    merged = [index for index in range(len(proto.pieces)) if index not in fixed]
    merged.sort(key=lambda index: -proto.pieces[index].score)
    return sorted([*fixed, *merged[: max(0, size - len(fixed))]])


def n_tokens(proto: Any, kept: Sequence[int], texts: Sequence[str]) -> int:
    """Return the tokens of texts with some of a model's pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=keep_pieces(proto, kept))
    return sum(len(processor.encode(text)) for text in texts)


def rows(options: argparse.Namespace, seed: int, reporter: Reporter) -> list[dict[str, Any]]:
    """Return a row per size and group of text."""
    corpus = Corpus.read(options.text, seed)
    tokenizer = Tokenizer.open(options.tokenizer)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    chooser = Chooser(tokenizer, corpus)
    largest = max(options.size)
    reporter.say(f"seed {seed}: learning {largest:,} pieces anew")
    floor = retrained(corpus, largest, options)
    texts = {group: corpus.held_out_of(group) for group in corpus.groups}
    everything = range(tokenizer.vocab_size)
    before = {group: n_tokens(tokenizer.proto, everything, texts[group]) for group in texts}
    found = []
    for size in sorted(options.size):
        kept = {way: getattr(chooser, way)(size) for way in WAYS[:3]}
        for group in texts:
            row: dict[str, Any] = {
                "tokenizer": options.tokenizer.stem,
                "text": "+".join(corpus.groups),
                "seed": seed,
                "rows": size,
                "held_out": group,
                "bytes": sum(len(text.encode("utf-8")) for text in texts[group]),
                "tokens": before[group],
            }
            for way in WAYS[:3]:
                after = n_tokens(tokenizer.proto, kept[way], texts[group])
                row[way] = after / before[group] - 1
            floor_tokens = n_tokens(floor, first_rows(floor, size), texts[group])
            row["retrained"] = floor_tokens / before[group] - 1
            row["over_naive"] = row["edgetiny"] / row["naive"] if row["naive"] else None
            row["over_closure"] = row["edgetiny"] / row["closure"] if row["closure"] else None
            found.append(row)
            reporter.say(json.dumps(row, ensure_ascii=False))
    return found


def markdown(table: list[dict[str, Any]], notes: str) -> str:
    """Return the results for people; what a person wrote under the table stays."""
    lines = ["# Growth in tokens when a vocabulary is cut", ""]
    lines += [
        "Written by `bench/tokenizer_growth.py`, which says how. Growth on held-out works:",
        "",
    ]
    names = list(table[0])
    lines += ["| " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines += ["|" + "---|" * len(names)]
    for row in table:
        cells = []
        for name, value in row.items():
            if name in WAYS:
                cells.append(f"{value:.2%}")
            elif isinstance(value, float):
                cells.append(f"{value:.2f}")
            else:
                cells.append(f"{value:,}" if isinstance(value, int) else str(value))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + notes


def write(path: Path, found: list[dict[str, Any]]) -> None:
    """Add rows to the results, in the place of those of the same question."""

    def question(row: dict[str, Any]) -> tuple[Any, ...]:
        keys = ("tokenizer", "text", "seed", "rows", "held_out")
        return tuple(row[key] for key in keys)

    data, page = path.with_suffix(".json"), path.with_suffix(".md")
    held = json.loads(data.read_text(encoding="utf-8")) if data.exists() else []
    merged = {question(row): row for row in [*held, *found]}
    table = [merged[key] for key in sorted(merged)]
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    notes = text[text.index("\n## ") :] if "\n## " in text else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(markdown(table, notes), encoding="utf-8")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--size", type=int, action="append", required=True)
    parser.add_argument("--seed", type=int, action="append", help="default: 0")
    parser.add_argument("--write", type=Path, help="results, without suffix")
    options = parser.parse_args()
    reporter = Reporter()
    found = [row for seed in options.seed or [0] for row in rows(options, seed, reporter)]
    if options.write is not None:
        write(options.write, found)


if __name__ == "__main__":
    main()
