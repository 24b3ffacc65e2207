"""How often each token occurs, by group of text, in memory and as a file that adds up."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgetiny
from edgetiny.errors import DataError
from edgetiny.files import atomic_file, read_json
from edgetiny.tokenizer.tokenizer import Tokenizer

SCHEMA_VERSION = 1
_DIGITS = 4
Occurrences = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """The tokens of one group of text, and the size of what they stand for."""

    documents: int
    bytes: int
    by_id: Occurrences
    """(vocab_size,)"""
    spread: NDArray[np.float64]
    """How often each piece is built, damped work by work (`Spread`): (vocab_size,)."""

    @classmethod
    def none(cls, vocab_size: int) -> "GroupCounts":
        """Return the counts of no text."""
        return cls(0, 0, np.zeros(vocab_size, dtype=np.int64), np.zeros(vocab_size))

    @property
    def total(self) -> int:
        """Number of tokens."""
        return int(self.by_id.sum())

    def __add__(self, other: "GroupCounts") -> "GroupCounts":
        return GroupCounts(
            self.documents + other.documents,
            self.bytes + other.bytes,
            self.by_id + other.by_id,
            self.spread + other.spread,
        )


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Counts of one tokenizer's tokens: at least one group, by its name."""

    groups: Mapping[str, GroupCounts]

    @property
    def by_id(self) -> Occurrences:
        """Occurrences over all groups: (vocab_size,)."""
        total: Occurrences = np.sum([group.by_id for group in self.groups.values()], axis=0)
        return total

    @property
    def spread(self) -> NDArray[np.float64]:
        """The spread of all groups: (vocab_size,)."""
        total: NDArray[np.float64] = np.sum([each.spread for each in self.groups.values()], axis=0)
        return total

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all groups."""
        return sum(group.bytes for group in self.groups.values())

    @property
    def documents(self) -> int:
        """Documents of all groups."""
        return sum(group.documents for group in self.groups.values())

    @property
    def total(self) -> int:
        """Number of tokens of all groups."""
        return sum(group.total for group in self.groups.values())

    def rows(self) -> list[dict[str, Any]]:
        """Return a mapping per group, for `console.show`."""
        return [
            {
                "group": name,
                "documents": group.documents,
                "bytes": group.bytes,
                "tokens": group.total,
                "tokens_per_byte": group.total / group.bytes,
            }
            for name, group in self.groups.items()
        ]


def add_up(parts: Iterable[TokenCounts]) -> TokenCounts:
    """Return the sum of counts of one tokenizer: groups of the same name become one."""
    groups: dict[str, GroupCounts] = {}
    for part in parts:
        for name, group in part.groups.items():
            groups[name] = groups[name] + group if name in groups else group
    return TokenCounts(groups)


def write_counts(path: Path, counts: TokenCounts, tokenizer_sha256: str) -> None:
    """Write a counts file; each group is a line, since it may hold a hundred thousand numbers."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "edgetiny": edgetiny.__version__,
        "tokenizer": {"sha256": tokenizer_sha256, "vocab_size": len(counts.by_id)},
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(part)}" for name, part in head.items()]
    groups = [
        f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(_group_json(group))}"
        for name, group in counts.groups.items()
    ]
    lines.append('  "groups": {\n' + ",\n".join(groups) + "\n  }")
    with atomic_file(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class CountsFile:
    """A counts file, read: the counts, and whose tokens they are of."""

    path: Path
    tokenizer_sha256: str
    counts: TokenCounts


def read_counts(path: Path) -> CountsFile:
    """Read a counts file. Raises DataError, in one line, for a file that is none."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; edgetiny tokenizer count writes counts")
    raw = read_json(path, schema_version=SCHEMA_VERSION)
    try:
        vocab_size = int(raw["tokenizer"]["vocab_size"])
        groups = {
            name: _group_of(group, vocab_size, f"{path}: {name}")
            for name, group in raw["groups"].items()
        }
        sha256 = str(raw["tokenizer"]["sha256"])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is no counts file, or a damaged one: {error}") from error
    if not groups:
        raise DataError(f"{path} counts no text; count some first")
    return CountsFile(path, sha256, TokenCounts(groups))


def counts_of(path: Path, tokenizer: Tokenizer) -> TokenCounts:
    """Read a counts file of this very tokenizer. Raises DataError if it is of another."""
    file = read_counts(path)
    if file.tokenizer_sha256 != tokenizer.sha256:
        raise DataError(
            f"{path} counts the tokens of another tokenizer (sha256 {file.tokenizer_sha256[:12]}),"
            f" not of {tokenizer.path} (sha256 {tokenizer.sha256[:12]}); count again with it"
        )
    if len(file.counts.by_id) != tokenizer.vocab_size:
        raise DataError(
            f"{path} is damaged: it counts {len(file.counts.by_id):,} ids,"
            f" {tokenizer.path} has {tokenizer.vocab_size:,}"
        )
    return file.counts


def _group_json(group: GroupCounts) -> dict[str, Any]:
    ids, built = np.nonzero(group.by_id)[0], np.nonzero(group.spread)[0]
    return {
        "documents": group.documents,
        "bytes": group.bytes,
        "tokens": group.total,
        "ids": ids.tolist(),
        "counts": group.by_id[ids].tolist(),
        "built": built.tolist(),
        "spread": [round(value, _DIGITS) for value in group.spread[built].tolist()],
    }


def _group_of(raw: Mapping[str, Any], vocab_size: int, where: str) -> GroupCounts:
    by_id = _dense(raw["ids"], np.array(raw["counts"], dtype=np.int64), vocab_size, where)
    spread = _dense(raw["built"], np.array(raw["spread"], dtype=np.float64), vocab_size, where)
    if int(by_id.sum()) != raw["tokens"] or int(raw["bytes"]) <= 0:
        raise DataError(f"{where}: tokens and counts do not fit together; the file is damaged")
    return GroupCounts(int(raw["documents"]), int(raw["bytes"]), by_id, spread)


def _dense(ids: Any, values: NDArray[Any], vocab_size: int, where: str) -> NDArray[Any]:
    """Return (vocab_size,) with the values at their ids, 0 elsewhere."""
    places = np.array(ids, dtype=np.int64)
    is_sound = (
        places.shape == values.shape
        and places.ndim == 1
        and len(places) > 0
        and bool((np.diff(places) > 0).all())
        and int(places[0]) >= 0
        and int(places[-1]) < vocab_size
        and values.min() > 0
    )
    if not is_sound:
        raise DataError(f"{where}: ids and counts do not fit together; the file is damaged")
    dense = np.zeros(vocab_size, dtype=values.dtype)
    dense[places] = values
    return dense
