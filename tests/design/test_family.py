from fractions import Fraction

import pytest

from edgetiny.config.design import DesignConfig
from edgetiny.cost import parameters
from edgetiny.design.family import (
    Rules,
    family,
    ffn_width,
    nearest,
    objections,
    refusal,
    target_depth,
)
from edgetiny.errors import ConfigError

PAPERS_1B = 960_000_000
"""What the paper calls 1B: from it both its tables of shapes follow."""


def sizes(config):
    return config.num_hidden_layers, config.hidden_size, config.intermediate_size


@pytest.mark.parametrize(
    ("vocabulary", "depth", "share"),
    [
        (8_000, 24, 2.97),
        (16_000, 23, 6.01),
        (32_000, 22, 11.79),
        (48_000, 20, 18.07),
        (72_000, 18, 26.88),
        (100_883, 15, 38.19),
    ],
)
def test_a_width_gives_the_depths_of_table_1(vocabulary, depth, share):
    rules = Rules(n_parameters=PAPERS_1B, vocab_size=vocabulary, width=1792)
    [shape] = family(rules, tied=False)
    assert sizes(shape) == (depth, 1792, 4864)
    assert abs(100 * parameters(shape).embedding_and_head_share - share) < 0.01


@pytest.mark.parametrize(
    "published",
    [(40, 1280, 3584), (30, 1536, 4096), (20, 1792, 4864), (15, 2048, 5632), (9, 2560, 6912)],
)
def test_a_depth_gives_the_widths_of_table_2(published):
    rules = Rules(n_parameters=PAPERS_1B, vocab_size=48_000, depth=published[0])
    shape = nearest(family(rules, tied=False), rules)
    assert sizes(shape) == published
    assert shape.head_dim == 128


@pytest.mark.parametrize(
    ("size", "published"), [(125_000_000, (30, 576, 1536)), (345_000_000, (32, 960, 2560))]
)
def test_mobilellm_follows_from_its_depth_and_groups(size, published):
    rules = Rules(n_parameters=size, vocab_size=32_000, depth=published[0], group_size=3)
    shape = nearest(family(rules, tied=True), rules)
    assert sizes(shape) == published
    assert (shape.head_dim, shape.group_size) == (64, 3)


def test_1b_is_pangu_pi_1b_pro():
    rules = Rules(n_parameters=10**9, vocab_size=48_000)
    fit = [shape for shape in family(rules, tied=False) if not objections(shape, rules)]
    assert sizes(nearest(fit, rules)) == (21, 1792, 4864)


def test_a_family_has_one_size_and_every_depth_once_per_width():
    rules = Rules(n_parameters=25_000_000, vocab_size=4_000)
    shapes = family(rules, tied=True)
    widths = [shape.hidden_size for shape in shapes]
    assert len(shapes) > 5
    assert widths == sorted(set(widths))
    for shape in shapes:
        assert abs(parameters(shape).total / 25e6 - 1) <= 0.1
        assert shape.num_attention_heads * shape.head_dim == shape.hidden_size
        assert shape.intermediate_size % 64 == 0


def test_the_recommended_depth_is_the_papers():
    assert target_depth(10**9) == target_depth(10**8) == 20
    assert round(target_depth(1_500_000_000)) == 22


def test_ffn_is_rounded_up_and_never_by_a_whole_multiple():
    for width in range(64, 4097, 32):
        ffn = ffn_width(width)
        multiple = 256 if width >= 1024 else 64
        assert ffn % multiple == 0
        assert 0 <= ffn - Fraction(8, 3) * width < multiple
    assert ffn_width(1536) == 4096, "8/3 of it exactly: nothing to round"
    assert ffn_width(640, Fraction(4), 32) == 2560


def test_overrides_count():
    rules = Rules.of_settings(
        DesignConfig(
            params="25M",
            vocab=4_000,
            expansion=4.0,
            ffn_multiple=32,
            head_dim=96,
            query_heads_per_kv_head=2,
        )
    )
    shapes = family(rules, tied=True)
    assert shapes
    for shape in shapes:
        assert shape.head_dim == 96
        assert shape.group_size == 2
        assert shape.intermediate_size == 4 * shape.hidden_size


def test_a_size_that_the_depth_misses_is_an_objection():
    rules = Rules(n_parameters=25_000_000, vocab_size=4_000, depth=12)
    notes = {shape.hidden_size: objections(shape, rules) for shape in family(rules, tied=False)}
    assert notes == {320: ["29% off the size"], 384: [], 448: ["31% off the size"]}


def test_depth_and_width_are_taken_as_they_are():
    rules = Rules(n_parameters=10**9, vocab_size=1_000, depth=3, width=64)
    [shape] = family(rules, tied=True)
    assert sizes(shape) == (3, 64, 192)
    narrow = Rules(n_parameters=10**9, vocab_size=10, depth=30, width=64)
    assert objections(family(narrow, tied=True)[0], narrow) == []


def test_a_width_without_heads_is_refused():
    with pytest.raises(ConfigError, match=r"heads of 64 do not divide a width of 1000.*960"):
        family(Rules(n_parameters=10**8, vocab_size=1_000, width=1000), tied=True)


def test_a_refusal_says_how_many_rows_there_may_be():
    rules = Rules(n_parameters=50_000_000, vocab_size=48_000)
    shapes = family(rules, tied=True)
    assert all(objections(shape, rules) for shape in shapes)
    line = refusal(shapes, rules, tied=True)
    assert "keeps embedding and head under 20%" in line
    rows = int(line.split("at most about ")[1].split(" rows")[0].replace(",", ""))
    fewer = Rules(n_parameters=50_000_000, vocab_size=rows)
    assert any(not objections(shape, fewer) for shape in family(fewer, tied=True))


def test_a_vocabulary_larger_than_the_model_is_refused():
    rules = Rules(n_parameters=1_000_000, vocab_size=10**6)
    assert family(rules, tied=True) == []
    assert "take fewer rows" in refusal([], rules, tied=True)
