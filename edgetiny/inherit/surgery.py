"""Cutting neurons out of a model: every tensor that shares an axis is cut alike."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgetiny.checkpoint import LazyTensors, ModelConfig, parameter_shapes
from edgetiny.importance.axes import Axis, axes, layer_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What stays of a model's neurons, as ascending indices; the lists hold one set per layer.

    query: query heads, as many in each kept group, counted over the whole layer.
    """

    hidden: Tensor  # (hidden size of the student,)
    units: list[Tensor]  # each (intermediate size of the student,)
    query: list[Tensor]  # each (query heads of the student,)
    kv: list[Tensor]  # each (key/value heads of the student,)


def cut_shape(source: ModelConfig, student: ModelConfig) -> ModelConfig:
    """Return the student's shape with the epsilon that its narrower norms need.

    A norm over d dimensions of which all but d' are silent divides by sqrt(sum / d + eps). Over
    the d' alone that is sqrt(d' / d) sqrt(sum / d' + eps d / d'): the root goes into the weights.
    """
    wider = source.hidden_size / student.hidden_size
    return replace(student, rms_norm_eps=source.rms_norm_eps * wider)


def cut(
    source: ModelConfig,
    tensors: Mapping[str, Tensor],
    student: ModelConfig,
    kept: Kept,
    energy: Mapping[str, float],
) -> LazyTensors:
    """Return the student's tensors, each cut when it is asked for; nothing removed keeps its bits.

    The student is the source with everything else silent, if it has the shape of `cut_shape`.
    energy: by the name of a norm's weight, the share of the mean square before it that is of the
    kept dimensions. The weight is multiplied by its root, so that the output keeps its scale; a
    norm without one is cut as it is.
    """

    def make(name: str) -> Tensor:
        tensor = tensors[name]
        for dim, axis in enumerate(axes(name)):
            index = _index(kept, axis, layer_of(name), source.head_dim)
            if index is not None and len(index) < tensor.shape[dim]:
                tensor = tensor.index_select(dim, index)
        factor = energy.get(name, 1.0) * source.hidden_size / student.hidden_size
        if name.endswith("norm.weight") and factor != 1:
            tensor = (tensor.double() * factor**0.5).to(tensor.dtype)
        return tensor

    return LazyTensors({name: functools.partial(make, name) for name in parameter_shapes(student)})


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
