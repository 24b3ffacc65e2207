"""The documents whose bits are counted: token ids, and the bytes of text they stand for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetiny.data import Split
from edgetiny.text import read_documents
from edgetiny.tokenizer import Tokenizer

_ORDER_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredDocument:
    """One document, or its beginning.

    tokens: (n,), the start token included if `has_start`.
    has_start: whether tokens[0] is a BOS (or EOS) that stands for no text and is not scored.
    text_bytes: UTF-8 bytes of raw text; of a cut document, in proportion to its tokens.
    """

    tokens: NDArray[np.int64]
    has_start: bool
    text_bytes: float
    group: str

    def first(self, n_tokens: int) -> "ScoredDocument":
        """Return the beginning with at most `n_tokens` scored tokens, at least one."""
        n_start = int(self.has_start)
        n_scored = len(self.tokens) - n_start
        if n_tokens >= n_scored:
            return self
        return ScoredDocument(
            tokens=self.tokens[: n_start + n_tokens],
            has_start=self.has_start,
            text_bytes=self.text_bytes * n_tokens / n_scored,
            group=self.group,
        )


def documents_of_split(
    split: Split, has_start: bool, tokens_per_group: int | None = None
) -> Iterator[ScoredDocument]:
    """Yield documents in a fixed random order, all of them or about `tokens_per_group` tokens.

    The order is random so that a part is of many works, and fixed so that it is always the same
    part. The last document of a group is cut to end exactly there.
    has_start: whether each document begins with a start token.
    """
    left = dict.fromkeys(range(len(split.groups)), tokens_per_group)
    for index in np.random.default_rng(_ORDER_SEED).permutation(split.n_documents):
        group, limit = int(split.document_group[index]), left[int(split.document_group[index])]
        start, end = split.document_offsets[index : index + 2]
        n_scored = int(end - start) - int(has_start)
        if n_scored < 1 or limit == 0:
            continue
        document = ScoredDocument(
            tokens=split.tokens[start:end].astype(np.int64),
            has_start=has_start,
            text_bytes=float(split.document_bytes[index]),
            group=split.groups[group],
        )
        if limit is not None:
            document = document.first(limit)
            left[group] = limit - min(limit, n_scored)
        yield document


def documents_of_texts(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    start: int | None,
    tokens_per_group: int | None = None,
) -> Iterator[ScoredDocument]:
    """Yield the documents of text files, whole, or about `tokens_per_group` tokens of each group.

    start: the id before each document, None if there is none.
    """
    used: Counter[str] = Counter()
    for document in read_documents(paths):
        limit = None if tokens_per_group is None else tokens_per_group - used[document.group]
        if limit == 0:
            continue
        ids = tokenizer.encode(document.text)
        scored = ScoredDocument(
            tokens=np.array(([] if start is None else [start]) + ids, np.int64),
            has_start=start is not None,
            text_bytes=float(len(document.text.encode("utf-8"))),
            group=document.group,
        )
        yield scored if limit is None else scored.first(limit)
        used[document.group] += len(ids) if limit is None else min(limit, len(ids))
