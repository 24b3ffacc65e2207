"""Gates on neurons and layers that can be trained: hard concrete variables over a whole model.

Source: Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization"; the
constraint on each row of gates as in Xia et al. 2023, "Sheared LLaMA".
Axes: L layers, G key/value heads, M query heads of a group, F FFN units, D hidden size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.inherit.surgery import Kept

_TEMPERATURE = 2 / 3
_LOW, _HIGH = -0.1, 1.1
# Nearly all gates are open at first, so that learning starts at about the source's loss.
_FIRST_LOG_ALPHA = 1.5
# A little, so that equals do not stay equal.
_FIRST_NOISE = 0.01
# Of the squared excess, from the start: a multiplier that begins at nothing overshoots.
_FIRST_SQUARED = 100.0
_SHIFT = _TEMPERATURE * math.log(-_LOW / _HIGH)


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One kind of gate: rows of `size` gates each, of which `target` are to stay open in each."""

    n_rows: int
    size: int
    target: int


def mask_axes(source: ModelConfig, student: ModelConfig) -> dict[str, Axis]:
    """Return the kinds of gates that a student of this shape needs; those that lose nothing none.

    Query heads have a row per group, so that equally many stay in each.
    """
    n_layers, groups = source.num_hidden_layers, source.num_key_value_heads
    kinds = {
        "hidden": Axis(n_rows=1, size=source.hidden_size, target=student.hidden_size),
        "unit": Axis(
            n_rows=n_layers, size=source.intermediate_size, target=student.intermediate_size
        ),
        "kv": Axis(n_rows=n_layers, size=groups, target=student.num_key_value_heads),
        "query": Axis(n_rows=n_layers * groups, size=source.group_size, target=student.group_size),
        "layer": Axis(n_rows=1, size=n_layers, target=student.num_hidden_layers),
    }
    return {name: axis for name, axis in kinds.items() if axis.target < axis.size}


class Masks(nn.Module):
    """Gates of every kind, and the two multipliers of each of their rows."""

    def __init__(self, axes: dict[str, Axis], seed: int) -> None:
        super().__init__()
        self.axes = axes
        self.log_alpha = nn.ParameterDict()
        self.multipliers = nn.ParameterDict()
        generator = torch.Generator().manual_seed(seed)
        for name, axis in axes.items():
            noise = torch.randn(axis.n_rows, axis.size, generator=generator)
            self.log_alpha[name] = nn.Parameter(_FIRST_LOG_ALPHA + _FIRST_NOISE * noise)
            first = torch.tensor([0.0, _FIRST_SQUARED]).repeat(axis.n_rows, 1)
            self.multipliers[name] = nn.Parameter(first)

    def sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return gates drawn anew, each (rows, size) in 0 to 1."""
        gates = {}
        for name, log_alpha in self.log_alpha.items():
            u = torch.rand(log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
            soft = torch.sigmoid((torch.log(u / (1 - u)) + log_alpha) / _TEMPERATURE)
            gates[name] = _stretch(soft)
        return gates

    def penalty(self, share_removed: float) -> Tensor:
        """Return sum a (s - t) + b (s - t)^2 over the rows.

        share_removed: of what is to go, how much is to be gone by now (0 at first, 1 at last).
        """
        total: Tensor = torch.zeros(())
        for name, open_share in self.open_shares().items():
            axis = self.axes[name]
            target = 1 - share_removed * (1 - axis.target / axis.size)
            excess = open_share - target  # (rows,)
            first, second = self.multipliers[name].unbind(dim=1)
            total = total + (first * excess + second * excess.square()).sum()
        return total

    def open_shares(self) -> dict[str, Tensor]:
        """Return by kind what share of each row's gates is expected not to be zero: (rows,)."""
        return {
            name: torch.sigmoid(log_alpha - _SHIFT).mean(dim=1)
            for name, log_alpha in self.log_alpha.items()
        }

    def settled(self) -> dict[str, Tensor]:
        """Return by kind the gates that stay, (rows, size) bool, exactly as many as asked for."""
        settled = {}
        for name, log_alpha in self.log_alpha.items():
            places = log_alpha.detach().topk(self.axes[name].target, dim=1).indices
            settled[name] = torch.zeros(log_alpha.shape, dtype=torch.bool).scatter(1, places, True)
        return settled

    def undecided(self) -> int:
        """Return how many gates settle against their middle: closed ones that stay, open ones gone.

        The share expected to be open may be as asked for and no gate decided: all half open.
        """
        settled = self.settled()
        return sum(
            int(((mean > 0.5) != settled[name]).sum()) for name, mean in self.means().items()
        )

    def alike(self) -> list[str]:
        """Return the kinds whose gates differ by little more than the noise they began with."""
        return [
            name
            for name, log_alpha in self.log_alpha.items()
            if log_alpha.detach().var(dim=1).mean().sqrt() < 2 * _FIRST_NOISE
        ]

    @property
    def n_gates(self) -> int:
        """Gates of all kinds."""
        return sum(axis.n_rows * axis.size for axis in self.axes.values())

    @torch.no_grad()
    def means(self) -> dict[str, Tensor]:
        """Return each gate at its middle, without chance: (rows, size) in 0 to 1."""
        return {
            name: _stretch(torch.sigmoid(log_alpha / _TEMPERATURE))
            for name, log_alpha in self.log_alpha.items()
        }


def kept_of(settled: dict[str, Tensor], source: ModelConfig) -> tuple[list[int], Kept]:
    """Return the layers that stay, and the neurons that stay in them."""

    def places(name: str, n_rows: int, size: int) -> list[Tensor]:
        rows = settled.get(name, torch.ones(n_rows, size, dtype=torch.bool))
        return [row.nonzero().flatten() for row in rows]

    n_layers, groups = source.num_hidden_layers, source.num_key_value_heads
    [layers] = places("layer", 1, n_layers)
    [hidden] = places("hidden", 1, source.hidden_size)
    units = places("unit", n_layers, source.intermediate_size)
    kv = places("kv", n_layers, groups)
    members = places("query", n_layers * groups, source.group_size)
    query = [
        torch.cat([group * source.group_size + members[layer * groups + group] for group in of])
        for layer, of in enumerate(row.tolist() for row in kv)
    ]
    kept = layers.tolist()
    return kept, Kept(
        hidden=hidden,
        units=[units[layer] for layer in kept],
        query=[query[layer] for layer in kept],
        kv=[kv[layer] for layer in kept],
    )


def _stretch(soft: Tensor) -> Tensor:
    """Return what a variable between 0 and 1 is where its ends are made reachable."""
    return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)
