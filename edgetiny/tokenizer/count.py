"""How often each token occurs in text, counted by several processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetiny.console import QUIET, Reporter
from edgetiny.text import read_documents, total_bytes
from edgetiny.tokenizer.parallel import batches, map_in_order, process_count
from edgetiny.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Occurrences by id, and the size of the text that they stand for."""

    by_id: NDArray[np.int64]
    """(vocab_size,)"""
    bytes: int

    @property
    def total(self) -> int:
        """Number of tokens."""
        return int(self.by_id.sum())


def count_tokens(
    tokenizer: Tokenizer, text: Sequence[Path], *, processes: int = 1, reporter: Reporter = QUIET
) -> TokenCounts:
    """Count the tokens of text files. processes: 0 means one a core."""
    size_bytes = total_bytes(text)
    by_id = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    n_bytes = 0
    with reporter.task("counting tokens", size_bytes) as task:
        texts = (document.text for document in read_documents(text, task.advance))
        counted = map_in_order(
            _count, batches(texts, len), tokenizer, process_count(processes, size_bytes)
        )
        for ids, occurrences, batch_bytes in counted:
            by_id[ids] += occurrences
            n_bytes += batch_bytes
    return TokenCounts(by_id, n_bytes)


def _count(
    tokenizer: Tokenizer, texts: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    encoded = [np.array(tokenizer.encode(text), dtype=np.int64) for text in texts]
    ids, occurrences = np.unique(np.concatenate(encoded), return_counts=True)
    return ids, occurrences.astype(np.int64), sum(len(text.encode("utf-8")) for text in texts)
