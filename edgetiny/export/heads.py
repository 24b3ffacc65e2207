"""Heads as wide as GroupQueryAttention takes them: filled up with zeros, which changes no result.

A zero in both query and key adds nothing to their product, and the output's extra channels meet
zero columns of o_proj. The rotation pairs channel i with channel i + head_dim / 2, so each half is
filled up by itself.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from edgetiny.checkpoint import LazyTensors, ModelConfig
from edgetiny.model import rotary_frequencies

# GroupQueryAttention on the CPU refuses to rotate any other width (onnxruntime 1.32).
MULTIPLE = 16

_ROWS = tuple(f"{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias"))


def padded_head_dim(head_dim: int) -> int:
    """Return the next width that the fused attention takes."""
    return -(-head_dim // MULTIPLE) * MULTIPLE


def pad_heads(
    config: ModelConfig, tensors: Mapping[str, Tensor]
) -> tuple[ModelConfig, Mapping[str, Tensor]]:
    """Return the same model with heads of `padded_head_dim`; tensors are made lazily.

    Its attention must still be scaled by the narrow head_dim, and rotate by `rotary_tables`.
    """
    wide = padded_head_dim(config.head_dim)
    if wide == config.head_dim:
        return config, tensors

    def make(name: str) -> Tensor:
        tensor = tensors[name]
        if name.endswith(_ROWS):
            return _pad_rows(tensor, config.head_dim, wide)
        if name.endswith("o_proj.weight"):
            return _pad_rows(tensor.t(), config.head_dim, wide).t()
        return tensor

    makers = {name: functools.partial(make, name) for name in tensors}
    return replace(config, head_dim=wide), LazyTensors(makers)


def rotary_tables(config: ModelConfig, context: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of every position: two of (context, padded_head_dim / 2), fp32."""
    angles = torch.zeros(context, padded_head_dim(config.head_dim) // 2)
    frequencies = rotary_frequencies(config)
    angles[:, : len(frequencies)] = torch.arange(context).float()[:, None] * frequencies
    return angles.cos(), angles.sin()


def _pad_rows(weight: Tensor, head_dim: int, wide: int) -> Tensor:
    """weight: (heads * head_dim, ...). Returns (heads * wide, ...)."""
    halves = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])  # (heads, 2, half, ...)
    padded = halves.new_zeros(halves.shape[0], 2, wide // 2, *weight.shape[1:])
    padded[:, :, : head_dim // 2] = halves
    return padded.flatten(0, 2)  # (heads * wide, ...)
