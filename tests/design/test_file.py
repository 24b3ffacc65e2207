import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from edgetiny.design import PRESETS, read_design, to_toml
from edgetiny.errors import ConfigError

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/design.schema.json").read_text())


def test_what_is_left_out_follows_from_the_rest(write, tiny_design):
    design = read_design(write(tiny_design))
    config = design.config
    assert (design.name, design.source, design.reference_tok_per_s) == ("one", "", None)
    assert (config.head_dim, config.num_key_value_heads) == (8, 4)
    assert (config.max_position_embeddings, config.rope_theta) == (2048, 10_000.0)
    assert config.tie_word_embeddings
    jsonschema.validate(tomllib.loads(tiny_design), SCHEMA)


def test_given_keys_count(write, tiny_design):
    text = tiny_design + "num_key_value_heads = 2\nhead_dim = 16\nrope_theta = 500000\n"
    config = read_design(write(text + 'source = "a book"\n')).config
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (2, 16, 5e5)
    jsonschema.validate(tomllib.loads(text), SCHEMA)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_is_what_is_read(name, write):
    text = to_toml(PRESETS[name])
    assert read_design(write(text)) == PRESETS[name]
    jsonschema.validate(tomllib.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden_size", "width", "unknown key width"),
        ("vocab_size = 97", "", "key vocab_size is missing"),
        ("vocab_size = 97", "vocab_size = 0", "vocab_size must be at least 1"),
        ("num_attention_heads = 4", "num_attention_heads = 5", "5 heads do not divide the width"),
        ("vocab_size", "num_key_value_heads = 3\nvocab_size", "3 key/value heads do not divide"),
        ("schema_version = 1", "schema_version = 2", "schema version 2.*upgrade edgetiny"),
        ("schema_version = 1", "", "no schema_version; is it a design"),
        ("97", "", "not valid TOML"),
    ],
)
def test_what_is_no_design_is_refused(write, tiny_design, old, new, message):
    path = write(tiny_design.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        read_design(path)
    assert str(path) in str(caught.value)


def test_a_missing_design_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"design .*none.toml does not exist"):
        read_design(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_design(tmp_path)
