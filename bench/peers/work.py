"""What an engine is asked to do, what it answers, and the loop that most of them are timed by.

Imports numpy and the standard library only: it runs in every engine's virtual environment.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

# Ids of the first row that a run shows, for a look at whether the engine runs this very model.
SHOWN_IDS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """B prompts of equal length, and how many tokens to add to each; no token ends a sequence."""

    prompt: Ids  # (B, T)
    new_tokens: int
    warm_up_tokens: int
    threads: int

    @property
    def batch(self) -> int:
        return len(self.prompt)

    @property
    def context(self) -> int:
        """The tokens that each sequence ends with."""
        return int(self.prompt.shape[1]) + self.new_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """One timed generation. The first token ends the prefill; the rest is decoding."""

    seconds: float
    first_token_seconds: float
    first_ids: list[int] | None  # of the first row; None if the engine shows none


def greedy(start: Callable[[Ids], Ids], step: Callable[[Ids, int], Ids], work: Work) -> Timed:
    """Time a greedy loop, after a short one that pays for first touches.

    start: forget everything, take prompts (B, T), return the likeliest next ids (B, 1).
    step: take ids (B, 1) and the position they stand at, return the next ones.
    """
    _loop(start, step, work, work.warm_up_tokens)
    return _loop(start, step, work, work.new_tokens)


def _loop(
    start: Callable[[Ids], Ids], step: Callable[[Ids, int], Ids], work: Work, new_tokens: int
) -> Timed:
    shown = []
    position = work.prompt.shape[1]
    begin = time.perf_counter()
    ids = start(work.prompt)
    first = time.perf_counter()
    for offset in range(new_tokens - 1):
        if offset < SHOWN_IDS:
            shown.append(int(ids[0, 0]))
        ids = step(ids, position + offset)
    end = time.perf_counter()
    shown.append(int(ids[0, 0]))
    return Timed(
        seconds=end - begin, first_token_seconds=first - begin, first_ids=shown[:SHOWN_IDS]
    )


def argmax_ids(logits: NDArray[Any]) -> Ids:
    """Return the likeliest ids (B, 1) of logits (B, V)."""
    ids: Ids = logits.argmax(axis=-1)[:, None]
    return ids
