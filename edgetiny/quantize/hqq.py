"""Scales of four bits without text: large errors are counted as outliers and left out of the fit.

Source: Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", with
the zero point kept in the middle and the scale fitted in its place: that is what every kernel
takes, and what 4.5 bits a weight have room for.

Axes: N rows (outputs), K columns (inputs), S weights of a block.
"""

import torch
from torch import Tensor

from edgetiny.quantize.blocks import BlockWeight, cut_blocks, largest_scales, middle, round_blocks

_NORM = 0.7
_PENALTY = 10.0
_PENALTY_GROWTH = 1.01
_ROUNDS = 20


def quantize_hqq(weight: Tensor, block_size: int) -> BlockWeight:
    """Round a matrix (N, K) to four bits, each block's scale fitted to most of its weights."""
    blocks = cut_blocks(weight, block_size)
    plain = largest_scales(blocks, 4, torch.float16).float()
    # The penalty is in units of the weights; blocks of any size are fitted alike.
    units = torch.where(plain != 0, plain, torch.ones_like(plain))  # NaN stays, to be seen
    fitted = _fit(blocks / units[..., None])  # (N, n_blocks), about 1
    return round_blocks(blocks, (units * fitted).half(), 4, weight.shape[1])


def _fit(blocks: Tensor) -> Tensor:
    """Return the scale of each block (N, n_blocks, S) whose steps are about one."""
    half, penalty = middle(4), _PENALTY
    scales = torch.ones(blocks.shape[:-1])
    for _ in range(_ROUNDS):
        integers = (blocks / scales[..., None]).round_().clamp_(-half, half - 1)
        errors = blocks - integers * scales[..., None]
        wanted = blocks - _shrink(errors, penalty)
        energy = integers.square().sum(dim=-1)
        least_squares = (integers * wanted).sum(dim=-1) / energy.clamp(min=1)
        scales = torch.where(least_squares > 0, least_squares, scales)
        penalty *= _PENALTY_GROWTH
    return scales


def _shrink(errors: Tensor, penalty: float) -> Tensor:
    """Return the outliers of errors: each less a threshold that falls as it grows."""
    size = errors.abs()
    threshold = size.clamp(min=1e-8).pow(_NORM - 1) / penalty
    return errors.sign() * (size - threshold).clamp(min=0)
