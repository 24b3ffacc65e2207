"""Which layers stay, by what the model loses without those that go."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.model import LayersMethod
from edgetiny.console import QUIET, Reporter
from edgetiny.importance.skips import n_steps, skip_losses, turns


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A layer that goes, by its index in the source.

    cost: nats per token that its absence was seen to cost; of a block that goes as one, what all of
    it costs; by cosine how far it turns what goes through, 1 - cos; None where it was drawn.
    """

    layer: int
    cost: float | None

    def as_json(self) -> dict[str, Any]:
        """Return a row of a table."""
        return asdict(self)


def choose_layers(
    method: LayersMethod,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    windows: Tensor,
    n_kept: int,
    *,
    seed: int = 0,
    reporter: Reporter = QUIET,
) -> list[Dropped]:
    """Return the layers that go, in their order of going, so that `n_kept` stay.

    windows: (N, T + 1) ids of training text. seed: of `random`.
    """
    n_layers = config.num_hidden_layers
    n_dropped = n_layers - n_kept
    if n_dropped == 0:
        return []
    if method == "greedy":
        return _greedy(config, tensors, windows, n_dropped, reporter)
    if method == "random":
        drawn = torch.randperm(n_layers, generator=torch.Generator().manual_seed(seed))
        return [Dropped(layer=layer, cost=None) for layer in drawn[:n_dropped].tolist()]
    if method == "block":
        return _block(config, tensors, windows, n_dropped, reporter)
    if method == "cosine":
        with reporter.task("layers", n_layers) as task:
            costs = turns(config, tensors, windows, task)
    else:
        assert method == "one-shot"
        costs = _skip_costs(config, tensors, list(range(n_layers)), windows, 1, reporter)
    cheapest = sorted(range(n_layers), key=costs.__getitem__)[:n_dropped]
    return [Dropped(layer=layer, cost=costs[layer]) for layer in cheapest]


def kept_layers(n_layers: int, dropped: list[Dropped]) -> list[int]:
    """Return the layers that stay, ascending."""
    return sorted(set(range(n_layers)) - {each.layer for each in dropped})


def _greedy(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    windows: Tensor,
    n_dropped: int,
    reporter: Reporter,
) -> list[Dropped]:
    """Drop the layer that is missed least, and look again: costs of single layers do not add up."""
    kept = list(range(config.num_hidden_layers))
    dropped = []
    for _ in range(n_dropped):
        costs = _skip_costs(config, tensors, kept, windows, 1, reporter)
        place = min(range(len(kept)), key=costs.__getitem__)
        dropped.append(Dropped(layer=kept.pop(place), cost=costs[place]))
    return dropped


def _block(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    windows: Tensor,
    n_dropped: int,
    reporter: Reporter,
) -> list[Dropped]:
    layers = list(range(config.num_hidden_layers))
    costs = _skip_costs(config, tensors, layers, windows, n_dropped, reporter)
    start = min(range(len(costs)), key=costs.__getitem__)
    return [Dropped(layer=layer, cost=costs[start]) for layer in range(start, start + n_dropped)]


def _skip_costs(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    kept: list[int],
    windows: Tensor,
    length: int,
    reporter: Reporter,
) -> list[float]:
    """Return what each run of `length` among the layers `kept` is worth, by place of its first."""
    name = f"scoring {len(kept)} layers"
    with reporter.task(name, n_steps(len(kept), windows)) as task:
        found = skip_losses(config, tensors, kept, windows, (length,), task)
    return [loss - found.whole for loss in found.without[length]]
