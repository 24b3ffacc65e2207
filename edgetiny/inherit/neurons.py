"""Which neurons stay: those with the highest scores, as many as the student's shape has."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.model import ScoreMethod
from edgetiny.console import QUIET, Reporter
from edgetiny.importance import activation, magnitude, taylor
from edgetiny.importance.scores import Scores
from edgetiny.inherit.surgery import Kept


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
    if method in ("l1", "l2"):
        return magnitude.score(config, tensors, power=1 if method == "l1" else 2)
    n_steps = len(windows) if method == "taylor" else config.num_hidden_layers
    with reporter.task(f"scoring neurons by {method}", n_steps) as task:
        of_text = taylor.score if method == "taylor" else activation.score
        return of_text(config, tensors, windows, task)


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


def choose(scores: Scores, student: ModelConfig) -> Kept:
    """Return the neurons with the highest scores, as many as the student's shape has.

    A group of query heads counts with its key/value head and the query heads it would keep.
    """
    query, kv = [], []
    for of_query, of_kv in zip(scores.query, scores.kv, strict=True):
        group_size = len(of_query) // len(of_kv)
        grouped = of_query.view(-1, group_size)  # (G, H / G)
        members = best(grouped, student.group_size)  # (G, query heads kept per group)
        groups = best(of_kv + grouped.gather(1, members).sum(dim=1), student.num_key_value_heads)
        heads = groups[:, None] * group_size + members[groups]
        query.append(heads.flatten())
        kv.append(groups)
    return Kept(
        hidden=best(scores.hidden, student.hidden_size),
        units=[best(of_units, student.intermediate_size) for of_units in scores.units],
        query=query,
        kv=kv,
    )


def best(scores: Tensor, count: int) -> Tensor:
    """Return the places of the `count` highest scores along the last axis, ascending.

    Of equal scores the first come first, so that the choice is the same everywhere.
    """
    ranked = torch.argsort(scores, dim=-1, descending=True, stable=True)
    return ranked[..., :count].sort(dim=-1).values
