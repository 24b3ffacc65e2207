"""Calibration text through a checkpoint, one layer after another, while its heads are merged.

In memory: one layer, before and after, the text's activations, and the attention that was made.
Axes: B windows, T tokens of a window, D hidden size, H query heads, N = B * T tokens.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.console import Task
from edgetiny.gqa.align import aligned_tensors, plain_mean, share
from edgetiny.gqa.grouping import Group, Grouping, adjacent, cheapest
from edgetiny.gqa.moments import Moments, gather
from edgetiny.gqa.refit import OutputFit
from edgetiny.gqa.trial import Trial
from edgetiny.model import Layer, Stream, open_layer, stream_layers

_TRIAL_TOKENS = 4096


def attended(stream: Stream, layer: Layer) -> Iterator[Tensor]:
    """Yield what a layer's o_proj reads, (B, T, H * head_dim), batch by batch."""
    attention = layer.self_attn
    for x in stream.states:
        normed = layer.input_layernorm(x)
        q, k, v = (p(normed) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        yield attention.attend(q, k, v, stream.rotary, stream.sequence)


def trial_of(stream: Stream, layer: Layer) -> Trial:
    """Return a layer's attention on about 4,096 tokens: windows spread evenly over the text."""
    windows = [window for batch in stream.states for window in batch]  # each (T, D)
    n_tried = min(len(windows), max(1, _TRIAL_TOKENS // len(windows[0])))
    x = torch.stack([windows[place * len(windows) // n_tried] for place in range(n_tried)])
    return Trial(layer, x, stream.rotary, stream.sequence)


def _advance(stream: Stream, layer: Layer, reads: Sequence[Tensor]) -> None:
    """Move on behind a layer of which `attended` is known, so that it is not computed again."""
    for place, (x, read) in enumerate(zip(stream.states, reads, strict=True)):
        x = layer.around_attention(x) + layer.self_attn.o_proj(read)
        stream.states[place] = x + layer.mlp(layer.post_attention_layernorm(x))


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
    config = checkpoint.config
    stream = Stream(config, checkpoint.state_dict(), windows)
    n_heads = config.num_key_value_heads
    mean = plain_mean(n_heads // groups, config.head_dim)
    reports = []
    for _, layer in stream.layers():
        trial = trial_of(stream, layer)
        grouping = cheapest(n_heads, groups, functools.partial(trial.error, shared=mean))
        reports.append(LayerReport(grouping=grouping))
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
    config, tensors = checkpoint.config, checkpoint.state_dict()
    shape = replace(config, num_key_value_heads=groups)
    before, after = Stream(config, tensors, windows), Stream(shape, tensors, windows)
    made: dict[str, Tensor] = {}
    reports = []
    for index, old in stream_layers(config, tensors, torch.float32):
        moments = gather(old, before.states)
        grouping = adjacent(config.num_key_value_heads, groups)
        if by_similarity:
            trial = trial_of(before, old)
            grouping = _nearest(trial, moments, config.num_key_value_heads, groups)
        merged = _merged(old, index, grouping, moments, config)
        new = open_layer(shape, index, tensors | merged, torch.float32)
        error = _fit(old, new, before, after, refit=refit)
        reports.append(LayerReport(grouping=grouping, error=error))
        made |= _stored(new, index, tensors)
        task.advance(1)
    return made, reports


def _fit(old: Layer, new: Layer, before: Stream, after: Stream, *, refit: bool) -> float:
    """Fit a merged layer's o_proj to its old one, move both texts on, and return the error left."""
    wanted, reads = list(attended(before, old)), list(attended(after, new))
    fit = OutputFit(new.self_attn.o_proj.weight, layer=new.self_attn.attend.layer)
    for batch, (theirs, ours) in enumerate(zip(wanted, reads, strict=True)):
        # The residual stream is to leave the attention as it did, whatever it came in with.
        around = old.around_attention(before.states[batch])
        target = old.self_attn.o_proj(theirs) + around
        target = target - new.around_attention(after.states[batch])
        if old.self_attn.o_proj.bias is not None:
            target = target - old.self_attn.o_proj.bias
        fit.add(ours, target)
    if refit:
        new.self_attn.o_proj.weight = nn.Parameter(fit.solve(), requires_grad=False)
    _advance(before, old, wanted)
    _advance(after, new, reads)
    return fit.error(new.self_attn.o_proj.weight)


def _nearest(trial: Trial, moments: Moments, n_heads: int, n_groups: int) -> Grouping:
    """Return the groups whose best shared heads change the attention least."""

    def cost(heads: Group) -> float:
        return trial.error(heads, share(moments, heads))

    return cheapest(n_heads, n_groups, cost)


def _merged(
    layer: Layer, index: int, grouping: Grouping, moments: Moments, config: ModelConfig
) -> dict[str, Tensor]:
    """Return a layer's attention with a head of each group, under the checkpoint's names."""
    shared = [share(moments, heads) for heads in grouping]
    merged = aligned_tensors(layer.self_attn.state_dict(), grouping, shared, config)
    return {_name(index, name): tensor for name, tensor in merged.items()}


def _stored(layer: Layer, index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the layer's attention under the checkpoint's names and in its dtypes."""
    made = {_name(index, name): each for name, each in layer.self_attn.named_parameters()}
    return {name: each.detach().to(tensors[name].dtype) for name, each in made.items()}


def _name(index: int, part: str) -> str:
    return f"model.layers.{index}.self_attn.{part}"
