import pytest

from edgetiny.checkpoint import ModelConfig, RopeScaling, parameter_shapes
from edgetiny.errors import CheckpointError, ConfigError

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
}


@pytest.mark.parametrize("bias", ["none", "qkv", "qkvo"])
@pytest.mark.parametrize("eos", [(), (2,), (2, 5)])
def test_config_json_round_trip(bias, eos):
    scaling = RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    )
    config = ModelConfig(**SIZES, bias=bias, eos_token_ids=eos, rope_scaling=scaling)
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_transformers_5_spelling_of_the_rotary_base_is_read():
    raw = ModelConfig(**SIZES, rope_theta=5e5).to_hf()
    del raw["rope_theta"], raw["rope_scaling"]
    assert ModelConfig.from_hf(raw).rope_theta == 5e5


def test_groups_that_do_not_divide_name_the_valid_ones():
    with pytest.raises(ConfigError, match="choose from 1, 2, 4"):
        ModelConfig(**SIZES | {"num_key_value_heads": 3})


def test_odd_head_dim_is_refused():
    with pytest.raises(ConfigError, match="head_dim"):
        ModelConfig(**SIZES | {"head_dim": 7})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "gpt2"),
        ("hidden_act", "gelu"),
        ("mlp_bias", True),
        ("quantization_config", {"bits": 4}),
        ("rope_parameters", {"rope_type": "yarn"}),
        ("hidden_size", "32"),
        ("num_key_value_heads", 3),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused_by_name(key, value):
    raw = ModelConfig(**SIZES).to_hf() | {key: value}
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ModelConfig.from_hf(raw)


def test_a_sliding_window_bounds_the_context():
    raw = ModelConfig(**SIZES).to_hf() | {"model_type": "mistral", "sliding_window": 100}
    assert ModelConfig.from_hf(raw).max_position_embeddings == 100


def test_qwen2_sliding_window_counts_only_where_it_is_used():
    raw = ModelConfig(**SIZES, bias="qkv").to_hf() | {"sliding_window": 100}
    assert ModelConfig.from_hf(raw).max_position_embeddings == 2048
    assert ModelConfig.from_hf(raw | {"use_sliding_window": True}).max_position_embeddings == 100


def test_a_tied_head_has_no_tensor_of_its_own():
    assert "lm_head.weight" not in parameter_shapes(ModelConfig(**SIZES))
    untied = parameter_shapes(ModelConfig(**SIZES, tie_word_embeddings=False))
    assert untied["lm_head.weight"] == (97, 32)


@pytest.mark.parametrize("key", ["max_position_embeddings", "rms_norm_eps", "rope_theta"])
def test_a_number_may_be_null_and_nothing_else(key):
    whole = ModelConfig(**SIZES).to_hf()
    raw = {name: value for name, value in whole.items() if name != key}
    assert ModelConfig.from_hf(raw | {key: None}) == ModelConfig.from_hf(raw)
    with pytest.raises(CheckpointError, match=f"{key} must be a number, not 'many'"):
        ModelConfig.from_hf(raw | {key: "many"})
