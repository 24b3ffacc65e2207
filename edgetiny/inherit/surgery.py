"""Cutting layers and neurons out of a checkpoint: every tensor that shares an axis is cut alike.

Axes: hidden dimensions (one set for the whole model), FFN units, query heads and key/value
heads (a set per layer each). A head is head_dim neighbouring rows.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, LazyTensors, ModelConfig, parameter_shapes

Axis = Literal["vocabulary", "hidden", "unit", "query", "kv"]

# What the dimensions of a tensor are, by the end of its name; a bias has the first one alone.
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
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What stays of a source, as ascending indices into it; the lists hold one set per kept layer.

    query: query heads, as many in each kept group, counted over the whole layer.
    """

    layers: list[int]
    hidden: Tensor  # (hidden size of the student,)
    units: list[Tensor]  # each (intermediate size of the student,)
    query: list[Tensor]  # each (query heads of the student,)
    kv: list[Tensor]  # each (key/value heads of the student,)


def axes(name: str) -> tuple[Axis, ...]:
    """Return what the dimensions of a tensor are."""
    [found] = [kinds for end, kinds in _AXES.items() if name.endswith(end)]
    return found


def layer_of(name: str) -> int | None:
    """Return the index of the layer that a tensor belongs to, None outside the layers."""
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


def source_names(student: ModelConfig, layers: list[int]) -> Iterator[tuple[str, str]]:
    """Yield the name of each tensor in the student, and in the source it is cut from."""
    for name in parameter_shapes(student):
        layer = layer_of(name)
        if layer is None:
            yield name, name
        else:
            yield name, name.replace(f".{layer}.", f".{layers[layer]}.", 1)


def cut(
    source: Checkpoint, student: ModelConfig, kept: Kept, norm_factors: Mapping[str, float]
) -> LazyTensors:
    """Return the student's tensors, each cut when it is asked for; nothing removed keeps its bits.

    norm_factors: what to multiply norm weights by, by their names in the student.
    """

    def make(name: str, source_name: str) -> Tensor:
        tensor = source.tensor(source_name)
        for dim, axis in enumerate(axes(name)):
            index = _index(kept, axis, layer_of(name), source.config.head_dim)
            if index is not None and len(index) < tensor.shape[dim]:
                tensor = tensor.index_select(dim, index)
        if name in norm_factors:
            tensor = (tensor.float() * norm_factors[name]).to(tensor.dtype)
        return tensor

    names = source_names(student, kept.layers)
    return LazyTensors({name: functools.partial(make, name, old) for name, old in names})


def _index(kept: Kept, axis: Axis, layer: int | None, head_dim: int) -> Tensor | None:
    """Return the rows (or columns) that stay along an axis, None for all of them."""
    if axis == "vocabulary":
        return None
    if axis == "hidden":
        return kept.hidden
    assert layer is not None
    if axis == "unit":
        return kept.units[layer]
    heads = kept.query[layer] if axis == "query" else kept.kv[layer]
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()  # (heads * head_dim,)
