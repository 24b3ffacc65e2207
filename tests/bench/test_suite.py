import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from edgetiny.bench.suite import read_suite
from edgetiny.cost import parameters
from edgetiny.errors import ConfigError

ROOT = Path(__file__).parents[2]
SUITES = sorted((ROOT / "bench/suites").glob("*.toml"))
HEAD = """
schema_version = 1
name = "small"
[protocol]
batches = [2]
new_tokens = 8
[cpu]
batches = [3]
"""


def schema(name):
    return json.loads((ROOT / f"docs/schemas/{name}.schema.json").read_text())


@pytest.fixture(scope="session")
def tiny_suite(tiny_design):
    return HEAD + "[[designs]]\n" + tiny_design.removeprefix("schema_version = 1\n")


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_of_ours_loads_and_follows_the_schema(path):
    assert read_suite(path).name == path.stem
    jsonschema.validate(tomllib.loads(path.read_text()), schema("suite"))


def suite(name):
    return read_suite(ROOT / f"bench/suites/{name}.toml")


def test_table_2_has_the_papers_sizes_and_speeds():
    found = [
        (
            design.config.num_hidden_layers,
            design.config.hidden_size,
            round(parameters(design.config).total / 1e6),
            design.reference_tok_per_s,
        )
        for design in suite("depth_vs_width").designs
    ]
    assert found == [
        (40, 1280, 936, 12.81),
        (30, 1536, 997, 17.71),
        (20, 1792, 952, 29.49),
        (15, 2048, 967, 36.79),
        (9, 2560, 959, 57.53),
    ]


def test_table_1_has_the_papers_shares():
    shares = [
        round(100 * parameters(design.config).embedding_and_head_share, 2)
        for design in suite("table1_vocabulary").designs
    ]
    assert shares == pytest.approx([2.97, 6.01, 11.79, 18.07, 26.88, 38.19], abs=0.011)


def test_tables_3_and_12_vary_one_thing():
    heads = [design.config for design in suite("table12_heads").designs]
    assert [(c.num_attention_heads, c.head_dim) for c in heads] == [(14, 128), (28, 64), (56, 32)]
    assert len({parameters(config) for config in heads}) == 1
    for design in suite("table3_expansion").designs:
        config = design.config
        asked = float(design.name.removeprefix("expansion-"))
        assert config.intermediate_size / config.hidden_size == pytest.approx(asked, rel=0.025)
        assert (config.num_hidden_layers, config.head_dim) == (20, 128)


def test_a_device_wins_over_the_protocol(write, tiny_suite):
    found = read_suite(write(tiny_suite))
    assert found.setting("batches", "cpu") == (3,)
    assert found.setting("batches", "cuda") == (2,)
    assert found.setting("new_tokens", "cpu") == 8
    assert found.setting("repeats", "cpu") is None
    assert found.designs[0].config.head_dim == 8
    jsonschema.validate(tomllib.loads(tiny_suite), schema("suite"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "small"', 'nam = "small"', "unknown key nam; did you mean name?"),
        ("batches = [3]", "batch = [3]", r"\[cpu\]: unknown key batch; did you mean batches?"),
        ("hidden_size", "width", r"\[\[designs\]\] number 1: unknown key width"),
        ("[cpu]", "[gpu]", "unknown key gpu"),
        ("schema_version = 1", "schema_version = 2", "schema version 2.*upgrade edgetiny"),
        ("schema_version = 1", "", "no schema_version"),
        ("[[designs]]", "[[shapes]]", r"has no \[\[designs\]\]"),
        ("vocab_size = 97", "", "key vocab_size is missing"),
        ("vocab_size = 97", "vocab_size = 0", "vocab_size must be at least 1, not 0"),
        ("new_tokens = 8", "new_tokens = 1", r"\[protocol\]: new_tokens must be at least 2"),
        ("num_attention_heads = 4", "num_attention_heads = 5", "5 heads do not divide the width"),
        ("batches = [2]", "batches = 2", "batches must be a list"),
        ("batches = [2]", 'precisions = ["int3"]', "must be one of fp32, bf16"),
        ("[protocol]", "[protocol", "not valid TOML"),
    ],
)
def test_what_is_no_suite_is_refused(write, tiny_suite, old, new, message):
    path = write(tiny_suite.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        read_suite(path)
    assert str(path) in str(caught.value)


def test_two_designs_of_one_name_are_refused(write, tiny_suite):
    design = tiny_suite[tiny_suite.index("[[designs]]") :]
    with pytest.raises(ConfigError, match="two designs are called one"):
        read_suite(write(tiny_suite + design))


def test_a_missing_suite_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_suite(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_suite(tmp_path)
