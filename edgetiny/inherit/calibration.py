"""Held-out text through a model: its loss, and what its norms see.

Axes: N windows, T tokens each, D hidden size, V vocabulary.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetiny.data import Shards
from edgetiny.errors import CheckpointError, DataError
from edgetiny.model import RMSNorm, Transformer

_WINDOW_TOKENS = 512
_BATCH_TOKENS = 2048
_LOGIT_BYTES = 64 * 2**20


def calibration_windows(shards: Shards, n_tokens: int, longest: int) -> Tensor:
    """Return about `n_tokens` of held-out text, (N, T + 1) ids, spread evenly over the split.

    longest: the model's context. Fewer tokens if the split has fewer.
    Raises DataError if it has less than two.
    """
    valid = shards.valid
    length = min(_WINDOW_TOKENS, longest, n_tokens, len(valid.tokens) - 1)
    if length < 1:
        raise DataError(
            f"{shards.path} holds no held-out text to score layers with; build it with a larger"
            " --valid-fraction"
        )
    n_there = valid.n_windows(length)
    n_windows = min(n_there, -(-n_tokens // length))
    chosen = np.arange(n_windows, dtype=np.int64) * n_there // n_windows
    return torch.from_numpy(valid.windows(chosen, length))


def in_batches(windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets, (rows, T) each, a few thousand tokens at a time."""
    n_rows = max(1, _BATCH_TOKENS // (windows.shape[1] - 1))
    for rows in torch.split(windows, n_rows):
        yield rows[:, :-1], rows[:, 1:]


@torch.inference_mode()
def mean_loss(model: Transformer, windows: Tensor) -> float:
    """Return the mean loss per token in nats."""
    total = sum(
        summed_loss(model, model.hidden(tokens), targets) for tokens, targets in in_batches(windows)
    )
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


@torch.inference_mode()
def norm_factors(model: Transformer, windows: Tensor, hidden: Tensor) -> dict[str, float]:
    """Return, by name of its weight, what each norm's weight is to be multiplied by.

    With only the dimensions `hidden` left, a norm divides by the root mean square of those. The
    factor puts back the scale it had: the square root of mean square kept / mean square of all.
    The ratio is averaged over tokens, not taken of averages: a first token can be a thousand
    times larger than the others and would speak for them all.
    """
    sums: dict[str, float] = {}

    def watch(name: str, norm: RMSNorm) -> None:
        def record(_: RMSNorm, inputs: tuple[Tensor]) -> None:
            squares = inputs[0].float().square()  # (B, T, D)
            of_kept = squares[..., hidden].mean(dim=-1) + norm.eps  # (B, T)
            ratios = of_kept / (squares.mean(dim=-1) + norm.eps)
            sums[name] = sums.get(name, 0.0) + float(ratios.sum(dtype=torch.float64))

        handles.append(norm.register_forward_pre_hook(record))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if isinstance(module, RMSNorm):
            watch(f"{name}.weight", module)
    try:
        for tokens, _ in in_batches(windows):
            model.hidden(tokens)
    finally:
        for handle in handles:
            handle.remove()
    n_tokens = windows[:, 1:].numel()
    return {name: float((total / n_tokens) ** 0.5) for name, total in sums.items()}
