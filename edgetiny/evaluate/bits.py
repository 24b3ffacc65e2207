"""Bits per byte: what a model pays for text, comparable across tokenizers.

Axes: B windows, T tokens of a window, D hidden size, V vocabulary.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgetiny.console import Task
from edgetiny.errors import ConfigError, DataError
from edgetiny.evaluate.documents import ScoredDocument
from edgetiny.model import Transformer
from edgetiny.runtimes import Runtime

# Windows are sorted by length in bunches of this many batches, so that few of them are padded.
_BATCHES_SORTED = 32
_LOGIT_BYTES = 16 * 2**20


@dataclass(kw_only=True, slots=True)
class GroupScore:
    """The sums over one group of documents. Start tokens are not counted."""

    group: str
    nats: float = 0.0
    tokens: int = 0
    text_bytes: float = 0.0

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of raw text."""
        return self.nats / math.log(2) / self.text_bytes

    @property
    def loss(self) -> float:
        """Nats per token; not comparable across tokenizers."""
        return self.nats / self.tokens

    @property
    def tokens_per_byte(self) -> float:
        """How finely the tokenizer cuts this text."""
        return self.tokens / self.text_bytes


@dataclass(frozen=True, slots=True)
class Scores:
    """Every group's sums, in order of appearance."""

    groups: list[GroupScore]

    @property
    def total(self) -> GroupScore:
        """The sums over all groups: large groups weigh more."""
        return GroupScore(
            group="all",
            nats=math.fsum(each.nats for each in self.groups),
            tokens=sum(each.tokens for each in self.groups),
            text_bytes=math.fsum(each.text_bytes for each in self.groups),
        )

    @property
    def bits_per_byte(self) -> dict[str, float]:
        """Bits per byte of each group, and of `all`."""
        return {each.group: each.bits_per_byte for each in [*self.groups, self.total]}

    def summary(self) -> dict[str, Any]:
        """Return a row per group, and one for all of them if there are several."""
        rows = self.groups if len(self.groups) == 1 else [*self.groups, self.total]
        return {
            "scores": [
                {
                    "group": each.group,
                    "bits_per_byte": each.bits_per_byte,
                    "loss": each.loss,
                    "tokens": each.tokens,
                    "bytes": round(each.text_bytes),
                    "tokens_per_byte": each.tokens_per_byte,
                }
                for each in rows
            ]
        }


@dataclass(frozen=True, slots=True)
class _Window:
    """A run of tokens, of which the first is only looked at; the others are scored."""

    tokens: NDArray[np.int64]
    group: str


def bits_per_byte(
    model: Transformer | Runtime,
    documents: Iterable[ScoredDocument],
    *,
    context: int,
    batch_size: int = 8,
    task: Task | None = None,
) -> Scores:
    """Score every token of every document but its start token, once.

    A document is cut into windows of `context` tokens, each beginning with the last token of the
    one before; nothing else is carried over, so the first tokens of a window are predicted from
    little. A document without a start token pays log2(V) bits, a uniform guess, for its first.
    The batch size changes the result by rounding only.
    Raises ConfigError if the context is beyond the model's, DataError if there is nothing to score.
    """
    longest = _max_context(model)
    if not 2 <= context <= longest:
        raise ConfigError(f"a window of {context} tokens does not fit; choose 2 to {longest}")
    scores: dict[str, GroupScore] = {}
    windows = _windows(documents, context, math.log(model.config.vocab_size), scores)
    while bunch := list(itertools.islice(windows, batch_size * _BATCHES_SORTED)):
        bunch.sort(key=lambda window: len(window.tokens))
        for start in range(0, len(bunch), batch_size):
            _score_batch(model, bunch[start : start + batch_size], scores, task)
    if not any(each.tokens for each in scores.values()):
        raise DataError("there is no text to score")
    return Scores(list(scores.values()))


def _max_context(model: Transformer | Runtime) -> int:
    if isinstance(model, Transformer):
        return model.config.max_position_embeddings
    return model.capabilities.max_context


def _windows(
    documents: Iterable[ScoredDocument],
    context: int,
    uniform: float,
    scores: dict[str, GroupScore],
) -> Iterator[_Window]:
    """Yield the windows; enter the documents' bytes, and a first token that nothing precedes."""
    for document in documents:
        score = scores.setdefault(document.group, GroupScore(group=document.group))
        score.text_bytes += document.text_bytes
        if not document.has_start and len(document.tokens):
            score.nats += uniform
            score.tokens += 1
        for start in range(0, len(document.tokens) - 1, context - 1):
            yield _Window(document.tokens[start : start + context], document.group)


def _score_batch(
    model: Transformer | Runtime,
    batch: list[_Window],
    scores: dict[str, GroupScore],
    task: Task | None,
) -> None:
    lengths = np.array([len(window.tokens) for window in batch])
    tokens = np.zeros((len(batch), int(lengths.max())), np.int64)  # (B, T)
    for row, window in zip(tokens, batch, strict=True):
        row[: len(window.tokens)] = window.tokens
    if isinstance(model, Transformer):
        log_probs = model_log_probs(model, tokens)
    else:
        log_probs = _runtime_log_probs(model, tokens, lengths)  # (B, T - 1)
    for window, row, length in zip(batch, log_probs.astype(np.float64), lengths, strict=True):
        score = scores[window.group]
        score.nats -= float(row[: length - 1].sum())
        score.tokens += int(length) - 1
    if task is not None:
        task.advance(int((lengths - 1).sum()))


def _runtime_log_probs(
    runtime: Runtime, tokens: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    size = runtime.capabilities.max_batch or len(tokens)
    parts = [slice(start, start + size) for start in range(0, len(tokens), size)]
    return np.concatenate([runtime.score(tokens[part], lengths[part]) for part in parts])


@torch.inference_mode()
def model_log_probs(model: Transformer, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the log-probability of each token but the first, (B, T - 1), for tokens (B, T).

    At most a few thousand tokens' logits exist at a time, whatever the vocabulary.
    """
    head = model.lm_head.weight  # (V, D)
    ids = torch.from_numpy(tokens).to(head.device)
    hidden = model.hidden(ids)[:, :-1].flatten(0, 1)  # (B * (T - 1), D)
    targets = ids[:, 1:].reshape(-1, 1)  # (B * (T - 1), 1)
    rows = max(1, _LOGIT_BYTES // (4 * len(head)))
    parts = [
        _chosen_log_probs(
            model.lm_head(hidden[start : start + rows]), targets[start : start + rows]
        )
        for start in range(0, len(hidden), rows)
    ]
    result: NDArray[np.float32] = torch.cat(parts).view(len(tokens), -1).cpu().numpy()
    return result


def _chosen_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.float()
    logits = logits - logits.amax(dim=1, keepdim=True)
    chosen = logits.gather(1, targets)  # (rows, 1)
    return chosen - logits.exp_().sum(dim=1, keepdim=True).log()
