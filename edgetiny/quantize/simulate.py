"""The model that a scheme's integers stand for, in fp32 torch: what quantization costs in quality.

Axes: B sequences, T tokens, H query heads, G key/value heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetiny.checkpoint import LazyTensors, parameter_shapes
from edgetiny.model import Attend, Rotary, Sequence, Transformer, build_model
from edgetiny.quantize.blocks import BlockWeight, dequantize
from edgetiny.quantize.channels import ChannelWeight, dequantize_channels, quantize_channels
from edgetiny.quantize.kv import KVScales, round_to_bytes
from edgetiny.quantize.weights import Stored, Weights

_STEPS = 255  # of an activation's byte


class DynamicLinear(nn.Module):
    """x W^T + bias, x rounded to bytes first with one scale and zero point for all of x."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(round_dynamically(x), self.weight, self.bias)


class ByteAttend(nn.Module):
    """`Attend` with rotated keys and values rounded to the bytes of a cache."""

    def __init__(self, attend: Attend, scales: KVScales) -> None:
        super().__init__()
        self.attend = attend
        self.key = scales.key[attend.layer]  # (G, head_dim)
        self.value = scales.value[attend.layer]

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, sequence: Sequence
    ) -> Tensor:
        seen = _ByteSequence(sequence, self.key, self.value)
        out: Tensor = self.attend(q, k, v, rotary, seen)
        return out


class _ByteSequence:
    """Another sequence, looked at through the bytes of its cache."""

    def __init__(self, sequence: Sequence, key: Tensor, value: Tensor) -> None:
        self.positions = sequence.positions
        self._sequence, self._key, self._value = sequence, key, value

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = round_to_bytes(k, self._key[:, None])  # (B, G, T, head_dim)
        v = round_to_bytes(v, self._value[:, None])
        return self._sequence.attend(layer, q, k, v)


def round_dynamically(x: Tensor) -> Tensor:
    """Return x as ONNX's DynamicQuantizeLinear rounds it: 255 steps from its least to its largest.

    Zero is among the steps. All of x shares them: a batch, and every token of it.
    """
    least, largest = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((largest - least) / _STEPS).clamp(min=torch.finfo(torch.float32).tiny)
    zero = (-least / scale).round()
    return ((x / scale).round() + zero).clamp(0, _STEPS).sub(zero) * scale


def as_fp32(stored: Stored) -> Tensor:
    """Return the matrix (N, K) that a stored one stands for."""
    if isinstance(stored, BlockWeight):
        return dequantize(stored)
    if isinstance(stored, ChannelWeight):
        return dequantize_channels(stored)
    return stored.float()


def simulated(weights: Weights) -> Transformer:
    """Return the model with weights, activations and KV cache rounded as the scheme says.

    All of it is in memory as fp32. Sums are fp32, so results differ from an engine's by rounding.
    """
    config, scheme = weights.config, weights.scheme
    makers = {
        name: _maker(weights, name, len(shape)) for name, shape in parameter_shapes(config).items()
    }
    model = build_model(config, LazyTensors(makers))
    for name, leaf in list(model.named_modules()):
        if isinstance(leaf, nn.Linear) and scheme.kernel == "dynamic":
            # Blocks of four bits become channels of eight when they are loaded for this kernel.
            weight = dequantize_channels(quantize_channels(leaf.weight.detach()))
            model.set_submodule(name, DynamicLinear(weight, leaf.bias))
        elif isinstance(leaf, Attend) and weights.kv_scales is not None:
            model.set_submodule(name, ByteAttend(leaf, weights.kv_scales))
    return model


def _maker(weights: Weights, name: str, n_axes: int) -> Callable[[], Tensor]:
    if n_axes == 1:
        return lambda: weights.tensor(name).float()
    return lambda: as_fp32(weights.linear(name))
