"""Weights of four or eight bits in blocks: integers, and a scale per block of each row's inputs.

The layout is that of onnxruntime's MatMulNBits and GatherBlockQuantized, so one copy of the
bytes serves an embedding and the head that is tied to it.

Axes: N rows (outputs), K columns (inputs), S weights of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Bits = Literal[4, 8]

ZERO_POINT = 128
"""What stands for zero in a byte of eight bits."""

_PART_WEIGHTS = 2**22


@dataclass(frozen=True, slots=True)
class BlockWeight:
    """A matrix (N, K) as integers and scales; the last block of a row is filled up with zeros.

    data: (N, ceil(K / S), S * bits / 8), uint8; of four bits, the first weight of a pair is the
    low half of its byte. An integer stands for (integer - zero point) * scale.
    scales: (N, ceil(K / S)), fp32 or fp16.
    columns: K.
    zero_points: (N, ceil(ceil(K / S) * bits / 8)), uint8, packed along a row as data is;
    None means half the range, 8 or 128, everywhere.
    """

    data: Tensor
    scales: Tensor
    columns: int
    bits: Bits = 8
    zero_points: Tensor | None = None

    @property
    def block_size(self) -> int:
        """Weights that share a scale."""
        return self.data.shape[-1] * 8 // self.bits

    @property
    def size_bytes(self) -> int:
        """Bytes of data, scales and zero points."""
        zero_points = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.data.nbytes + self.scales.nbytes + zero_points


def middle(bits: Bits) -> int:
    """Return the integer that stands for zero where there are no zero points."""
    return 1 << (bits - 1)


def cut_blocks(matrix: Tensor, block_size: int) -> Tensor:
    """Return a matrix (N, K) as fp32 blocks (N, ceil(K / S), S), the last filled up with zeros."""
    n_rows, columns = matrix.shape
    n_blocks = -(-columns // block_size)
    padded = torch.zeros(n_rows, n_blocks * block_size)
    padded[:, :columns] = matrix
    return padded.view(n_rows, n_blocks, block_size)


def pack(integers: Tensor, bits: Bits) -> Tensor:
    """Return integers (..., S) as bytes (..., ceil(S * bits / 8)); an odd last half is zero."""
    integers = integers.to(torch.uint8)
    if bits == 8:
        return integers
    if integers.shape[-1] % 2:
        integers = torch.nn.functional.pad(integers, (0, 1))
    return integers[..., ::2] | integers[..., 1::2] << 4


def unpack(data: Tensor, bits: Bits) -> Tensor:
    """Return the integers of bytes (..., n): (..., n * 8 / bits), uint8. Undoes `pack`."""
    if bits == 8:
        return data
    return torch.stack((data & 15, data >> 4), dim=-1).flatten(-2)


def largest_scales(blocks: Tensor, bits: Bits, scale_dtype: torch.dtype) -> Tensor:
    """Return for each block (N, n_blocks, S) the least scale that reaches its largest magnitude.

    Rounded up to `scale_dtype`, so that nothing is cut off. A magnitude beyond what it can say
    comes to infinity.
    """
    exact = blocks.abs().amax(dim=-1) / (middle(bits) - 1)  # (N, n_blocks)
    scales = exact.to(scale_dtype)
    too_small = scales.float() < exact
    return torch.where(too_small, scales.nextafter(torch.full_like(scales, torch.inf)), scales)


def round_blocks(blocks: Tensor, scales: Tensor, bits: Bits, columns: int) -> BlockWeight:
    """Round blocks (N, n_blocks, S) to the nearest multiple of their scale (N, n_blocks)."""
    # A block of zeros, or so near that its scale underflows, is divided by one and rounds to zero.
    divisors = torch.where(scales != 0, scales, torch.ones_like(scales)).float()
    half = middle(bits)
    rounded = (blocks / divisors[..., None]).round().clamp(-half, half - 1) + half
    return BlockWeight(pack(rounded, bits), scales, columns, bits)


def quantize_blocks(
    weight: Tensor, block_size: int, bits: Bits, scale_dtype: torch.dtype = torch.float16
) -> BlockWeight:
    """Round a matrix (N, K) plainly; each weight is off by half its block's scale at most."""
    blocks = cut_blocks(weight, block_size)
    scales = largest_scales(blocks, bits, scale_dtype)
    return round_blocks(blocks, scales, bits, weight.shape[1])


def by_rows(weight: Tensor, quantize: Callable[[Tensor], BlockWeight]) -> BlockWeight:
    """Return what `quantize` makes of a matrix (N, K), given to it some rows at a time.

    Rounding needs several copies of what it rounds, and a table is the largest matrix of all.
    """
    rows = max(1, _PART_WEIGHTS // weight.shape[1])
    parts = [quantize(part) for part in torch.split(weight, rows)]
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        data=torch.cat([part.data for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
    )


def quantize_int8(weight: Tensor, block_size: int) -> BlockWeight:
    """Round a matrix (N, K) to eight bits with fp32 scales.

    A block's scale is its largest magnitude over 127, so that magnitude stays exact.
    """
    return quantize_blocks(weight, block_size, 8, torch.float32)


def dequantize(weight: BlockWeight) -> Tensor:
    """Return the matrix (N, K) in fp32 that the integers stand for."""
    integers = unpack(weight.data, weight.bits).float()  # (N, n_blocks, S)
    zero: Tensor | int = middle(weight.bits)
    if weight.zero_points is not None:
        n_blocks = integers.shape[1]
        zero = unpack(weight.zero_points, weight.bits)[:, :n_blocks, None].float()
    blocks = (integers - zero) * weight.scales.float()[..., None]
    return blocks.flatten(1)[:, : weight.columns]
