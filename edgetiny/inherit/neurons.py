"""Which neurons stay: those with the highest scores, as many as the student's shape has."""

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.importance.scores import Scores
from edgetiny.inherit.surgery import Kept


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
