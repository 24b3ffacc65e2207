"""What the dimensions of a tensor are: weights that share an axis belong to the same neurons.

Axes: hidden dimensions (one set for the whole model), FFN units, query heads and key/value
heads (a set per layer each). A head is head_dim neighbouring rows.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from edgetiny.checkpoint import LazyTensors, ModelConfig, parameter_shapes

Axis = Literal["vocabulary", "hidden", "unit", "query", "kv"]

# By the end of a tensor's name; a bias has the first one alone.
_AXES: dict[str, tuple[Axis, ...]] = {
    "embed_tokens.weight": ("vocabulary", "hidden"),
    "lm_head.weight": ("vocabulary", "hidden"),
    "norm.weight": ("hidden",),
    "q_proj.weight": ("query", "hidden"),
    "q_proj.bias": ("query",),
    "k_proj.weight": ("kv", "hidden"),
    "k_proj.bias": ("kv",),
    "v_proj.weight": ("kv", "hidden"),
    "v_proj.bias": ("kv",),
    "o_proj.weight": ("hidden", "query"),
    "o_proj.bias": ("hidden",),
    "gate_proj.weight": ("unit", "hidden"),
    "up_proj.weight": ("unit", "hidden"),
    "down_proj.weight": ("hidden", "unit"),
    ".scale": ("unit",),
    ".shift": ("unit",),
    # Like a vocabulary, the bottleneck of a shortcut is kept whole.
    "shortcut.reduce.weight": ("vocabulary", "hidden"),
    "shortcut.expand.weight": ("hidden", "vocabulary"),
}


def axes(name: str) -> tuple[Axis, ...]:
    """Return what the dimensions of a tensor are."""
    [found] = [kinds for end, kinds in _AXES.items() if name.endswith(end)]
    return found


def layer_of(name: str) -> int | None:
    """Return the index of the layer that a tensor belongs to, None outside the layers."""
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


def take_layers(
    config: ModelConfig, tensors: Mapping[str, Tensor], layers: Sequence[int]
) -> tuple[ModelConfig, LazyTensors]:
    """Return the model that has only `layers` of another, in their order; nothing is copied."""
    shape = replace(config, num_hidden_layers=len(layers))

    def source_name(name: str) -> str:
        place = layer_of(name)
        return name if place is None else name.replace(f".{place}.", f".{layers[place]}.", 1)

    return shape, LazyTensors(
        {
            name: functools.partial(tensors.__getitem__, source_name(name))
            for name in parameter_shapes(shape)
        }
    )
