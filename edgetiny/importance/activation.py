"""Scores by how much flows through a neuron on text.

Source: Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation",
section 2.2: there too the mean over the sequence of absolute values, the L2 norm over the batch.
"""

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.console import Task
from edgetiny.errors import CheckpointError
from edgetiny.importance.scores import Scores
from edgetiny.model import Layer, Stream, open_frame, stream_layers


class _Meter:
    """The sum over windows of squares of the mean over tokens of |x|, channel by channel."""

    def __init__(self) -> None:
        self._squares: Tensor = torch.zeros(())

    def read(self, x: Tensor) -> None:
        """Take in x (B, T, channels)."""
        self._squares = self._squares + x.abs().mean(dim=1).double().square().sum(dim=0)

    def scores(self) -> Tensor:
        """Return the root of the sum: (channels,)."""
        if not self._squares.isfinite().all():
            raise CheckpointError("an activation is not finite; edgetiny inspect says where")
        return self._squares.sqrt()


@torch.inference_mode()
def score(
    config: ModelConfig, tensors: Mapping[str, Tensor], windows: Tensor, task: Task | None = None
) -> Scores:
    """Return scores from what text (N, T + 1) makes of a model, with one layer in memory.

    A hidden dimension: what each norm makes of it, added up. An FFN unit: what down reads. A query
    head: what o_proj reads, its channels added up; a key/value head is worth what its query heads
    are.
    """
    stream = Stream(config, tensors, windows[:, :-1])
    hidden: Tensor = torch.zeros(config.hidden_size, dtype=torch.float64)
    units, query = [], []
    for _, layer in stream_layers(config, tensors, torch.float32):
        with _meters(layer) as (norms, heads, ffn):
            stream.advance(layer)
        hidden = hidden + sum(norm.scores() for norm in norms)
        units.append(ffn.scores())
        query.append(heads.scores().view(-1, config.head_dim).sum(dim=1))  # (H,)
        if task is not None:
            task.advance(1)
    last, frame = _Meter(), open_frame(config, tensors, torch.float32)
    for x in stream.states:
        last.read(frame.model.norm(x))
    nothing = torch.zeros(config.num_key_value_heads, dtype=torch.float64)
    return Scores(
        hidden=hidden + last.scores(), units=units, query=query, kv=[nothing for _ in query]
    )


@contextmanager
def _meters(layer: Layer) -> Iterator[tuple[list[_Meter], _Meter, _Meter]]:
    """Meter both norms of a layer, its heads and its units."""
    norms, heads, units = [_Meter(), _Meter()], _Meter(), _Meter()

    def read_input(meter: _Meter, module: nn.Module, args: tuple[Any, ...]) -> None:
        meter.read(args[0])

    def read_output(meter: _Meter, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        meter.read(out)

    with ExitStack() as stack:
        for norm, meter in zip(
            (layer.input_layernorm, layer.post_attention_layernorm), norms, strict=True
        ):
            hook = norm.register_forward_hook(functools.partial(read_output, meter))
            stack.callback(hook.remove)
        for linear, meter in ((layer.self_attn.o_proj, heads), (layer.mlp.down_proj, units)):
            before = linear.register_forward_pre_hook(functools.partial(read_input, meter))
            stack.callback(before.remove)
        yield norms, heads, units
