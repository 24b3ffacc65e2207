import torch

from edgetiny.quantize.channels import dequantize_channels, quantize_channels


def test_every_weight_is_off_by_half_its_rows_scale_at_most():
    weight = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    quantized = quantize_channels(weight)
    error = (dequantize_channels(quantized) - weight).abs()
    assert (error <= quantized.scales[:, None] * 0.5001).all()
    assert quantized.data.dtype == torch.int8
    assert quantized.data.min() >= -127


def test_rows_do_not_see_each_other():
    weight = torch.randn(4, 16)
    assert torch.equal(quantize_channels(weight).data[2:3], quantize_channels(weight[2:3]).data)


def test_size_counts_a_byte_per_weight_and_a_scale_per_row():
    assert quantize_channels(torch.randn(10, 64)).size_bytes == 10 * 64 + 10 * 4
