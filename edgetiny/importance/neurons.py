"""Scores of all neurons by one of the methods, with progress shown."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.model import ScoreMethod
from edgetiny.console import QUIET, Reporter
from edgetiny.importance import activation, magnitude, taylor
from edgetiny.importance.scores import Scores


def score(
    method: ScoreMethod,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    windows: Tensor,
    *,
    seed: int = 0,
    reporter: Reporter = QUIET,
) -> Scores:
    """Return the scores of a model's neurons by a method.

    windows: (N, T + 1) ids of training text, for the methods that read it. seed: of `random`.
    """
    if method == "random":
        return random_scores(config, seed)
    n_steps = {"taylor": len(windows), "activation": config.num_hidden_layers}
    with reporter.task(f"scoring neurons by {method}", n_steps.get(method, len(tensors))) as task:
        if method == "taylor":
            return taylor.score(config, tensors, windows, task)
        if method == "activation":
            return activation.score(config, tensors, windows, task)
        return magnitude.score(config, tensors, power=1 if method == "l1" else 2, task=task)


def random_scores(config: ModelConfig, seed: int) -> Scores:
    """Return scores that know nothing: what a choice is to be compared with."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    each = range(config.num_hidden_layers)
    return Scores(
        hidden=some(config.hidden_size),
        units=[some(config.intermediate_size) for _ in each],
        query=[some(config.num_attention_heads) for _ in each],
        kv=[some(config.num_key_value_heads) for _ in each],
    )
