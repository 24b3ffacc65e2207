"""Scores of neurons: what every weight that belongs to one adds to it.

Source: the paper, section 3.2; coupled groups as in Ma et al. 2023, "LLM-Pruner".
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import CheckpointError
from edgetiny.importance.axes import Axis, axes, layer_of

Reduce = Callable[[Tensor, int], Tensor]
"""A tensor and one of its dimensions to a score for each place along it, fp64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How much each neuron counts, fp64, more is better; lists hold one per layer."""

    hidden: Tensor  # (hidden size,)
    units: list[Tensor]  # each (intermediate size,)
    query: list[Tensor]  # each (query heads,)
    kv: list[Tensor]  # each (key/value heads,), without the query heads that read them


class Sums:
    """The scores of a model's neurons, added up tensor by tensor."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._totals: dict[tuple[Axis, int | None], Tensor] = defaultdict(lambda: torch.zeros(()))

    def add(
        self, name: str, tensor: Tensor, reduce: Reduce, but: tuple[Axis, ...] = ("vocabulary",)
    ) -> None:
        """Add what a tensor says of every axis `but` some. Raises CheckpointError for NaN."""
        for dim, axis in enumerate(axes(name)):
            if axis in but:
                continue
            values = reduce(tensor, dim)  # (size of the axis,)
            _check_finite(name, values)
            if axis in ("query", "kv"):
                values = values.view(-1, self._config.head_dim).sum(dim=1)  # (heads,)
            key = (axis, None if axis == "hidden" else layer_of(name))
            self._totals[key] = self._totals[key] + values

    def add_hidden(self, name: str, values: Tensor) -> None:
        """Add scores of the hidden dimensions that a tensor of this name gives."""
        _check_finite(name, values)
        self._totals["hidden", None] = self._totals["hidden", None] + values

    def scores(self) -> Scores:
        """Return what has been added up."""
        each = range(self._config.num_hidden_layers)
        return Scores(
            hidden=self._totals["hidden", None],
            units=[self._totals["unit", layer] for layer in each],
            query=[self._totals["query", layer] for layer in each],
            kv=[self._totals["kv", layer] for layer in each],
        )


def sum_over_others(tensor: Tensor, dim: int) -> Tensor:
    """Return the sum over every other dimension, fp64."""
    others = [other for other in range(tensor.dim()) if other != dim]
    return tensor.sum(dim=others, dtype=torch.float64) if others else tensor.double()


def _check_finite(name: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise CheckpointError(
            f"{name} holds NaN or infinite numbers, or its gradient does; edgetiny inspect says"
            " which tensors do"
        )
