"""Scores by the size of weights alone, one tensor in memory at a time."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.console import Task
from edgetiny.importance.scores import Scores, Sums


def score(
    config: ModelConfig, tensors: Mapping[str, Tensor], power: int, task: Task | None = None
) -> Scores:
    """Return L1 or L2 scores: the sum of |weight|^power of a neuron's weights.

    A hidden dimension is scored by its column of the head alone, times the last norm's weight. The
    weights that read the stream inside the layers, and the norms before them, say the opposite of
    what a sum of them means: where the stream is loud they are small, so that keeping the largest
    of them was measured to be worse than keeping any (docs/inherit.md).
    """
    sums = Sums(config)

    def reduce(tensor: Tensor, dim: int) -> Tensor:
        return _power_sum(tensor, dim, power)

    for name in tensors:
        sums.add(name, tensors[name], reduce, but=("vocabulary", "hidden"))
        if task is not None:
            task.advance(1)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    norm = _power_sum(tensors["model.norm.weight"], 0, power)  # (D,)
    sums.add_hidden(head, _power_sum(tensors[head], 1, power) * norm)
    return sums.scores()


def _power_sum(tensor: Tensor, dim: int, power: int) -> Tensor:
    """Return the sum of |x|^power over every other dimension, fp64, without a copy."""
    others = [other for other in range(tensor.dim()) if other != dim]
    if not others:
        return tensor.double().abs().pow(power)
    norms: Tensor = torch.linalg.vector_norm(tensor, power, dim=others, dtype=torch.float32)
    return norms.double().pow(power)
