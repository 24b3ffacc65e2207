import math

import pytest
import torch

from edgetiny.bench.designs import (
    DESIGNS,
    choose_design,
    probe_step_seconds,
    random_model,
)
from edgetiny.cost import parameters
from edgetiny.design import Design

GB = 10**9


@pytest.fixture
def designs(make_checkpoint):
    """Return two tiny designs, the larger first."""
    large = make_checkpoint("large", num_hidden_layers=4).config
    small = make_checkpoint("small").config
    return (Design("large", "a test", large), Design("small", "a test", small))


def choose(designs, *, seconds=math.inf, available=GB):
    return choose_design(designs, "fp32", (2, 1), 2, 8, 1, available, seconds)


def test_the_largest_that_fits_is_chosen(designs):
    choice = choose(designs)
    assert choice.design.name == "large"
    assert choice.reason.startswith("about ")


def test_too_little_memory_takes_a_smaller_one_and_says_why(designs):
    choice = choose(designs, available=1000)
    assert choice.design.name == "small"
    assert choice.reason.startswith("the smallest there is; ")
    assert "large needs" in choice.reason


def test_too_much_time_takes_a_smaller_one_and_says_why(designs):
    choice = choose(designs, seconds=0.0)
    assert choice.design.name == "small"
    assert "large would take" in choice.reason


def test_unknown_memory_is_no_obstacle(designs):
    assert choose(designs, available=None).design.name == "large"


def test_the_designs_are_as_large_as_they_are_called():
    sizes = [parameters(design.config).total for design in DESIGNS]
    assert [round(size / 1e6) for size in sizes] == [952, 111, 25]
    assert [design.name for design in DESIGNS] == ["random-952m", "random-111m", "random-25m"]


def test_a_probe_takes_any_context_up_to_the_longest(designs):
    config = designs[0].config
    for context in (1, config.max_position_embeddings - 1):
        assert probe_step_seconds(config, "fp32", 2, context) > 0


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_random_weights_are_usable(make_checkpoint, is_tied, precision, dtype):
    config = make_checkpoint(tie_word_embeddings=is_tied, bias="qkv").config
    model = random_model(config, precision)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == is_tied
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    logits = model(torch.tensor([[1, 2, 3]]))
    assert logits.isfinite().all()
    assert logits.std() > 0
