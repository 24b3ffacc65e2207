"""`edgetiny tokenizer count`: how often each token occurs in text, counted by several processes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgetiny.config.tokenizer import TokenizerCountConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import DataError
from edgetiny.files import refuse_existing
from edgetiny.text import STDIN, Document, StdinFormat, read_documents, total_bytes, work_of
from edgetiny.tokenizer.counts import GroupCounts, Occurrences, TokenCounts, write_counts
from edgetiny.tokenizer.merge_counts import CountsResult
from edgetiny.tokenizer.occurrences import occurrences_in
from edgetiny.tokenizer.parallel import batches, map_in_order, process_count
from edgetiny.tokenizer.spread import Spread
from edgetiny.tokenizer.tokenizer import Tokenizer

# Each group holds some numbers per piece: 128 of them at 100,000 pieces are 400 MB.
_MOST_GROUPS = 128
# Of a long text, what one process takes at a time. Less than reading's own: memory is bounded by
# this times the batches on their way.
_PART_CHARACTERS = 1 << 20
_UNKNOWN_SIZE = 1 << 62
# Smaller works are taken together, a batch at a time, so that each costs nothing of its own.
_SMALL_WORK_CHARACTERS = 1 << 15

By = Literal["file", "work", "all"]
Watch = Callable[[Document], None]


def run(config: TokenizerCountConfig, reporter: Reporter = QUIET) -> CountsResult:
    """Write the counts of text, by group. Raises DataError for text that cannot be read."""
    refuse_existing(config.out, overwrite=config.overwrite)
    tokenizer = Tokenizer.open(_folder(config.source))
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


def _folder(source: Path) -> Path:
    """Return where a tokenizer stands; a reference to the hub is looked up there."""
    if not str(source).startswith("hf:"):
        return source
    # Brings torch, which counting needs not.
    from edgetiny.checkpoint.hub import resolve

    return resolve(str(source))


def count_tokens(
    tokenizer: Tokenizer,
    text: Sequence[Path],
    *,
    processes: int = 1,
    reporter: Reporter = QUIET,
    by: By = "file",
    stdin: StdinFormat | None = None,
    watch: Watch | None = None,
) -> TokenCounts:
    """Count the tokens of text files in one pass, in memory that does not grow with the text.

    processes: 0 means one a core. by: what is a group: a file (by its stem), a work in it, or all.
    stdin: how to read `-`; refused if None. watch: sees every document as it passes.
    """
    size_bytes = total_bytes(text, stdin=stdin)
    is_stream = STDIN in text
    groups = _Groups(tokenizer)
    with reporter.task("counting tokens", None if is_stream else size_bytes) as task:
        documents = read_documents(
            text, task.advance, part_characters=_PART_CHARACTERS, stdin=stdin
        )
        items = (_item(document, by, watch) for document in documents)
        counted = map_in_order(
            _count,
            batches(items, lambda item: len(item.text)),
            tokenizer,
            process_count(processes, _UNKNOWN_SIZE if is_stream else size_bytes),
            meanwhile=groups.vocabulary.prepare,
        )
        for part in (part for parts in counted for part in parts):
            groups.add(part)
    return groups.total()


@dataclass(frozen=True, slots=True)
class _Item:
    """A text on its way to be counted, with the group and the work that it belongs to."""

    group: str
    work: str | None
    text: str


@dataclass(frozen=True, slots=True)
class _Part:
    """The documents of one work in one batch, or of the small works of a group together."""

    group: str
    work: str | None
    documents: int
    bytes: int
    ids: Occurrences
    occurrences: Occurrences


def _item(document: Document, by: By, watch: Watch | None) -> _Item:
    if watch is not None:
        watch(document)
    work = None if document.source is None else work_of(document.source)
    if by == "all":
        return _Item("all", work, document.text)
    if by == "file" or work is None:
        return _Item(document.group, work, document.text)
    return _Item(f"{document.group}/{work}", work, document.text)


def _count(tokenizer: Tokenizer, items: list[_Item]) -> list[_Part]:
    """Count one batch: a part for each of its works, and one for a group's small ones."""
    sizes: Counter[tuple[str, str | None]] = Counter()
    for item in items:
        sizes[item.group, item.work] += len(item.text)
    texts: dict[tuple[str, str | None], list[str]] = {}
    for item in items:
        is_small = sizes[item.group, item.work] < _SMALL_WORK_CHARACTERS
        texts.setdefault((item.group, None if is_small else item.work), []).append(item.text)
    return [_count_work(tokenizer, *key, part) for key, part in texts.items()]


def _count_work(tokenizer: Tokenizer, group: str, work: str | None, texts: list[str]) -> _Part:
    ids, occurrences = occurrences_in(tokenizer, texts)
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    return _Part(group, work, len(texts), n_bytes, ids, occurrences)


class _Groups:
    """The counts of each group, as parts of them come in."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary()
        self._counts: dict[str, GroupCounts] = {}
        self._spreads: dict[str, Spread] = {}

    def add(self, part: _Part) -> None:
        if part.group not in self._counts:
            if len(self._counts) == _MOST_GROUPS:
                raise DataError(
                    f"more than {_MOST_GROUPS} groups of text; count with --by file or --by all"
                )
            # What was open is complete: a file, or a work, has ended. Open works take memory.
            for spread in self._spreads.values():
                spread.total()
            self._counts[part.group] = GroupCounts.none(self._tokenizer.vocab_size)
            self._spreads[part.group] = Spread(self.vocabulary)
        held = self._counts[part.group]
        held.by_id[part.ids] += part.occurrences
        self._counts[part.group] = replace(
            held, documents=held.documents + part.documents, bytes=held.bytes + part.bytes
        )
        self._spreads[part.group].add(part.work, part.ids, part.occurrences)

    def total(self) -> TokenCounts:
        return TokenCounts(
            {
                name: replace(counts, spread=self._spreads[name].total())
                for name, counts in self._counts.items()
            }
        )
