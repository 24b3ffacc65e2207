import pytest
import torch

from edgetiny.quantize import dequantize
from edgetiny.quantize.blocks import quantize_blocks
from edgetiny.quantize.clip import quantize_clipped
from edgetiny.quantize.hqq import quantize_hqq


def matrix(rows=16, columns=100):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


def squared_error(quantized, weight, energy=1.0):
    return float(((dequantize(quantized) - weight).square() * energy).sum())


@pytest.mark.parametrize("block_size", [32, 128])
def test_clipping_leaves_less_squared_error_than_the_largest_magnitude(block_size):
    weight = matrix()
    plain = squared_error(quantize_blocks(weight, block_size, 4), weight)
    assert squared_error(quantize_clipped(weight, block_size), weight) < 0.95 * plain


def test_columns_of_more_energy_get_less_error():
    weight = matrix()
    energy = torch.ones(100)
    energy[::7] = 100
    plain = squared_error(quantize_clipped(weight, 32), weight, energy)
    assert squared_error(quantize_clipped(weight, 32, energy), weight, energy) < plain


@pytest.mark.parametrize("quantize", [quantize_clipped, quantize_hqq])
def test_scales_stay_positive_and_zeros_stay_zero(quantize):
    weight = matrix()
    weight[3] = 0
    quantized = quantize(weight, 32)
    assert (quantized.scales >= 0).all()
    assert torch.equal(dequantize(quantized)[3], torch.zeros(100))


def test_hqq_leaves_less_error_on_most_weights():
    weight = matrix(64, 128)
    median = [
        float((dequantize(q) - weight).abs().median())
        for q in (quantize_hqq(weight, 64), quantize_blocks(weight, 64, 4))
    ]
    assert median[0] < median[1]


def test_hqq_does_not_depend_on_the_size_of_the_weights():
    weight = matrix()
    small, large = quantize_hqq(weight, 32), quantize_hqq(weight * 64, 32)
    assert (small.data == large.data).float().mean() > 0.99
