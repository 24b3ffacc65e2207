"""Which neurons stay: those whose coupled weights have the largest sum of squares.

Source: the paper, section 3.2, "L2"; coupled groups as in Ma et al. 2023, "LLM-Pruner".
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.inherit.surgery import Axis, Kept, axes, layer_of, source_names


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Sum of squares of the weights that go with each neuron, fp64; lists hold one per layer."""

    hidden: Tensor  # (hidden size,)
    units: list[Tensor]  # each (intermediate size,)
    query: list[Tensor]  # each (query heads,)
    kv: list[Tensor]  # each (key/value heads,), without the query heads that read them


def score(source: Checkpoint, layers: list[int]) -> Scores:
    """Return the scores of a source's neurons, of which only `layers` stay.

    A tied embedding counts twice towards the hidden dimensions, once for each of its roles.
    Tensors are read one at a time.
    """
    config = replace(source.config, num_hidden_layers=len(layers))
    totals: dict[tuple[Axis, int | None], Tensor] = defaultdict(lambda: torch.zeros(()))
    for name, source_name in source_names(config, layers):
        tensor = source.tensor(source_name)
        is_both = config.tie_word_embeddings and name == "model.embed_tokens.weight"
        for dim, axis in enumerate(axes(name)):
            if axis == "vocabulary":
                continue
            squares = _squares(tensor, dim) * (2 if is_both else 1)  # (size of the axis,)
            if axis in ("query", "kv"):
                squares = squares.view(-1, config.head_dim).sum(dim=1)  # (heads,)
            key = (axis, None if axis == "hidden" else layer_of(name))
            totals[key] = totals[key] + squares
    each = range(len(layers))
    return Scores(
        hidden=totals["hidden", None],
        units=[totals["unit", layer] for layer in each],
        query=[totals["query", layer] for layer in each],
        kv=[totals["kv", layer] for layer in each],
    )


def choose(scores: Scores, layers: list[int], student: ModelConfig) -> Kept:
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
        layers=layers,
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


def _squares(tensor: Tensor, dim: int) -> Tensor:
    """Return the sum of squares over every other dimension, fp64, without a copy of the tensor."""
    others = [other for other in range(tensor.dim()) if other != dim]
    if not others:
        return tensor.double().square()
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=others, dtype=torch.float32)
    return norms.double().square()
