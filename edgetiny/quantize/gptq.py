"""Rounding that makes up for its errors: each column's error is taken on by those still to come.

Source: Frantar et al. 2022, "GPTQ" (arXiv 2210.17323), with scales fixed beforehand, by the
largest magnitude of a block (smaller ones, of less squared error, left more bits per byte), and
columns in the order of their inputs' energy.

Axes: N rows (outputs), K columns (inputs), S weights of a block.
"""

import torch
from torch import Tensor

from edgetiny.quantize.blocks import (
    BlockWeight,
    by_rows,
    cut_blocks,
    largest_scales,
    middle,
    pack,
)

_DAMPING = 0.01  # of the mean energy, as in the paper
_COLUMNS_AT_ONCE = 128


def quantize_gptq(weight: Tensor, hessian: Tensor, block_size: int) -> BlockWeight:
    """Round a matrix (N, K) to four bits so that its products with the inputs stay close.

    hessian: (K, K), the sum of x x^T over the inputs x. Inputs that were never other than zero
    have their weights rounded to the nearest.
    """
    energy = hessian.diagonal()
    order = energy.argsort(descending=True)
    factor = _inverse_factor(hessian[order][:, order])

    def some_rows(weight: Tensor) -> BlockWeight:
        weight = weight.float()
        scales = largest_scales(cut_blocks(weight, block_size), 4, torch.float16)
        return _round(weight, scales, block_size, order, factor)

    return by_rows(weight, some_rows)


def _round(
    weight: Tensor, scales: Tensor, block_size: int, order: Tensor, factor: Tensor
) -> BlockWeight:
    """Round a matrix (N, K) with scales (N, n_blocks), its columns in `order`, (K,)."""
    n_rows, columns = weight.shape
    of_column = scales.float()[:, order // block_size]  # (N, K)
    integers = torch.zeros(n_rows, scales.shape[1] * block_size)
    integers[:, order] = _round_columns(weight[:, order], of_column, factor)
    blocks = integers.view(n_rows, -1, block_size) + middle(4)
    return BlockWeight(pack(blocks, 4), scales, columns, 4)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper triangle U with U^T U = inverse of the damped matrix (K, K)."""
    damped = hessian.double().clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1  # an input that says nothing: no error goes in or out
    diagonal += _DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()


def _round_columns(weight: Tensor, scales: Tensor, factor: Tensor) -> Tensor:
    """Return the integers, -8 to 7, of a matrix (N, K) with a scale for each weight.

    Errors reach the columns nearby at once, and those farther off a bunch at a time.
    """
    half = middle(4)
    divisors = torch.where(scales != 0, scales, torch.ones_like(scales))
    left = weight.clone()
    integers = torch.empty_like(left)
    for start in range(0, left.shape[1], _COLUMNS_AT_ONCE):
        stop = min(start + _COLUMNS_AT_ONCE, left.shape[1])
        # Columns are walked one by one: as rows, each is contiguous.
        bunch = left[:, start:stop].t().contiguous()  # (columns, N)
        errors = torch.empty_like(bunch)
        for i in range(stop - start):
            place = start + i
            rounded = (bunch[i] / divisors[:, place]).round().clamp(-half, half - 1)
            integers[:, place] = rounded
            errors[i] = (bunch[i] - rounded * scales[:, place]) / factor[place, place]
            bunch[i + 1 :] -= factor[place, place + 1 : stop, None] * errors[i]
        left[:, stop:] -= errors.t() @ factor[start:stop, stop:]
    return integers
