"""Weights of eight bits with one scale per output channel, for products of integers alone.

Axes: N rows (outputs), K columns (inputs).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_LARGEST = 127


@dataclass(frozen=True, slots=True)
class ChannelWeight:
    """A matrix (N, K) as signed bytes; a byte stands for itself times its row's scale.

    data: (N, K), int8, -127 to 127. scales: (N,), fp32.
    """

    data: Tensor
    scales: Tensor

    @property
    def size_bytes(self) -> int:
        """Bytes of data and scales."""
        return self.data.nbytes + self.scales.nbytes


def quantize_channels(weight: Tensor) -> ChannelWeight:
    """Round a matrix (N, K) plainly; each weight is off by half its row's scale at most."""
    weight = weight.float()
    scales = weight.abs().amax(dim=1) / _LARGEST  # (N,)
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    return ChannelWeight((weight / divisors[:, None]).round().to(torch.int8), scales)


def dequantize_channels(weight: ChannelWeight) -> Tensor:
    """Return the matrix (N, K) in fp32 that the bytes stand for."""
    return weight.data.float() * weight.scales[:, None]
