"""`edgetiny data build`: text files to a folder of token shards."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import edgetiny
from edgetiny.config.data import DataBuildConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.data.holdout import Holdout
from edgetiny.data.shards import META_FILE, SCHEMA_VERSION, SPLITS, TOKENIZER_FOLDER, Shards
from edgetiny.errors import DataError
from edgetiny.files import atomic_folder, refuse_existing, write_json
from edgetiny.text import group_of, read_documents, total_bytes
from edgetiny.tokenizer.locate import copy_tokenizer
from edgetiny.tokenizer.parallel import batches, map_in_order, process_count
from edgetiny.tokenizer.tokenizer import Tokenizer

_UINT16_IDS = 1 << 16


@dataclass(frozen=True, slots=True)
class _Item:
    """One document on its way to a split."""

    text: str
    split: int
    group: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The documents of one batch: flat tokens, and four rows of facts about each document."""

    tokens: NDArray[Any]
    facts: NDArray[np.int64]
    """(n_documents, 4): tokens, bytes of text, split, group."""


def run(config: DataBuildConfig, reporter: Reporter = QUIET) -> Shards:
    """Write token shards, each document behind a BOS, and return them opened.

    The files are the same for the same text, tokenizer, seed and fraction, whatever the number
    of processes. The text is read twice: once to see which works there are.
    Raises DataError for text or a tokenizer that cannot be used, or if nothing is left to train on.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    tokenizer = Tokenizer.open(config.tokenizer)
    holdout = _survey(config, reporter)
    groups = list(dict.fromkeys(map(group_of, config.text)))
    with atomic_folder(config.out, overwrite=config.overwrite) as folder, ExitStack() as stack:
        writers = [stack.enter_context(_SplitWriter(folder, name)) for name in SPLITS]
        for encoded in _encode_all(config, tokenizer, holdout, groups, reporter):
            for split, writer in enumerate(writers):
                writer.write(encoded, split)
        if not writers[0].n_tokens:
            raise DataError("nothing is left to train on; give more text or less --valid-fraction")
        (folder / TOKENIZER_FOLDER).mkdir()
        copy_tokenizer(tokenizer.path, folder / TOKENIZER_FOLDER)
        write_json(folder / META_FILE, _meta(config, tokenizer, holdout, groups, writers))
    return Shards.open(config.out)


def document_start(tokenizer: Tokenizer) -> int | None:
    """Return the id put before each document: BOS; EOS if there is no BOS; None without either."""
    return tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id


def _survey(config: DataBuildConfig, reporter: Reporter) -> Holdout:
    holdout = Holdout(config.valid_fraction, config.seed)
    with reporter.task("reading text", total_bytes(config.text)) as task:
        holdout.survey(read_documents(config.text, task.advance))
    tails = [group for group, rule in holdout.rules().items() if rule == "tail"]
    if tails:
        reporter.say(
            f"{', '.join(tails)}: a single work, so the last {config.valid_fraction:.1%}"
            " of its text is held out"
        )
    return holdout


def _encode_all(
    config: DataBuildConfig,
    tokenizer: Tokenizer,
    holdout: Holdout,
    groups: list[str],
    reporter: Reporter,
) -> Iterator[_Encoded]:
    size_bytes = total_bytes(config.text)
    index_of = {group: index for index, group in enumerate(groups)}
    encode = functools.partial(
        _encode_batch,
        start=document_start(tokenizer),
        dtype="<u2" if tokenizer.vocab_size <= _UINT16_IDS else "<u4",
    )
    n_documents = n_tokens = 0
    with reporter.task("tokenizing", size_bytes) as task:
        items = (
            _Item(document.text, int(is_held_out), index_of[document.group])
            for document, is_held_out in holdout.split(read_documents(config.text, task.advance))
        )
        parts = batches(items, lambda item: len(item.text))
        processes = process_count(config.processes, size_bytes)
        for encoded in map_in_order(encode, parts, tokenizer, processes):
            yield encoded
            n_documents += len(encoded.facts)
            n_tokens += len(encoded.tokens)
            task.advance(0, f"{n_documents:,} documents, {n_tokens:,} tokens")


def _encode_batch(
    tokenizer: Tokenizer, items: list[_Item], start: int | None, dtype: str
) -> _Encoded:
    prefix = [] if start is None else [start]
    tokens, facts = [], []
    for item in items:
        ids = np.array(prefix + tokenizer.encode(item.text), dtype=dtype)
        tokens.append(ids)
        facts.append((len(ids), len(item.text.encode("utf-8")), item.split, item.group))
    return _Encoded(np.concatenate(tokens), np.array(facts, dtype=np.int64))


class _SplitWriter:
    """Appends documents to one split's `.bin` and `.idx`, hashing and counting as it goes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.n_tokens = 0
        self.counts: dict[str, Counter[int]] = {
            fact: Counter() for fact in ("tokens", "documents", "bytes")
        }
        self._paths = {suffix: folder / f"{name}.{suffix}" for suffix in ("bin", "idx")}
        self._hashes = {suffix: hashlib.sha256() for suffix in self._paths}
        self._streams: dict[str, BinaryIO] = {}

    def __enter__(self) -> "_SplitWriter":
        self._streams = {suffix: path.open("wb") for suffix, path in self._paths.items()}
        return self

    def __exit__(self, *error: object) -> None:
        for stream in self._streams.values():
            stream.close()

    def write(self, encoded: _Encoded, split: int) -> None:
        """Append those documents of a batch that belong to a split."""
        lengths, chosen = encoded.facts[:, 0], encoded.facts[:, 2] == split
        facts = encoded.facts[chosen]
        ends = self.n_tokens + np.cumsum(facts[:, 0])
        self._append("bin", encoded.tokens[np.repeat(chosen, lengths)].tobytes())
        rows = np.stack((ends, facts[:, 1], facts[:, 3]), axis=1)  # (n_documents, 3)
        self._append("idx", rows.astype("<i8").tobytes())
        self.n_tokens += int(facts[:, 0].sum())
        for n_tokens, n_bytes, _, group in facts.tolist():
            self.counts["tokens"][group] += n_tokens
            self.counts["documents"][group] += 1
            self.counts["bytes"][group] += n_bytes

    def sha256(self) -> dict[str, str]:
        """Return the hash of each file by its name."""
        return {f"{self.name}.{suffix}": hash.hexdigest() for suffix, hash in self._hashes.items()}

    def count(self, groups: list[str]) -> dict[str, Any]:
        """Return tokens, documents and bytes, in all and by group."""
        by_group = {
            name: {fact: counts[index] for fact, counts in self.counts.items()}
            for index, name in enumerate(groups)
        }
        return {fact: counts.total() for fact, counts in self.counts.items()} | {"groups": by_group}

    def _append(self, suffix: str, content: bytes) -> None:
        self._streams[suffix].write(content)
        self._hashes[suffix].update(content)


def _meta(
    config: DataBuildConfig,
    tokenizer: Tokenizer,
    holdout: Holdout,
    groups: list[str],
    writers: list[_SplitWriter],
) -> dict[str, Any]:
    start = document_start(tokenizer)
    role = "none" if start is None else "bos" if start == tokenizer.bos_id else "eos"
    return {
        "schema_version": SCHEMA_VERSION,
        "edgetiny": edgetiny.__version__,
        "tokenizer": {"sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
        "dtype": "uint16" if tokenizer.vocab_size <= _UINT16_IDS else "uint32",
        "document_start": {"token_id": start, "role": role},
        "document_end": {"token_id": None, "role": "none"},
        "groups": groups,
        "held_out": {
            "fraction": config.valid_fraction,
            "seed": config.seed,
            "rules": holdout.rules(),
        },
        "splits": {writer.name: writer.count(groups) for writer in writers},
        "files": {name: sha for writer in writers for name, sha in writer.sha256().items()},
    }
