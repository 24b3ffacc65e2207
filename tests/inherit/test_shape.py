from dataclasses import replace
from pathlib import Path

import pytest

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.model import InheritConfig
from edgetiny.design import Design, to_toml
from edgetiny.errors import ConfigError
from edgetiny.inherit.shape import student_shape

MHA = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=8,
    head_dim=8,
)
GQA = replace(MHA, num_attention_heads=12, num_key_value_heads=4)


def shape(source, **settings):
    paths = {"source": Path("source"), "data": Path("data"), "out": Path("out")}
    return student_shape(source, InheritConfig(**paths, **settings))


def test_what_is_not_given_stays():
    assert shape(GQA) == GQA
    small = shape(GQA, hidden_size=17, num_hidden_layers=1, intermediate_size=5)
    assert small == replace(GQA, hidden_size=17, num_hidden_layers=1, intermediate_size=5)


@pytest.mark.parametrize(
    ("source", "given", "heads"),
    [
        (MHA, {"num_attention_heads": 5}, (5, 5)),
        (MHA, {"num_key_value_heads": 3}, (3, 3)),
        (GQA, {"num_attention_heads": 6}, (6, 2)),  # two whole groups
        (GQA, {"num_attention_heads": 8}, (8, 4)),  # two query heads of each group
        (GQA, {"num_key_value_heads": 1}, (3, 1)),
        (GQA, {"num_attention_heads": 2, "num_key_value_heads": 2}, (2, 2)),
    ],
)
def test_heads_not_given_follow_from_those_given(source, given, heads):
    found = shape(source, **given)
    assert (found.num_attention_heads, found.num_key_value_heads) == heads
    assert found.head_dim == source.head_dim


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_size": 33}, "--hidden-size 33 .*at most 32"),
        ({"num_hidden_layers": 5}, "--num-hidden-layers 5 .*at most 4"),
        ({"intermediate_size": 45}, "--intermediate-size 45 .*at most 44"),
        ({"num_attention_heads": 24}, "--num-attention-heads 24 .*at most 12"),
        ({"num_key_value_heads": 5}, "--num-key-value-heads 5 .*at most 4"),
        ({"num_attention_heads": 12, "num_key_value_heads": 6}, "--num-key-value-heads 6 .*most 4"),
        ({"num_attention_heads": 7}, "multiple of 4, or of 3"),
        ({"num_attention_heads": 5, "num_key_value_heads": 2}, "multiple of 2"),
        ({"num_attention_heads": 12, "num_key_value_heads": 2}, "edgetiny gqa"),
    ],
)
def test_an_axis_out_of_reach_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        shape(GQA, **given)


@pytest.fixture
def design(tmp_path):
    def write(**settings):
        path = tmp_path / "student.toml"
        path.write_text(to_toml(Design("student", "", replace(MHA, **settings))))
        return path

    return write


def test_a_design_gives_every_axis_and_the_rest_stays(design):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 20}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    source = replace(MHA, rope_theta=5e5, max_position_embeddings=64)
    assert shape(source, to=design(**sizes)) == replace(source, **sizes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 96}, "96 rows, the source 97; give --tokenizer"),
        ({"head_dim": 4}, "head_dim = 4, the source 8"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False, the source True"),
        ({"hidden_size": 33}, "--hidden-size 33 .*at most 32"),
        ({"num_key_value_heads": 2}, "edgetiny gqa"),
    ],
)
def test_a_design_out_of_reach_is_refused(design, settings, message):
    with pytest.raises(ConfigError, match=message):
        shape(MHA, to=design(**settings))


def test_a_design_and_an_axis_are_one_too_many():
    with pytest.raises(ConfigError, match="leave out --hidden-size, or --to"):
        shape(MHA, to=Path("student.toml"), hidden_size=16)
