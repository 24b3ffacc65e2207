import pytest
import torch

from edgetiny.export.heads import pad_rows, rotary_tables
from edgetiny.forecast import padded_head_dim
from edgetiny.model import rotary_frequencies
from edgetiny.quantize import dequantize, dequantize_channels
from edgetiny.quantize.blocks import quantize_blocks
from edgetiny.quantize.channels import quantize_channels


@pytest.mark.parametrize(("head_dim", "wide"), [(2, 16), (12, 16), (16, 16), (40, 48), (64, 64)])
def test_widths_are_filled_up_to_what_the_attention_takes(head_dim, wide):
    assert padded_head_dim(head_dim) == wide


@pytest.fixture
def matrix():
    return torch.randn(3 * 12, 40, generator=torch.Generator().manual_seed(0))


def is_padded(wide, narrow):
    halves = wide.view(3, 2, 8, 40)
    assert torch.equal(halves[:, :, :6], narrow.view(3, 2, 6, 40))
    assert not halves[:, :, 6:].any()


def test_padding_adds_zeros_only_and_keeps_each_half_in_its_half(matrix):
    is_padded(pad_rows(matrix, 12, 16), matrix)
    assert pad_rows(matrix[:, 0], 12, 16).shape == (48,)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_blocks_are_padded_as_what_they_stand_for(bits, matrix):
    stored = quantize_blocks(matrix, 16, bits)
    is_padded(dequantize(pad_rows(stored, 12, 16)), dequantize(stored))


def test_rows_of_channels_are_padded_as_what_they_stand_for(matrix):
    stored = quantize_channels(matrix)
    is_padded(dequantize_channels(pad_rows(stored, 12, 16)), dequantize_channels(stored))


def test_tables_turn_each_channel_by_its_frequency(make_checkpoint):
    config = make_checkpoint(head_dim=12).config
    cos, sin = rotary_tables(config, 20)
    angles = 7 * rotary_frequencies(config)
    torch.testing.assert_close(cos[7, :6], angles.cos())
    torch.testing.assert_close(sin[7, :6], angles.sin())
    assert cos.shape == sin.shape == (20, 8)
