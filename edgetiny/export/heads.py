"""Heads as wide as GroupQueryAttention takes them: filled up with zeros, which changes no result.

A zero in both query and key adds nothing to their product, and the output's extra channels are cut
off again. The rotation pairs channel i with channel i + head_dim / 2, so each half is
filled up by itself.
"""

from dataclasses import replace

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.forecast import padded_head_dim
from edgetiny.model import rotary_frequencies
from edgetiny.quantize import BlockWeight, ChannelWeight, Stored
from edgetiny.quantize.blocks import middle


def pad_rows(stored: Stored, head_dim: int, wide: int) -> Stored:
    """Return the rows (heads * head_dim, ...) of a projection or its bias as (heads * wide, ...).

    Rows that were added give zero, whatever way they are stored.
    """
    if isinstance(stored, BlockWeight):
        assert stored.zero_points is None, "no method writes zero points"
        zero = middle(stored.bits)
        packed_zero = zero if stored.bits == 8 else zero | zero << 4
        data = _pad(stored.data, head_dim, wide, packed_zero)
        return replace(stored, data=data, scales=_pad(stored.scales, head_dim, wide, 0))
    if isinstance(stored, ChannelWeight):
        data = _pad(stored.data, head_dim, wide, 0)
        return ChannelWeight(data, _pad(stored.scales, head_dim, wide, 0))
    return _pad(stored, head_dim, wide, 0)


def rotary_tables(config: ModelConfig, context: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of every position: two of (context, padded_head_dim / 2), fp32."""
    angles = torch.zeros(context, padded_head_dim(config.head_dim) // 2)
    frequencies = rotary_frequencies(config)
    angles[:, : len(frequencies)] = torch.arange(context).float()[:, None] * frequencies
    return angles.cos(), angles.sin()


def _pad(rows: Tensor, head_dim: int, wide: int, zero: int) -> Tensor:
    """rows: (heads * head_dim, ...). Returns (heads * wide, ...)."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])  # (heads, 2, half, ...)
    padded = halves.new_full((halves.shape[0], 2, wide // 2, *rows.shape[1:]), zero)
    padded[:, :, : head_dim // 2] = halves
    return padded.flatten(0, 2)  # (heads * wide, ...)
