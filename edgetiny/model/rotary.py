"""Rotary position embedding, with LLaMA-3's scaling.

Axes: B sequences, T tokens.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig, RopeScaling


@dataclass(slots=True)
class Rotary:
    """The rotation of one forward pass: cosines and sines of its positions.

    Source: Su et al. 2021, "RoFormer"; halves rotated as in LLaMA's Hugging Face layout.
    """

    config: ModelConfig
    positions: Tensor  # (B or 1, T)
    dtype: torch.dtype
    cos: Tensor = field(init=False)  # (B or 1, 1, T, head_dim)
    sin: Tensor = field(init=False)

    def __post_init__(self) -> None:
        frequencies = rotary_frequencies(self.config).to(self.positions.device)
        angles = self.positions[:, None, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def apply(self, x: Tensor) -> Tensor:
        """Rotate x (B, heads, T, head_dim)."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Return the angle per position of each pair of channels: (head_dim / 2,), fp32.

    With `rope_scaling`, low frequencies are divided as in Llama 3.1.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_scaling is None:
        return frequencies
    return _llama3_frequencies(frequencies, config.rope_scaling)


def _llama3_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Keep fast rotations, divide slow ones by the factor, and blend in between."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    spread = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / spread).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies
