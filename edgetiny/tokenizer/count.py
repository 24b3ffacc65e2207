"""`edgetiny tokenizer count`: how often each token occurs in text, counted by several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgetiny.config.tokenizer import TokenizerCountConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import DataError
from edgetiny.files import refuse_existing
from edgetiny.text import STDIN, Document, StdinFormat, read_documents, total_bytes, work_of
from edgetiny.tokenizer.counts import GroupCounts, Occurrences, TokenCounts, write_counts
from edgetiny.tokenizer.merge_counts import CountsResult
from edgetiny.tokenizer.parallel import batches, map_in_order, process_count
from edgetiny.tokenizer.tokenizer import Tokenizer

# Each group holds a number per piece: 256 of them at 100,000 pieces are 200 MB.
_MOST_GROUPS = 256
# Of a long text, what one process takes at a time. Less than reading's own: memory is bounded by
# this times the batches on their way.
_PART_CHARACTERS = 1 << 20
_UNKNOWN_SIZE = 1 << 62

Watch = Callable[[Document], None]


def run(config: TokenizerCountConfig, reporter: Reporter = QUIET) -> CountsResult:
    """Write the counts of text, by group. Raises DataError for text that cannot be read."""
    refuse_existing(config.out, overwrite=config.overwrite)
    tokenizer = Tokenizer.open(config.source)
    counts = count_tokens(
        tokenizer,
        config.text,
        processes=config.processes,
        reporter=reporter,
        by=config.by,
        stdin=config.text_format,
    )
    write_counts(config.out, counts, tokenizer.sha256)
    return CountsResult(path=config.out, counts=counts)


def count_tokens(
    tokenizer: Tokenizer,
    text: Sequence[Path],
    *,
    processes: int = 1,
    reporter: Reporter = QUIET,
    by: Literal["file", "work"] = "file",
    stdin: StdinFormat | None = None,
    watch: Watch | None = None,
) -> TokenCounts:
    """Count the tokens of text files in one pass, in memory that does not grow with the text.

    processes: 0 means one a core. by: what is a group, a file (by its stem) or a work in it.
    stdin: how to read `-`; refused if None. watch: sees every document as it passes.
    """
    size_bytes = total_bytes(text, stdin=stdin)
    is_stream = STDIN in text
    groups: dict[str, GroupCounts] = {}
    with reporter.task("counting tokens", None if is_stream else size_bytes) as task:
        documents = read_documents(
            text, task.advance, part_characters=_PART_CHARACTERS, stdin=stdin
        )
        items = (_item(document, by, watch) for document in documents)
        counted = map_in_order(
            _count,
            batches(items, lambda item: len(item[1])),
            tokenizer,
            process_count(processes, _UNKNOWN_SIZE if is_stream else size_bytes),
        )
        for part in (part for parts in counted for part in parts):
            _add(groups, part, tokenizer.vocab_size)
    return TokenCounts(groups)


@dataclass(frozen=True, slots=True)
class _Part:
    """The documents of one group in one batch."""

    group: str
    documents: int
    bytes: int
    ids: Occurrences
    occurrences: Occurrences


def _item(document: Document, by: Literal["file", "work"], watch: Watch | None) -> tuple[str, str]:
    """Return (group, text) of a document."""
    if watch is not None:
        watch(document)
    if by == "file" or document.source is None:
        return document.group, document.text
    return f"{document.group}/{work_of(document.source)}", document.text


def _count(tokenizer: Tokenizer, items: list[tuple[str, str]]) -> list[_Part]:
    """Count one batch, a part for each of its groups."""
    return [
        _count_group(tokenizer, group, [text for name, text in items if name == group])
        for group in dict.fromkeys(name for name, _ in items)
    ]


def _count_group(tokenizer: Tokenizer, group: str, texts: list[str]) -> _Part:
    tokens: list[int] = []
    for text in texts:
        tokens += tokenizer.encode(text)
    by_id = np.bincount(np.array(tokens, dtype=np.int64), minlength=tokenizer.vocab_size)
    ids = np.nonzero(by_id)[0]
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    return _Part(group, len(texts), n_bytes, ids, by_id[ids])


def _add(groups: dict[str, GroupCounts], part: _Part, vocab_size: int) -> None:
    held = groups.get(part.group)
    if held is None:
        if len(groups) == _MOST_GROUPS:
            raise DataError(
                f"the text has more than {_MOST_GROUPS} groups; count with --by file, or in parts"
            )
        held = GroupCounts(0, 0, np.zeros(vocab_size, dtype=np.int64))
    held.by_id[part.ids] += part.occurrences
    groups[part.group] = GroupCounts(
        held.documents + part.documents, held.bytes + part.bytes, held.by_id
    )
