import pytest
import torch

from edgetiny.checkpoint import parameter_shapes
from edgetiny.export.heads import pad_heads, padded_head_dim, rotary_tables
from edgetiny.model import build_model, rotary_frequencies


@pytest.mark.parametrize("head_dim", [2, 8, 12, 16, 24, 64])
def test_padded_shapes_are_those_of_the_wider_model(head_dim, make_checkpoint):
    checkpoint = make_checkpoint(head_dim=head_dim, num_key_value_heads=2, bias="qkvo")
    config, tensors = pad_heads(checkpoint.config, checkpoint.state_dict())
    assert config.head_dim == padded_head_dim(head_dim) >= head_dim
    assert config.head_dim % 16 == 0
    assert {name: tuple(tensors[name].shape) for name in tensors} == parameter_shapes(config)


def test_a_width_that_fits_is_left_alone(make_checkpoint):
    checkpoint = make_checkpoint(head_dim=16)
    tensors = checkpoint.state_dict()
    assert pad_heads(checkpoint.config, tensors) == (checkpoint.config, tensors)


def test_padding_adds_zeros_only_and_keeps_each_half_in_its_half(make_checkpoint):
    checkpoint = make_checkpoint(head_dim=12)
    _, tensors = pad_heads(checkpoint.config, checkpoint.state_dict())
    name = "model.layers.0.self_attn.q_proj.weight"
    wide = tensors[name].view(4, 2, 8, 32)  # (heads, halves, wide half, hidden)
    narrow = checkpoint.tensor(name).view(4, 2, 6, 32)
    assert torch.equal(wide[:, :, :6], narrow)
    assert not wide[:, :, 6:].any()


def test_at_the_first_position_the_padded_model_is_the_same_model(make_checkpoint):
    # One token attends to itself alone, so neither scale nor rotation matter.
    checkpoint = make_checkpoint(head_dim=12, bias="qkvo")
    padded = build_model(*pad_heads(checkpoint.config, checkpoint.state_dict()))
    plain = build_model(checkpoint.config, checkpoint.state_dict())
    tokens = torch.tensor([[5]])
    torch.testing.assert_close(padded(tokens), plain(tokens))


def test_tables_turn_each_channel_by_its_frequency(make_checkpoint):
    config = make_checkpoint(head_dim=12).config
    cos, sin = rotary_tables(config, 20)
    angles = 7 * rotary_frequencies(config)
    torch.testing.assert_close(cos[7, :6], angles.cos())
    torch.testing.assert_close(sin[7, :6], angles.sin())
    assert cos.shape == sin.shape == (20, 8)
