"""Check on a whole corpus that compact tokenizers cut texts as their originals do.

    python bench/tokenizer_invariant.py --data DATA \
        --write docs/results/tokenizer_invariant

For every kind of tokenizer and every size below its own: each document and each different line and
word (between white space) whose tokens are all kept must have those tokens, under their new ids.
And each document and 10,000 random strings must come back from the compact tokenizer as they come
back from the original. Ends with status 1 if one does not.
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizer_kinds import Kind, kinds, text_files

from edgetiny.config.tokenizer import TokenizerCompressConfig, TokenizerCountConfig
from edgetiny.console import Reporter
from edgetiny.device import cpu_model
from edgetiny.files import read_json
from edgetiny.text import read_documents
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.compact import MAP_FILE
from edgetiny.tokenizer.compress import run as compress
from edgetiny.tokenizer.count import run as count
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer
from edgetiny.tokenizer.model_file import SPACE
from edgetiny.tokenizer.parallel import batches, map_in_order
from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

N_RANDOM = 10_000
EXAMPLES = 3
SIZES = (8_000, 16_000, 32_000, 48_000)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of many texts, one after the other."""

    ids: NDArray[np.int32]
    """(n_tokens,)"""
    offsets: NDArray[np.int64]
    """(n_texts + 1,): text i has ids[offsets[i]:offsets[i + 1]]."""

    def of(self, text: int) -> NDArray[np.int32]:
        """Return the ids of one text."""
        return self.ids[self.offsets[text] : self.offsets[text + 1]]

    def all_in(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return for each text whether all of its tokens are kept: (n_texts,)."""
        lost = np.concatenate(([0], np.cumsum(~kept[self.ids])))
        same: NDArray[np.bool_] = lost[self.offsets[1:]] == lost[self.offsets[:-1]]
        return same


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was found for one tokenizer at one size."""

    tokenizer: str
    kind: str
    source_size: int
    size: int
    documents: int
    lines: int
    words: int
    """Texts all of whose tokens are kept: what the promise is about."""
    broken: int
    """Of those, texts that are cut in another way."""
    round_trips: int
    """Documents and random strings."""
    exact: int
    """Of those, texts that come back as they were, up to the tokenizer's own normalisation."""
    changed: int
    """Of those, texts that come back otherwise than from the original tokenizer."""
    newly_unknown: int
    """Of those, texts in which the compact tokenizer has an unknown and the original none."""
    examples: list[str]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Every document, and every different line and word of them."""

    documents: list[str]
    lines: list[str]
    words: list[str]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "Corpus":
        """Return the texts of files, in memory."""
        documents = [document.text for document in read_documents(paths)]
        lines = dict.fromkeys(line for text in documents for line in text.split("\n"))
        words = dict.fromkeys(word for line in lines for word in line.split())
        return cls(documents, list(lines), list(words))

    def __str__(self) -> str:
        """Return how much it is."""
        return (
            f"{len(self.documents):,} documents, {len(self.lines):,} different lines,"
            f" {len(self.words):,} different words"
        )


def random_strings(count: int, seed: int = 0) -> list[str]:
    """Return strings of characters from all of Unicode, half of them from its busier corners."""
    rng = random.Random(seed)
    corners: list[str] = [
        *" \n\t\r\0\u2581\u200d\ufe0f\u0301\u00a0\u3000",
        *map(chr, range(32, 127)),
        *map(chr, range(0x300, 0x340)),
        *map(chr, range(0x1F600, 0x1F650)),
        *map(chr, range(0x4E00, 0x4F00)),
    ]

    def character() -> str:
        if rng.random() < 0.5:
            return rng.choice(corners)
        code = rng.randrange(0x110000 - 0x800)
        return chr(code if code < 0xD800 else code + 0x800)

    return ["".join(character() for _ in range(rng.randrange(1, 40))) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Through:
    """Texts after a tokenizer: their tokens, and what these decode to."""

    encoded: Encoded
    back: list[str]


Part = tuple[NDArray[np.int32], NDArray[np.int64], list[str]]


def _encode_all(tokenizer: Tokenizer, texts: list[str], *, back: bool = False) -> Part:
    encoded = [tokenizer.encode(text) for text in texts]
    decoded = [tokenizer.decode(ids) for ids in encoded] if back else []
    ids = np.fromiter(chain.from_iterable(encoded), np.int32)
    return ids, np.array([len(part) for part in encoded]), decoded


_encode_and_decode_all = partial(_encode_all, back=True)


def through(
    tokenizer: Tokenizer, texts: Sequence[str], processes: int, *, back: bool = False
) -> Through:
    """Encode all texts and, if asked, decode them again."""
    work = _encode_and_decode_all if back else _encode_all
    parts = list(map_in_order(work, batches(texts, len), tokenizer, processes))
    ids = np.concatenate([np.zeros(0, np.int32), *(part[0] for part in parts)])
    lengths = np.concatenate([np.zeros(1, np.int64), *(part[1] for part in parts)])
    return Through(Encoded(ids, np.cumsum(lengths)), [text for part in parts for text in part[2]])


def has_unknown(tokenizer: Tokenizer, encoded: Encoded) -> NDArray[np.bool_]:
    """Return for each text whether the unknown token is in it: (n_texts,)."""
    # Of the tokens that text is cut into only that one stands for no bytes.
    says = np.array([bool(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    return ~encoded.all_in(says)


class Original:
    """A tokenizer, and the whole corpus through it."""

    def __init__(self, name: str, path: Path, corpus: Corpus, processes: int) -> None:
        self.name = name
        self.tokenizer = Tokenizer.open(path)
        self._corpus = corpus
        self._processes = processes
        self._odd = [*corpus.documents, *random_strings(N_RANDOM)]
        self._through = through(self.tokenizer, self._odd, processes, back=True)
        parts = (corpus.lines, corpus.words)
        self._parts = [through(self.tokenizer, part, processes).encoded for part in parts]

    def check(self, folder: Path) -> Row:
        """Compare it with the compact tokenizer in a folder."""
        compact = Tokenizer.open(folder)
        new = np.full(self.tokenizer.vocab_size, -1, np.int32)
        new[read_json(folder / MAP_FILE)["new_to_old"]] = np.arange(compact.vocab_size)
        after = through(compact, self._odd, self._processes, back=True)
        is_kept = self._through.encoded.all_in(new >= 0)[: len(self._corpus.documents)]
        documents = np.flatnonzero(is_kept).tolist()
        wrong = [
            self._odd[index]
            for index in documents
            if not np.array_equal(after.encoded.of(index), new[self._through.encoded.of(index)])
        ]
        lines, words = (
            self._same_ids(compact, new, texts, encoded)
            for texts, encoded in zip(
                (self._corpus.lines, self._corpus.words), self._parts, strict=True
            )
        )
        wrong += lines[1] + words[1]
        backs = list(zip(self._odd, self._through.back, after.back, strict=True))
        changed = [text for text, before, now in backs if before != now]
        unknown = has_unknown(compact, after.encoded)
        was_unknown = has_unknown(self.tokenizer, self._through.encoded)
        return Row(
            tokenizer=self.name,
            kind=self.tokenizer.kind,
            source_size=self.tokenizer.vocab_size,
            size=compact.vocab_size,
            documents=len(documents),
            lines=lines[0],
            words=words[0],
            broken=len(wrong),
            round_trips=len(self._odd),
            exact=sum(self._normal(text) == self._normal(now) for text, _, now in backs),
            changed=len(changed),
            newly_unknown=int((unknown & ~was_unknown).sum()),
            examples=[text[:200] for text in (*wrong[:EXAMPLES], *changed[:EXAMPLES])],
        )

    def _normal(self, text: str) -> str:
        """Apply what the tokenizer itself does to a text before it is cut."""
        if isinstance(self.tokenizer, JsonTokenizer) and self.tokenizer.file.is_byte_level:
            return unicodedata.normalize("NFC", text)
        if isinstance(self.tokenizer, SentencePieceTokenizer):
            has_prefix = self.tokenizer.proto.normalizer_spec.add_dummy_prefix
            return text.replace(SPACE, " ") if has_prefix else text
        return text.replace(SPACE, " ")

    def _same_ids(
        self, compact: Tokenizer, new: NDArray[np.int32], texts: Sequence[str], encoded: Encoded
    ) -> tuple[int, list[str]]:
        """Return how many texts have all their tokens kept, and which of them are cut otherwise.

        new: (n_pieces,), the new id of each old one, or -1.
        """
        chosen = np.flatnonzero(encoded.all_in(new >= 0)).tolist()
        again = through(compact, [texts[index] for index in chosen], self._processes).encoded
        broken = [
            texts[index]
            for place, index in enumerate(chosen)
            if not np.array_equal(again.of(place), new[encoded.of(index)])
        ]
        return len(chosen), broken


def check_all(corpus: Corpus, options: argparse.Namespace, reporter: Reporter) -> Iterator[Row]:
    """Yield what was found for each tokenizer at each size below its own."""
    reporter.say(str(corpus))
    for kind in chosen_kinds(options.kind):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="edgetiny-") as folder:
            path = kind.find(options.data, Path(folder))
            original = Original(kind.name, path, corpus, options.processes)
            own = original.tokenizer.vocab_size
            sizes = [size for size in options.size if size < own] or [kind.size]
            for compact in compressed(path, sizes, options, Path(folder)):
                row = original.check(compact)
                reporter.say(f"{json.dumps(asdict(row))} {time.perf_counter() - started:.0f} s")
                yield row


def chosen_kinds(names: Sequence[str] | None) -> list[Kind]:
    """Return the kinds of the given names, or all."""
    return [kind for kind in kinds() if names is None or kind.name in names]


def kept_rows(write: Path | None, names: Sequence[str] | None) -> list[Row]:
    """Return what an earlier run wrote about kinds that this one leaves out."""
    if names is None or write is None or not write.with_suffix(".json").exists():
        return []
    rows = read_json(write.with_suffix(".json"))["rows"]
    return [Row(**row) for row in rows if row["tokenizer"] not in names]


def compressed(
    path: Path, sizes: Sequence[int], options: argparse.Namespace, folder: Path
) -> Iterator[Path]:
    """Yield the compact tokenizers of one source, as `edgetiny tokenizer compress` makes them."""
    text, processes = tuple(text_files(options.data)), options.processes
    counts = folder / "counts.json"
    count(TokenizerCountConfig(source=path, text=text, out=counts, processes=processes))
    for size in sizes:
        out = folder / str(size)
        compress(TokenizerCompressConfig(source=path, counts=counts, vocab_size=size, out=out))
        yield out


def markdown(facts: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the page for people."""
    lines = [
        "# Compact tokenizers cut texts as their originals do",
        "",
        f"Written by `python bench/tokenizer_invariant.py` ({facts['machine']}). Corpus:",
        f"{' and '.join(facts['files'])}: {facts['corpus']}.",
        "",
        "All kept: texts all of whose tokens are kept (lines and words: different ones). Broken:",
        "those of them whose compact tokens are not the original ones under their new ids. Exact:",
        f"of all documents and {N_RANDOM:,} random Unicode strings, those that decode to what they",
        "were, up to what the tokenizer itself does to a text first (byte level here: NFC; with a",
        "dummy prefix: U+2581 is a space). The unigram model applies NFKC and drops spaces, and a",
        "character that is unknown is lost, so for those two kinds the figure says nothing.",
        "Changed: texts that decode to something else than with the original. New unknowns: texts",
        "with an unknown token where the original had none.",
        "",
        "| tokenizer | kind | rows of | all kept: documents | lines | words | broken | exact |"
        " changed | new unknowns |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.tokenizer} | {row.kind} | {row.size:,} of {row.source_size:,} |"
        f" {row.documents:,} | {row.lines:,} | {row.words:,} | {row.broken:,} |"
        f" {row.exact:,} of {row.round_trips:,} | {row.changed:,} | {row.newly_unknown:,} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Check, print and, if asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of text/ and tokenizers/")
    names = [kind.name for kind in kinds()]
    parser.add_argument("--kind", nargs="+", choices=names, help="leave the other rows as they are")
    parser.add_argument("--size", type=int, nargs="+", default=SIZES, help="rows to keep")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="results, without suffix: .md and .json")
    options = parser.parse_args()
    corpus = Corpus.read(text_files(options.data))
    found = list(check_all(corpus, options, Reporter()))
    rows = [*kept_rows(options.write, options.kind), *found]
    rows.sort(key=lambda row: (names.index(row.tokenizer), row.size))
    facts = {
        "machine": f"{cpu_model()}, Python {platform.python_version()}",
        "files": [path.name for path in text_files(options.data)],
        "corpus": str(corpus),
    }
    page = markdown(facts, rows)
    print(page)
    if options.write is not None:
        options.write.with_suffix(".md").write_text(page, encoding="utf-8")
        content = json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=2)
        options.write.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
    sys.exit(any(row.broken or row.changed or row.newly_unknown for row in rows))


if __name__ == "__main__":
    main()
