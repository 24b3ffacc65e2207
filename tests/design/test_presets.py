from pathlib import Path

import pytest

from edgetiny.bench.suite import read_suite
from edgetiny.cost import parameters
from edgetiny.design import PRESETS, open_design, preset, to_toml
from edgetiny.errors import ConfigError

SUITES = Path(__file__).parents[2] / "bench/suites"


def percent(name):
    """Return PEHF, the share of embedding and head, in percent."""
    return 100 * parameters(preset(name).config).embedding_and_head_share


def millions(name):
    return parameters(preset(name).config).total / 1e6


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("table1-8k", 2.97),
        ("table1-16k", 6.01),
        ("table1-32k", 11.79),
        ("table1-48k", 18.07),
        ("table1-72k", 26.88),
        ("table1-100k", 38.19),
    ],
)
def test_table_1_has_the_published_share(name, published):
    assert abs(percent(name) - published) < 0.01


@pytest.mark.parametrize(
    ("suite", "prefix"),
    [
        ("table1_vocabulary", "table1-"),
        ("depth_vs_width", "table2-"),
        ("table3_expansion", "table3-"),
        ("table12_heads", "table12-"),
    ],
)
def test_presets_are_the_rows_of_the_suites(suite, prefix):
    rows = read_suite(SUITES / f"{suite}.toml").designs
    presets = [design for name, design in PRESETS.items() if name.startswith(prefix)]
    assert [design.config for design in presets] == [row.config for row in rows]
    speeds = [row.reference_tok_per_s for row in rows]
    assert [design.reference_tok_per_s for design in presets] == speeds


def test_table_9_as_stated():
    shapes = {
        "pangu-pi-1b": (2048, 12, 100_883),
        "pangu-pi-1b-pro": (1792, 21, 48_000),
        "pangu-pi-1.5b-pro": (2048, 22, 48_000),
    }
    for name, shape in shapes.items():
        config = preset(name).config
        assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == shape
        assert config.head_dim == 128
    assert round(millions("pangu-pi-1b-pro") / 1e3, 1) == 1.0


def test_the_papers_sizes_follow_from_the_inferred_ffn_alone():
    assert round(millions("pangu-pi-1.5b-pro") / 1e3, 2) == 1.33
    assert round(percent("pangu-pi-1b"), 1) == 40.1
    # Table 10: 1.5B, 1.4B with 8 groups; Figure 3: 36.8%.
    assert round(millions("pangu-pi-1.5b-pro-implied") / 1e3, 1) == 1.5
    assert round(millions("pangu-pi-1.5b-pro-implied-gqa") / 1e3, 1) == 1.4
    assert preset("pangu-pi-1.5b-pro-implied-gqa").config.num_key_value_heads == 8
    assert round(percent("pangu-pi-1b-implied"), 1) == 36.8


def test_mobilellm_has_its_published_sizes():
    assert round(millions("mobilellm-125m"), 1) == 124.6
    assert round(millions("mobilellm-350m"), 1) == 345.4


def test_a_design_opens_by_name_or_by_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(to_toml(preset("table2-9x2560")))
    assert open_design(path) == open_design(Path("table2-9x2560"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilellm-125", "did you mean mobilellm-125m?"),
        ("zzz", "known: pangu-pi-1b, .*, mobilellm-350m"),
        ("folder/mobilellm-125m", "does not exist"),
        ("student.toml", "does not exist"),
    ],
)
def test_what_is_neither_is_named(name, message):
    with pytest.raises(ConfigError, match=message):
        open_design(Path(name))
