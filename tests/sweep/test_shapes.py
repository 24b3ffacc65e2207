from dataclasses import replace
from fractions import Fraction

import pytest

from edgetiny.cost import parameters
from edgetiny.design.family import Rules
from edgetiny.errors import ConfigError
from edgetiny.sweep.shapes import shapes_to_train

RULES = Rules(n_parameters=3_000_000, vocab_size=4096, max_pehf=0.4)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_shapes_are_as_many_as_asked_of_one_size_and_far_apart(count):
    shapes = shapes_to_train(RULES, count, fixed_expansion=False)
    assert len(set(shapes)) == count
    for shape in shapes:
        assert parameters(shape).total == pytest.approx(3e6, rel=0.1)
        assert parameters(shape).embedding_and_head_share <= 0.4
    depths = [shape.num_hidden_layers for shape in shapes]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > 2 * depths[-1]


def test_a_given_expansion_stays():
    rules = replace(RULES, expansion=Fraction(2), ffn_multiple=1)
    for shape in shapes_to_train(rules, 3, fixed_expansion=True):
        assert shape.intermediate_size == 2 * shape.hidden_size


def test_more_shapes_than_there_are_is_one_clear_line():
    with pytest.raises(ConfigError, match="take a --sweep of at most"):
        shapes_to_train(RULES, 500, fixed_expansion=True)


def test_a_vocabulary_too_large_for_the_size_says_what_would_do():
    with pytest.raises(ConfigError, match="--max-pehf"):
        shapes_to_train(replace(RULES, max_pehf=0.05), 2, fixed_expansion=False)


def test_shapes_that_rounding_makes_equal_count_once():
    # FFNs of 512 at any expansion: three shapes a width on paper, one in truth.
    rules = replace(RULES, width=128, ffn_multiple=512, max_pehf=0.9)
    with pytest.raises(ConfigError, match="at most 1"):
        shapes_to_train(rules, 2, fixed_expansion=False)
