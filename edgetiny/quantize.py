"""Weights of eight bits in blocks: symmetric, a scale per block of each row's inputs.

The layout is that of onnxruntime's MatMulNBits and GatherBlockQuantized, so one copy of the
bytes serves an embedding and the head that is tied to it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ZERO_POINT = 128
_LARGEST = 127


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A matrix (N, K) as bytes and scales; the last block of a row is filled up with zeros.

    data: (N, ceil(K / block_size), block_size), uint8, ZERO_POINT standing for zero.
    scales: (N, ceil(K / block_size)), fp32.
    columns: K.
    """

    data: Tensor
    scales: Tensor
    columns: int

    @property
    def block_size(self) -> int:
        """Weights that share a scale."""
        return self.data.shape[-1]

    @property
    def size_bytes(self) -> int:
        """Bytes of data and scales."""
        return self.data.nbytes + self.scales.nbytes


def quantize_int8(weight: Tensor, block_size: int) -> BlockWeight:
    """Round a matrix (N, K) to eight bits; each weight is off by half a scale at most.

    A block's scale is its largest magnitude over 127, so that magnitude stays exact.
    """
    n_rows, columns = weight.shape
    n_blocks = -(-columns // block_size)
    padded = torch.zeros(n_rows, n_blocks * block_size)
    padded[:, :columns] = weight
    blocks = padded.view(n_rows, n_blocks, block_size)
    scales = blocks.abs().amax(dim=-1) / _LARGEST  # (N, n_blocks)
    # A block of zeros, or so near that its scale underflows, is divided by one and rounds to zero.
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    rounded = (blocks / divisors[..., None]).round() + ZERO_POINT
    return BlockWeight(rounded.to(torch.uint8), scales, columns)


def dequantize(weight: BlockWeight) -> Tensor:
    """Return the matrix (N, K) in fp32 that the bytes stand for."""
    blocks = (weight.data.float() - ZERO_POINT) * weight.scales[..., None]
    return blocks.flatten(1)[:, : weight.columns]
