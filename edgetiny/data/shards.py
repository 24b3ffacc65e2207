"""The shard folder: two flat files of token ids, where their documents lie, and what they are."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetiny.data.foreign import open_foreign
from edgetiny.errors import DataError
from edgetiny.files import read_json, sha256_file

SCHEMA_VERSION = 1
META_FILE = "meta.json"
TOKENIZER_FOLDER = "tokenizer"
SPLITS = ("train", "valid")
INDEX_COLUMNS = ("end_token", "text_bytes", "group")
"""What each document's row of three int64 in an `.idx` file holds."""

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True)
class Split:
    """The documents for training, or those held out: flat tokens and where documents begin."""

    path: Path
    """The `.bin` file."""
    tokens: Tokens
    """(n_tokens,), memory-mapped."""
    groups: list[str]
    """Names of the groups, one a text file stem."""
    document_offsets: NDArray[np.int64]
    """(n_documents + 1,), in tokens; document i is tokens[offsets[i]:offsets[i + 1]]."""
    document_group: NDArray[np.int64]
    """(n_documents,), index into `groups`."""
    text_bytes: NDArray[np.int64] | None
    """`document_bytes`, or None where they were not recorded."""

    @property
    def document_bytes(self) -> NDArray[np.int64]:
        """(n_documents,), UTF-8 bytes of raw text. Raises DataError where they are not known."""
        if self.text_bytes is None:
            raise DataError(
                f"{self.path} does not say how many bytes of text its tokens stand for;"
                " build shards with `edgetiny data build` to measure bits per byte"
            )
        return self.text_bytes

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.document_group)

    def n_windows(self, length: int) -> int:
        """Return how many windows of `length` tokens and their successors lie side by side."""
        return max(0, (len(self.tokens) - 1) // length)

    def windows(self, indices: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Return windows by number, (n, length + 1); window i is tokens[i*length : (i+1)*length+1].

        The last token of a window is the first of the next: inputs are [:, :-1], targets [:, 1:].
        """
        starts = np.asarray(indices, dtype=np.int64)[:, None] * length
        rows: NDArray[np.int64] = self.tokens[starts + np.arange(length + 1)].astype(np.int64)
        return rows


class Shards:
    """A shard folder, opened. Reads nanoGPT's and llm.c's files too."""

    def __init__(
        self,
        path: Path,
        meta: Mapping[str, Any],
        train: Split,
        valid: Split,
        vocab_size: int | None,
    ) -> None:
        self.path = path
        self.meta = meta
        """`meta.json`; empty for a folder of nanoGPT or llm.c."""
        self.train = train
        self.valid = valid
        self._vocab_size = vocab_size

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Open a folder written by `edgetiny data build`, or one with `train.bin` and `val.bin`.

        Raises DataError if it is missing, damaged, or written by a newer edgetiny.
        """
        folder = Path(folder)
        if not folder.is_dir():
            problem = "is a file, not a folder" if folder.exists() else "does not exist"
            raise DataError(f"{folder} {problem}; give a folder of token shards")
        if not (folder / META_FILE).is_file():
            foreign = open_foreign(folder)
            train, valid = (_unindexed(*foreign[name]) for name in SPLITS)
            return cls(folder, {}, train, valid, None)
        meta = read_json(folder / META_FILE, schema_version=SCHEMA_VERSION)
        try:
            train, valid = (_open_split(folder, name, meta) for name in SPLITS)
            return cls(folder, meta, train, valid, int(meta["tokenizer"]["vocab_size"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder / META_FILE} lacks or garbles {error}") from error

    @property
    def groups(self) -> list[str]:
        """Names of the groups of text, one a file stem."""
        return self.train.groups

    @property
    def tokenizer_sha256(self) -> str | None:
        """The SHA-256 of the tokenizer's model file; None where it is not recorded."""
        return self.meta["tokenizer"]["sha256"] if self.meta else None

    @property
    def tokenizer_path(self) -> Path | None:
        """The folder with the tokenizer that made the tokens; None where there is none."""
        folder = self.path / TOKENIZER_FOLDER
        return folder if folder.is_dir() else None

    @property
    def document_start(self) -> int | None:
        """The id before each document, or None if there is none or it is not recorded."""
        return self.meta["document_start"]["token_id"] if self.meta else None

    @functools.cached_property
    def vocab_size(self) -> int:
        """Number of ids; where it is not recorded, one more than the largest id in use."""
        if self._vocab_size is not None:
            return self._vocab_size
        used = [int(split.tokens.max()) for split in (self.train, self.valid) if len(split.tokens)]
        return 1 + max(used, default=0)

    @functools.cached_property
    def sha256(self) -> str:
        """Identifies the training tokens: the SHA-256 of `train.bin`."""
        if self.meta:
            recorded: str = self.meta["files"]["train.bin"]
            return recorded
        return sha256_file(self.train.path)

    def summary(self) -> dict[str, Any]:
        """Return what the folder holds, for `console.show`."""
        rows = []
        for name, split in zip(SPLITS, (self.train, self.valid), strict=True):
            for index, group in enumerate(self.groups):
                rows.append({"split": name, "group": group} | _counts(split, index))
        return {
            "shards": str(self.path),
            "vocab_size": self.vocab_size,
            "dtype": str(self.train.tokens.dtype),
            "train_tokens": len(self.train.tokens),
            "valid_tokens": len(self.valid.tokens),
            "groups": rows,
        }


def _counts(split: Split, group: int) -> dict[str, Any]:
    chosen = split.document_group == group
    n_tokens = int(np.diff(split.document_offsets)[chosen].sum())
    counts: dict[str, Any] = {"documents": int(chosen.sum()), "tokens": n_tokens}
    if split.text_bytes is not None:
        counts["bytes"] = int(split.text_bytes[chosen].sum())
        counts["tokens_per_byte"] = n_tokens / counts["bytes"] if counts["bytes"] else 0.0
    return counts


def map_file(path: Path, dtype: Any, offset: int = 0) -> Any:
    """Return a file as a flat read-only array without reading it; an empty one if it is empty."""
    try:
        if path.stat().st_size <= offset:
            return np.empty(0, dtype=dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; build the shards again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _open_split(folder: Path, name: str, meta: Mapping[str, Any]) -> Split:
    if meta["dtype"] not in ("uint16", "uint32"):
        raise DataError(f"{folder / META_FILE}: dtype {meta['dtype']!r} is not uint16 or uint32")
    tokens = map_file(folder / f"{name}.bin", np.dtype(meta["dtype"]).newbyteorder("<"))
    index = map_file(folder / f"{name}.idx", np.dtype("<i8"))
    counts, n_columns = meta["splits"][name], len(INDEX_COLUMNS)
    if len(index) != counts["documents"] * n_columns or len(tokens) != counts["tokens"]:
        raise DataError(
            f"{folder / name}.bin or .idx is cut short: it should hold {counts['tokens']:,} tokens"
            f" in {counts['documents']:,} documents; build the shards again"
        )
    rows = np.asarray(index, dtype=np.int64).reshape(-1, n_columns)  # (n_documents, 3)
    offsets = np.concatenate((np.zeros(1, np.int64), rows[:, 0]))  # (n_documents + 1,)
    return Split(
        folder / f"{name}.bin", tokens, list(meta["groups"]), offsets, rows[:, 2], rows[:, 1]
    )


def _unindexed(path: Path, tokens: Tokens) -> Split:
    """Take a file without an index as one document."""
    offsets = np.array([0, len(tokens)], dtype=np.int64)
    return Split(path, tokens, ["all"], offsets, np.zeros(1, np.int64), None)
