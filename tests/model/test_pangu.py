"""The options of PanGu-pi: series activation and augmented shortcut."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes
from edgetiny.cost import parameters
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.init import RandomTensors
from edgetiny.model import build_model, load_model

OPTIONS = {
    "series": {"series_activation": 2},
    "shortcut": {"augmented_shortcut": 3},
    "both": {"series_activation": 3, "augmented_shortcut": 1},
}
SHAPE = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)


@pytest.fixture
def tokens():
    return torch.randint(0, 97, (2, 11), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_at_initialisation_it_is_the_plain_model_bit_for_bit(tokens, options, dtype):
    plain = build_model(SHAPE, RandomTensors(SHAPE, std=0.3, seed=0), dtype)
    shape = replace(SHAPE, **options)
    ours = build_model(shape, RandomTensors(shape, std=0.3, seed=0), dtype)
    assert torch.equal(ours(tokens), plain(tokens))


@torch.no_grad()
def test_the_block_is_what_the_paper_says(tokens, make_checkpoint):
    model = load_model(make_checkpoint(series_activation=2, augmented_shortcut=3))
    layer = model.model.layers[0]
    x = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(2))
    gate = layer.mlp.gate_proj(x)
    first, second = layer.mlp.series
    summed = F.silu(first.scale * gate + first.shift) + F.silu(second.scale * gate + second.shift)
    expected = layer.mlp.down_proj(summed * layer.mlp.up_proj(x))
    torch.testing.assert_close(layer.mlp(x), expected, rtol=0, atol=1e-5)
    inner = F.gelu(x @ layer.shortcut.reduce.weight.T)
    torch.testing.assert_close(layer.shortcut(x), inner @ layer.shortcut.expand.weight.T)


def test_every_number_of_an_option_is_trained(tokens):
    shape = replace(SHAPE, series_activation=2, augmented_shortcut=3)
    model = build_model(shape, RandomTensors(shape, std=0.3, seed=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):  # the first step leaves `reduce` alone: what it feeds is still zero
        optimizer.zero_grad()
        F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    start = RandomTensors(shape, std=0.3, seed=0)
    for name, tensor in model.tensors().items():
        if ".series." in name or ".shortcut." in name:
            assert (tensor != start[name]).all(), name


@pytest.mark.parametrize("bias", ["none", "qkv", "qkvo"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_checkpoint_comes_back_as_it_was(make_checkpoint, options, bias, tokens):
    checkpoint = make_checkpoint(bias=bias, **options)
    config = Checkpoint.open(checkpoint.path).config
    assert config == checkpoint.config
    assert {"bias": bias} | options == {name: getattr(config, name) for name in ("bias", *options)}
    model = load_model(checkpoint)
    assert model.tensors().keys() == parameter_shapes(config).keys()
    assert parameters(config).total == sum(each.numel() for each in model.parameters())


def test_a_plain_configuration_says_nothing_of_the_options():
    hf = SHAPE.to_hf()
    assert hf["model_type"] == "llama"
    assert not {"series_activation", "augmented_shortcut", "bias"} & hf.keys()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_transformers_refuses_it_even_if_told_to_read_a_llama(make_checkpoint, options):
    transformers = pytest.importorskip("transformers")
    path = make_checkpoint(**options).path
    with pytest.raises(ValueError, match="edgetiny"):
        transformers.AutoModelForCausalLM.from_pretrained(path)
    with pytest.raises(KeyError, match="edgetiny-silu"):
        transformers.LlamaForCausalLM.from_pretrained(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"series_activation": 0}, "series_activation must be 1 to 8"),
        ({"series_activation": 9}, "series_activation must be 1 to 8"),
        ({"augmented_shortcut": -1}, "augmented_shortcut must be 0 to hidden_size 32"),
        ({"augmented_shortcut": 33}, "augmented_shortcut must be 0 to hidden_size 32"),
    ],
)
def test_options_out_of_bounds_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        replace(SHAPE, **options)


@pytest.mark.parametrize(
    ("key", "value"),
    [("series_activation", None), ("augmented_shortcut", 1.5), ("bias", True), ("hidden_act", "x")],
)
def test_a_damaged_configuration_is_named(key, value):
    raw = replace(SHAPE, series_activation=2).to_hf() | {key: value}
    with pytest.raises(CheckpointError, match=key):
        ModelConfig.from_hf(raw)
