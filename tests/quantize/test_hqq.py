import torch

from edgetiny.quantize import dequantize
from edgetiny.quantize.blocks import quantize_blocks
from edgetiny.quantize.hqq import quantize_hqq


def matrix(rows=16, columns=100):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


def test_scales_stay_positive_and_zeros_stay_zero():
    weight = matrix()
    weight[3] = 0
    quantized = quantize_hqq(weight, 32)
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
