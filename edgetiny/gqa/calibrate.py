"""Calibration text through a checkpoint, one layer after another, while its heads are merged.

In memory: one layer, before and after, the text's activations, and the attention that was made.
Axes: B windows, T tokens of a window, D hidden size, H query heads, N = B * T tokens.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes
from edgetiny.console import Task
from edgetiny.data.shards import Tokens
from edgetiny.errors import DataError
from edgetiny.gqa.align import aligned_tensors, plain_mean, share
from edgetiny.gqa.grouping import Group, Grouping, adjacent, cheapest
from edgetiny.gqa.moments import Moments, gather
from edgetiny.gqa.refit import OutputFit
from edgetiny.gqa.trial import Trial
from edgetiny.model import Fresh, Layer, Rotary

_BATCH_TOKENS = 2048
_TRIAL_WINDOWS = 8


def calibration_windows(tokens: Tokens, n_tokens: int, length: int) -> Tensor:
    """Return about `n_tokens` of a flat run of ids, (windows, length), spread evenly over it.

    Raises DataError if the text is shorter than a window.
    """
    n_there = len(tokens) // length
    if n_there < 1:
        raise DataError(
            f"the training text holds {len(tokens):,} tokens, less than the {length} of one"
            " calibration window; give more text, or a smaller --context"
        )
    n_windows = min(n_there, -(-n_tokens // length))
    chosen = np.arange(n_windows, dtype=np.int64) * n_there // n_windows
    rows = tokens[chosen[:, None] * length + np.arange(length)]  # (windows, length)
    return torch.from_numpy(rows.astype(np.int64))


class Stream:
    """The hidden states of the calibration text, in batches, before one layer after another."""

    def __init__(self, checkpoint: Checkpoint, windows: Tensor) -> None:
        # Rows that the text uses are copied; the table itself stays on disk.
        table = checkpoint.tensor("model.embed_tokens.weight")
        n_rows = max(1, _BATCH_TOKENS // windows.shape[1])
        self.batches = [table[rows].float() for rows in torch.split(windows, n_rows)]  # (B, T, D)
        self._sequence = Fresh(windows[:1])
        self._rotary = Rotary(checkpoint.config, self._sequence.positions, torch.float32)

    def attended(self, layer: Layer) -> Iterator[Tensor]:
        """Yield what a layer's o_proj reads, (B, T, H * head_dim), batch by batch."""
        attention = layer.self_attn
        for x in self.batches:
            normed = layer.input_layernorm(x)
            q, k, v = (p(normed) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
            yield attention.attend(q, k, v, self._rotary, self._sequence)

    def trial(self, layer: Layer) -> Trial:
        """Return a layer's attention on a few windows from all over the text."""
        x = torch.cat([batch[:1] for batch in self.batches[:: _spacing(len(self.batches))]])
        return Trial(layer, x, self._rotary, self._sequence)

    def advance(self, layer: Layer, attended: Sequence[Tensor]) -> None:
        """Move on behind a layer, of which `attended` was computed."""
        for index, (x, read) in enumerate(zip(self.batches, attended, strict=True)):
            x = layer.around_attention(x) + layer.self_attn.o_proj(read)
            self.batches[index] = x + layer.mlp(layer.post_attention_layernorm(x))


def _spacing(n_batches: int) -> int:
    return max(1, n_batches // _TRIAL_WINDOWS)


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerReport:
    """What became of one layer. error: of its attention's output, squared, over its energy."""

    grouping: Grouping
    error: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return a row of a table: groups as in `0+2, 1+3`."""
        groups = ", ".join("+".join(map(str, group)) for group in self.grouping)
        return {"groups": groups} | ({} if self.error is None else {"error": self.error})


@torch.inference_mode()
def find_groupings(
    checkpoint: Checkpoint, groups: int, windows: Tensor, task: Task
) -> list[LayerReport]:
    """Return for each layer which heads change its attention least when each group is its mean."""
    config, stream = checkpoint.config, Stream(checkpoint, windows)
    n_heads = config.num_key_value_heads
    mean = plain_mean(n_heads // groups, config.head_dim)
    reports = []
    for index in range(config.num_hidden_layers):
        layer = open_layer(config, index, layer_tensors(checkpoint, index))
        trial = stream.trial(layer)
        grouping = cheapest(n_heads, groups, functools.partial(trial.error, shared=mean))
        reports.append(LayerReport(grouping=grouping))
        stream.advance(layer, list(stream.attended(layer)))
        task.advance(1)
    return reports


@torch.inference_mode()
def align(
    checkpoint: Checkpoint,
    groups: int,
    windows: Tensor,
    task: Task,
    *,
    by_similarity: bool,
    refit: bool = True,
) -> tuple[dict[str, Tensor], list[LayerReport]]:
    """Return the attention tensors with `groups` key/value heads, and what each layer came to.

    Each layer is fitted to what comes out of the merged layers before it, so that a layer mends
    what those before it have changed. Without `refit` the output projection is only carried over.
    """
    config = checkpoint.config
    shape = replace(config, num_key_value_heads=groups)
    before, after = Stream(checkpoint, windows), Stream(checkpoint, windows)
    made: dict[str, Tensor] = {}
    reports = []
    for index in range(config.num_hidden_layers):
        tensors = layer_tensors(checkpoint, index)
        old = open_layer(config, index, tensors)
        moments = gather(old, before.batches)
        grouping = adjacent(config.num_key_value_heads, groups)
        if by_similarity:
            grouping = _nearest(before.trial(old), moments, config.num_key_value_heads, groups)
        tensors |= _merged(tensors, grouping, moments, config)
        new = open_layer(shape, index, tensors)
        wanted, read = list(before.attended(old)), list(after.attended(new))
        fit = OutputFit(new.self_attn.o_proj.weight)
        for batch, (theirs, ours) in enumerate(zip(wanted, read, strict=True)):
            # The residual stream is to leave the attention as it did, whatever it came in with.
            around = old.around_attention(before.batches[batch])
            target = old.self_attn.o_proj(theirs) + around
            target = target - new.around_attention(after.batches[batch])
            if config.bias == "qkvo":
                target = target - old.self_attn.o_proj.bias
            fit.add(ours, target)
        if refit:
            new.self_attn.o_proj.weight.copy_(fit.solve())
        reports.append(LayerReport(grouping=grouping, error=fit.error(new.self_attn.o_proj.weight)))
        before.advance(old, wanted)
        after.advance(new, read)
        made |= _stored(checkpoint, index, new)
        task.advance(1)
    return made, reports


def _nearest(trial: Trial, moments: Moments, n_heads: int, n_groups: int) -> Grouping:
    """Return the groups whose best shared heads change the attention least."""

    def cost(heads: Group) -> float:
        return trial.error(heads, share(moments, heads))

    return cheapest(n_heads, n_groups, cost)


def _merged(
    tensors: Mapping[str, Tensor], grouping: Grouping, moments: Moments, config: ModelConfig
) -> dict[str, Tensor]:
    prefix = "self_attn."
    attention = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    shared = [share(moments, heads) for heads in grouping]
    merged = aligned_tensors(attention, grouping, shared, config)
    return {prefix + name: tensor for name, tensor in merged.items()}


def layer_tensors(checkpoint: Checkpoint, index: int) -> dict[str, Tensor]:
    """Return one layer's tensors in fp32, by the part of the name after the layer's number."""
    prefix = f"model.layers.{index}."
    return {
        name.removeprefix(prefix): checkpoint.tensor(name).float()
        for name in parameter_shapes(checkpoint.config)
        if name.startswith(prefix)
    }


def open_layer(config: ModelConfig, index: int, tensors: Mapping[str, Tensor]) -> Layer:
    """Return one layer of the model, on copies of its tensors."""
    with torch.device("meta"):
        layer = Layer(config, index)
    layer.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return layer.eval().requires_grad_(False)


def _stored(checkpoint: Checkpoint, index: int, layer: Layer) -> dict[str, Tensor]:
    """Return the layer's attention under the checkpoint's names and in its dtype."""
    prefix = f"model.layers.{index}.self_attn."
    dtype = checkpoint.tensor(f"{prefix}q_proj.weight").dtype
    attention = layer.self_attn.named_parameters()
    return {prefix + name: parameter.detach().to(dtype) for name, parameter in attention}
