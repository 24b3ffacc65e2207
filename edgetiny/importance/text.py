"""Text to score with, and a model's loss on it, one layer in memory at a time.

Axes: N windows, T tokens each, B windows of a batch, D hidden size.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.data import Split
from edgetiny.errors import CheckpointError, DataError
from edgetiny.model import Stream, Transformer, in_batches, open_frame

_WINDOW_TOKENS = 512
_LOGIT_BYTES = 64 * 2**20


def text_windows(split: Split, n_tokens: int, longest: int) -> Tensor:
    """Return about `n_tokens` of text, (N, T + 1) ids, spread evenly over the split.

    longest: of a window; windows are no longer than 512 tokens either, nor than `n_tokens`.
    Fewer tokens if the split has fewer. Raises DataError if it is shorter than one window.
    """
    length = min(_WINDOW_TOKENS, longest, n_tokens)
    n_there = split.n_windows(length)
    if n_there < 1:
        raise DataError(
            f"{split.path} holds {len(split.tokens):,} tokens, less than the {length + 1} of one"
            " window to score with; build shards of more text, or of another --valid-fraction"
        )
    n_windows = min(n_there, -(-n_tokens // length))
    chosen = np.arange(n_windows, dtype=np.int64) * n_there // n_windows
    return torch.from_numpy(split.windows(chosen, length))


@torch.inference_mode()
def mean_loss(config: ModelConfig, tensors: Mapping[str, Tensor], windows: Tensor) -> float:
    """Return the mean loss per token in nats of a checkpoint's tensors on windows (N, T + 1)."""
    stream = Stream(config, tensors, windows[:, :-1])
    for _ in stream.layers():
        pass
    frame, total = open_frame(config, tensors, torch.float32), 0.0
    for x, targets in zip(stream.states, in_batches(windows[:, 1:]), strict=True):
        total += summed_loss(frame, frame.model.norm(x), targets)
    return total / windows[:, 1:].numel()


def summed_loss(model: Transformer, x: Tensor, targets: Tensor) -> float:
    """Return the summed loss of `targets` (B, T) under the head of x (B, T, D), in nats.

    The logits of a few tokens exist at a time. Raises CheckpointError if it is not finite.
    """
    n_rows = max(1, _LOGIT_BYTES // (4 * model.config.vocab_size))
    rows, wanted = torch.split(x.flatten(0, 1), n_rows), torch.split(targets.flatten(), n_rows)
    total = 0.0
    for some, ids in zip(rows, wanted, strict=True):
        total += float(F.cross_entropy(model.lm_head(some).float(), ids, reduction="sum"))
    if not math.isfinite(total):
        raise CheckpointError("the model's loss is not finite; edgetiny inspect says where")
    return total
