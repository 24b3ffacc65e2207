"""Scales of four bits chosen by the squared error they leave, not by the largest magnitude.

Axes: N rows (outputs), K columns (inputs), S weights of a block.
"""

import torch
from torch import Tensor

from edgetiny.quantize.blocks import (
    BlockWeight,
    cut_blocks,
    largest_scales,
    middle,
    round_blocks,
)

# Shares of the scale that cuts nothing off: 7/8 puts the largest magnitude at -8, the least ones
# cut off a third.
_SHARES = (0.95, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7, 0.65)


def clipped_scales(weight: Tensor, block_size: int, energy: Tensor | None = None) -> Tensor:
    """Return the scale of each block, (N, n_blocks), fp16, that leaves the least squared error.

    energy: (K,), what an error in a column weighs: the summed squares of its inputs.
    """
    blocks = cut_blocks(weight, block_size)
    weights = torch.ones(1, 1) if energy is None else cut_blocks(energy[None], block_size)
    plain = largest_scales(blocks, 4, torch.float16)
    best, least = plain, _squared_error(blocks, plain, weights)
    for share in _SHARES:
        scales = (plain.float() * share).half()
        error = _squared_error(blocks, scales, weights)
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return best


def quantize_clipped(weight: Tensor, block_size: int, energy: Tensor | None = None) -> BlockWeight:
    """Round a matrix (N, K) to four bits with `clipped_scales`."""
    scales = clipped_scales(weight, block_size, energy)
    return round_blocks(cut_blocks(weight, block_size), scales, 4, weight.shape[1])


def _squared_error(blocks: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted squared error of each block, (N, n_blocks)."""
    half = middle(4)
    steps = scales.float()[..., None]
    divisors = torch.where(steps != 0, steps, torch.ones_like(steps))
    rounded = (blocks / divisors).round_().clamp_(-half, half - 1)
    return rounded.mul_(steps).sub_(blocks).square_().mul_(weights).sum(dim=-1)
