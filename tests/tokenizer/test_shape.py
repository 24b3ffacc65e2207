import pytest

from edgetiny.checkpoint import ModelConfig
from edgetiny.cost import parameters
from edgetiny.tokenizer.shape import Shape

TABLE_1 = {8_000: 2.97, 16_000: 6.01, 32_000: 11.79, 48_000: 18.07, 72_000: 26.88, 100_883: 38.19}


@pytest.mark.parametrize(("rows", "percent"), TABLE_1.items())
def test_the_default_design_is_the_papers_table_1(rows: int, percent: float) -> None:
    assert 100 * Shape.of_design().share(rows) == pytest.approx(percent, abs=0.011)


@pytest.mark.parametrize("tied", [True, False])
def test_a_models_share_is_that_of_its_parameters(tiny_config: ModelConfig, tied: bool) -> None:
    from dataclasses import replace

    shape = Shape.of_model(tiny_config, "tiny")
    for rows in (64, 512):
        config = replace(tiny_config, vocab_size=rows, tie_word_embeddings=tied)
        expected = parameters(config).embedding_and_head_share
        assert shape.share(rows, tied=tied) == pytest.approx(expected)
    assert shape.share(512) == shape.share(512, tied=tiny_config.tie_word_embeddings)


def test_a_design_takes_what_is_given() -> None:
    shape = Shape.of_design(256, 512, 4, tied=True)
    body = 4 * (4 * 256 * 256 + 3 * 256 * 512 + 2 * 256) + 256
    assert shape.share(1000) == pytest.approx(256_000 / (256_000 + body))
    assert "width 256, FFN 512, with 4 layers" in shape.name
