"""What every engine that runs a model can do: token ids in, logits out.

Axes: B sequences, T prompt tokens, K new tokens, V vocabulary. Arrays are numpy, logits float32.
A runtime holds one batch of sequences at a time. Idle engines' threads spin, so a process that
measures speed holds one runtime only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import ConfigError

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

# Logits of a whole prompt are large: rows are run in groups whose logits stay under this.
LOGIT_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a runtime can be asked for.

    max_batch: None if any number of sequences goes.
    max_context: tokens that a sequence can grow to.
    max_step: tokens that one `step` may add to each sequence.
    scoring: "graph" scores a text in one pass and leaves the sequences in progress alone;
    "stepping" decodes it token by token and forgets them.
    """

    max_batch: int | None
    max_context: int
    max_step: int
    scoring: Literal["graph", "stepping"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What runs the model, for the rows of a result; weights and cache by the type they have."""

    name: str
    version: str
    device: str
    threads: int
    precision: str
    kv_dtype: str


class Runtime(Protocol):
    """One model, loaded. A sequence of a batch gives the same ids as it would alone.

    Not quite so in ONNX graphs of the `dynamic` kernel: one scale of activations serves a whole
    call, so near ties may fall otherwise.
    """

    path: Path
    config: ModelConfig
    capabilities: Capabilities
    engine: Engine

    def prepare(self, batch: int) -> None:
        """Allocate, and record or compile, what `batch` sequences need: none of it is done later.

        Forgets every sequence.
        """

    def prefill(self, tokens: Ids, lengths: Ids) -> Floats:
        """Start new sequences; return the logits (B, V) after each row's last real token.

        tokens: (B, T), padded on the right with any id. lengths: (B,), 1 to T.
        """

    def step(self, tokens: Ids) -> Floats:
        """Append K tokens (B, K) to every sequence; return the logits (B, K, V) after each."""

    def greedy_step(self, tokens: Ids) -> Ids:
        """Append one token (B, 1) to every sequence; return the likeliest next ones (B, 1).

        Logits stay where they are computed: of a GPU only the ids come back.
        """

    def score(self, tokens: Ids, lengths: Ids) -> Floats:
        """Return the natural log-probability of each token but the first: (B, T - 1).

        tokens, lengths: as for `prefill`. Zero where a row has no token any more.
        """

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens of every sequence."""

    def reset(self) -> None:
        """Forget every sequence."""


def check_prompt(tokens: Ids, lengths: Ids, config: ModelConfig, max_context: int) -> None:
    """Raise ConfigError for token ids or lengths that no prompt can have."""
    if tokens.ndim != 2 or 0 in tokens.shape or lengths.shape != tokens.shape[:1]:
        raise ConfigError(
            f"a prompt is tokens (B, T) and lengths (B,), not {tokens.shape} and {lengths.shape}"
        )
    if lengths.min() < 1 or lengths.max() > tokens.shape[1]:
        raise ConfigError(f"prompt lengths must be 1 to {tokens.shape[1]}, not {lengths.tolist()}")
    if tokens.shape[1] > max_context:
        raise ConfigError(
            f"a prompt of {tokens.shape[1]} tokens is beyond the context of {max_context}"
        )
    check_ids(tokens, config)


def check_step(tokens: Ids, held: Ids, config: ModelConfig, max_context: int) -> None:
    """Raise ConfigError for new tokens that do not fit the sequences (`held`: their lengths)."""
    if tokens.ndim != 2 or 0 in tokens.shape or len(tokens) != len(held):
        raise ConfigError(f"new tokens must be ({len(held)}, K), not {tokens.shape}; prefill first")
    if int(held.max()) + tokens.shape[1] > max_context:
        raise ConfigError(
            f"the context holds {max_context} tokens; {int(held.max())} are used and"
            f" {tokens.shape[1]} more were asked for"
        )
    check_ids(tokens, config)


def check_single(tokens: Ids) -> None:
    """Raise ConfigError unless there is one new token per sequence."""
    if tokens.shape[1:] != (1,):
        raise ConfigError(f"a greedy step takes one token a sequence, (B, 1), not {tokens.shape}")


def check_ids(tokens: Ids, config: ModelConfig) -> None:
    """Raise ConfigError for an id outside the vocabulary."""
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        outside = int(tokens.max() if tokens.min() >= 0 else tokens.min())
        raise ConfigError(
            f"token id {outside} is outside the vocabulary of {config.vocab_size}; does the"
            " tokenizer belong to this model?"
        )


def row_groups(n_rows: int, n_tokens: int, vocab_size: int) -> list[slice]:
    """Return slices of rows whose logits (rows, n_tokens, vocab_size) fit LOGIT_BYTES each."""
    size = max(1, LOGIT_BYTES // (4 * n_tokens * vocab_size))
    return [slice(start, start + size) for start in range(0, n_rows, size)]


def in_row_groups(tokens: Ids, vocab_size: int, run: Callable[[slice], Floats]) -> Floats:
    """Return the rows of `run(group)` over groups of a bounded size, put together again."""
    groups = row_groups(len(tokens), tokens.shape[1], vocab_size)
    return np.concatenate([run(group) for group in groups])


def log_probabilities(logits: Floats, tokens: Ids, lengths: Ids) -> Floats:
    """Return the log-probability (B, T - 1) of each next token under the logits (B, T, V)."""
    logits, following = logits[:, :-1], tokens[:, 1:]
    shifted = logits - logits.max(axis=-1, keepdims=True)  # (B, T - 1, V)
    chosen = np.take_along_axis(shifted, following[..., None], axis=-1)[..., 0]  # (B, T - 1)
    scores = chosen - np.log(np.exp(shifted).sum(axis=-1))
    is_real = np.arange(1, tokens.shape[1]) < lengths[:, None]
    return np.where(is_real, scores, np.float32(0)).astype(np.float32)
