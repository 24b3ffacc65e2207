import pytest
import torch

from edgetiny.quantize import dequantize
from edgetiny.quantize.blocks import quantize_blocks, unpack
from edgetiny.quantize.gptq import quantize_gptq


def case(rows=24, columns=80, n_inputs=400):
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(n_inputs, columns, generator=generator) @ (mix + 0.5 * torch.eye(columns))
    return torch.randn(rows, columns, generator=generator), inputs


def output_error(quantized, weight, inputs):
    return float((inputs @ (dequantize(quantized) - weight).t()).square().sum())


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("columns", [80, 192])
def test_products_are_closer_than_with_rounding_to_the_nearest(block_size, columns):
    weight, inputs = case(columns=columns)
    error = output_error(quantize_gptq(weight, inputs.t() @ inputs, block_size), weight, inputs)
    assert error < 0.8 * output_error(quantize_blocks(weight, block_size, 4), weight, inputs)


def test_without_correlation_it_is_rounding_to_the_nearest():
    weight, _ = case()
    gptq, nearest = quantize_gptq(weight, torch.eye(80), 32), quantize_blocks(weight, 32, 4)
    assert torch.equal(gptq.data, nearest.data)
    assert torch.equal(gptq.scales, nearest.scales)


def test_inputs_that_are_always_zero_are_no_obstacle():
    weight, inputs = case()
    inputs[:, [3, 50]] = 0
    quantized = quantize_gptq(weight, inputs.t() @ inputs, 32)
    error = (dequantize(quantized) - weight).abs()
    assert (error[:, 3] <= quantized.scales[:, 0] * 0.5001).all()
    assert (error[:, 50] <= quantized.scales[:, 1] * 0.5001).all()
    assert torch.isfinite(dequantize(quantized)).all()


def test_padding_stands_for_zero():
    weight, inputs = case()
    quantized = quantize_gptq(weight, inputs.t() @ inputs, 32)
    assert quantized.data.shape == (24, 3, 16)
    assert (unpack(quantized.data, 4)[:, 2, 16:] == 8).all()
