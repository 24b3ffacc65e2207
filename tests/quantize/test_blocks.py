from dataclasses import replace

import pytest
import torch

from edgetiny.quantize import ZERO_POINT, dequantize, quantize_int8
from edgetiny.quantize.blocks import by_rows, pack, quantize_blocks, unpack


@pytest.mark.parametrize("columns", [32, 44, 100, 172])
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_every_weight_is_off_by_half_a_scale_at_most(columns, block_size):
    weight = torch.randn(7, columns, generator=torch.Generator().manual_seed(columns))
    quantized = quantize_int8(weight, block_size)
    assert dequantize(quantized).shape == weight.shape
    scales = quantized.scales.repeat_interleave(block_size, dim=1)[:, :columns]
    assert ((dequantize(quantized) - weight).abs() <= scales * 0.5001).all()


def test_the_largest_weight_of_a_block_is_exact():
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    error = (dequantize(quantize_int8(weight, 32)) - weight).abs().view(5, 2, 32)
    largest = weight.abs().view(5, 2, 32).argmax(dim=-1, keepdim=True)
    assert error.gather(-1, largest).max() < 1e-6


def test_the_last_block_is_filled_up_with_zeros():
    quantized = quantize_int8(torch.ones(3, 20), 16)
    assert quantized.data.shape == (3, 2, 16)
    assert (quantized.data[:, 1, 4:] == ZERO_POINT).all()


@pytest.mark.parametrize("value", [0.0, 1e-45])
def test_blocks_near_zero_come_back_as_zero_without_nan(value):
    quantized = quantize_int8(torch.full((2, 32), value), 32)
    assert torch.equal(dequantize(quantized), torch.zeros(2, 32))


def test_what_was_quantized_once_stays_the_same():
    once = dequantize(quantize_int8(torch.randn(4, 96), 32))
    torch.testing.assert_close(dequantize(quantize_int8(once, 32)), once)


def test_half_precision_weights_are_rounded_once():
    weight = torch.randn(4, 32).half()
    half, full = quantize_int8(weight, 32), quantize_int8(weight.float(), 32)
    assert torch.equal(half.data, full.data)
    assert torch.equal(half.scales, full.scales)


def test_size_counts_data_and_scales():
    quantized = quantize_int8(torch.randn(10, 64), 32)
    assert quantized.size_bytes == 10 * 64 + 10 * 2 * 4


@pytest.mark.parametrize("columns", [32, 44, 172])
@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
def test_half_precision_scales_cut_nothing_off(columns, block_size, bits, size):
    weight = torch.randn(7, columns, generator=torch.Generator().manual_seed(columns)) * size
    quantized = quantize_blocks(weight, block_size, bits)
    assert quantized.scales.dtype == torch.float16
    assert quantized.block_size == block_size
    scales = quantized.scales.float().repeat_interleave(block_size, dim=1)[:, :columns]
    assert ((dequantize(quantized) - weight).abs() <= scales * 0.5001).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [1, 2, 7, 32])
def test_packing_is_undone_by_unpacking(bits, width):
    integers = torch.randint(0, 1 << bits, (3, 5, width), dtype=torch.uint8)
    assert torch.equal(unpack(pack(integers, bits), bits)[..., :width], integers)


def test_the_first_of_two_halves_is_the_low_one():
    assert pack(torch.tensor([[1, 2, 3, 4]]), 4).tolist() == [[0x21, 0x43]]


def test_four_bits_and_half_scales_in_blocks_of_32_are_four_and_a_half_bits():
    quantized = quantize_blocks(torch.randn(10, 64), 32, 4)
    assert quantized.size_bytes * 8 == 10 * 64 * 4.5


def test_padding_of_four_bits_stands_for_zero():
    quantized = quantize_blocks(torch.ones(3, 20), 16, 4)
    assert (unpack(quantized.data, 4)[:, 1, 4:] == 8).all()


def test_rows_in_parts_are_the_rows_at_once():
    weight = torch.randn(300, 2**15, generator=torch.Generator().manual_seed(0))
    parts = []

    def quantize(part):
        parts.append(len(part))
        return quantize_blocks(part, 32, 4)

    found, whole = by_rows(weight, quantize), quantize_blocks(weight, 32, 4)
    assert parts == [128, 128, 44]
    assert torch.equal(found.data, whole.data)
    assert torch.equal(found.scales, whole.scales)
    assert (found.bits, found.columns) == (4, 2**15)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_move_what_stands_for_zero(bits):
    quantized = quantize_blocks(torch.randn(3, 96), 32, bits)
    zero_points = torch.tensor([[1, 2, 3]] * 3, dtype=torch.uint8)
    moved = replace(quantized, zero_points=pack(zero_points, bits))
    shift = (2 ** (bits - 1) - zero_points) * quantized.scales.float()  # (3, 3)
    wanted = dequantize(quantized) + shift.repeat_interleave(32, dim=1)
    torch.testing.assert_close(dequantize(moved), wanted)
