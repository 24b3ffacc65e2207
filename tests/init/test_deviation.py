import math
import typing
from dataclasses import replace

import pytest

from edgetiny.checkpoint import parameter_shapes
from edgetiny.config.model import InitMethod
from edgetiny.init import RandomTensors, deviation

SIGMA = 0.03
KINDS = ("q", "k", "v", "o", "gate", "up", "down")
METHODS = typing.get_args(InitMethod)


@pytest.fixture(scope="session")
def shape(tiny_config):
    """Four layers, 64 wide: large enough that a matrix shows its deviation."""
    return replace(
        tiny_config,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        tie_word_embeddings=False,
    )


def factors(method, shape):
    """Return, by projection, the deviation of each layer over sigma."""
    found = {}
    for kind in KINDS:
        room = "mlp" if kind in ("gate", "up", "down") else "self_attn"
        names = [f"model.layers.{layer}.{room}.{kind}_proj.weight" for layer in range(4)]
        assert set(names) <= set(parameter_shapes(shape))
        found[kind] = [deviation(name, shape, method, SIGMA) / SIGMA for name in names]
    return found


def expect(found, **others):
    """Compare with the given rows; a projection that is not given is constant."""
    for kind in KINDS:
        assert found[kind] == pytest.approx(others.get(kind, [1.0] * 4)), kind


def test_constant_is_the_same_everywhere(shape):
    expect(factors("constant", shape))


def test_gpt2_scales_what_adds_to_the_residual_stream(shape):
    scaled = [1 / math.sqrt(8)] * 4
    expect(factors("gpt2", shape), o=scaled, down=scaled)


def test_gpt2_as_the_paper_has_it_scales_every_projection(shape):
    expect(factors("gpt2-paper", shape), **dict.fromkeys(KINDS, [1 / math.sqrt(8)] * 4))


def test_internlm_as_the_paper_has_it_scales_o_and_gate(shape):
    scaled = [1 / math.sqrt(8)] * 4
    expect(factors("internlm", shape), o=scaled, gate=scaled)


def test_internlm_as_its_code_has_it_scales_by_the_layer(shape):
    scaled = [1 / math.sqrt(2), 1 / 2, 1 / math.sqrt(6), 1 / math.sqrt(8)]
    expect(factors("internlm-code", shape), o=scaled, down=scaled)


def test_depth_adaptive_begins_apart_and_ends_at_sigma(shape):
    high, low = math.sqrt(2), 1 / math.sqrt(2)
    falling = [high, high + (1 - high) / 3, high + 2 * (1 - high) / 3, 1.0]
    rising = [low, low + (1 - low) / 3, low + 2 * (1 - low) / 3, 1.0]
    expect(factors("depth_adaptive", shape), q=falling, k=falling, v=rising, o=rising)


def test_neox_follows_width_and_depth_and_no_sigma(shape):
    found = factors("neox", shape)
    for kind in KINDS:
        is_output = kind in ("o", "down")
        std = 2 / (4 * 8) if is_output else math.sqrt(2 / 320)
        assert found[kind] == pytest.approx([std / SIGMA] * 4), kind


def test_one_layer_is_constant_where_depth_decides(shape):
    single = replace(shape, num_hidden_layers=1)
    for kind in ("q", "v"):
        name = f"model.layers.0.self_attn.{kind}_proj.weight"
        assert deviation(name, single, "depth_adaptive", SIGMA) == SIGMA


@pytest.mark.parametrize("method", METHODS)
def test_what_is_drawn_has_the_deviation(method, shape):
    tensors = RandomTensors(shape, std=SIGMA, seed=5, method=method)
    for name, tensor in tensors.items():
        if tensor.dim() == 2:
            std = deviation(name, shape, method, SIGMA)
            # At least 4096 draws: their deviation varies by 1.1%.
            assert tensor.std().item() == pytest.approx(std, rel=0.05), name
            if "layers" not in name:
                expected = math.sqrt(2 / 320) if method == "neox" else SIGMA
                assert std == pytest.approx(expected)


def test_methods_differ_by_factors_only(shape):
    name = "model.layers.0.self_attn.q_proj.weight"
    constant, other = (
        RandomTensors(shape, std=SIGMA, seed=5, method=method)[name]
        for method in ("constant", "depth_adaptive")
    )
    assert (other / constant).mean().item() == pytest.approx(math.sqrt(2), rel=1e-5)
