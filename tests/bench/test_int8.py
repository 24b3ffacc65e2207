import pytest
import torch

from edgetiny.bench.int8 import DynamicInt8, int8_model
from edgetiny.init import RandomTensors
from edgetiny.model import build_model


def test_a_product_is_off_by_the_rounding_alone():
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(shape, generator=generator) for shape in ((24, 40), (2, 3, 40)))
    bias = torch.arange(24.0)
    exact = torch.nn.functional.linear(x, weight, bias)
    found = DynamicInt8(weight, bias)(x)
    assert found.shape == exact.shape
    # Two operands, each off by half a 127th of its row's largest at most, in 40 products.
    half = weight.abs().amax() * x.abs().amax() / 127
    assert (found - exact).abs().max() < half * 40**0.5
    assert (found - exact).abs().max() > 0


def test_whole_numbers_up_to_127_are_exact():
    weight = torch.tensor([[127.0, -3.0] * 8, [0.0] * 16])
    x = torch.tensor([[127.0, 5.0] * 8])
    found = DynamicInt8(weight, None)(x)
    assert torch.allclose(found, torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_model_is_the_fp32_one_but_for_rounding(make_checkpoint, is_tied):
    config = make_checkpoint(bias="qkv", tie_word_embeddings=is_tied).config
    tensors = RandomTensors(config, std=0.3, seed=0)
    ids = torch.tensor([[5, 9, 1, 40]])
    with torch.inference_mode():
        exact, found = build_model(config, tensors)(ids), int8_model(config, tensors)(ids)
    assert torch.corrcoef(torch.stack([exact.flatten(), found.flatten()]))[0, 1] > 0.99


def test_every_matrix_product_is_in_bytes(make_checkpoint):
    config = make_checkpoint().config
    model = int8_model(config, RandomTensors(config, std=0.02, seed=0))
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    held = [module for module in model.modules() if isinstance(module, DynamicInt8)]
    assert len(held) == 7 * config.num_hidden_layers + 1
    assert {module.weight.dtype for module in held} == {torch.int8}
