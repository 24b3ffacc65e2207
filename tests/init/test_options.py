"""`edgetiny init` with the options of PanGu-pi: drawn, and given to a checkpoint."""

from pathlib import Path

import pytest
import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.model import InitConfig
from edgetiny.errors import ConfigError
from edgetiny.init import run
from edgetiny.model import load_model

TOKENS = torch.arange(3, 20)[None]


def test_a_fresh_checkpoint_has_the_options_that_are_asked_for(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    checkpoint = run(
        InitConfig(
            tokenizer=tiny_tokenizer,
            out=tmp_path / "model",
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            series_activation=2,
            augmented_shortcut=True,
        )
    )
    config = checkpoint.config
    assert (config.series_activation, config.augmented_shortcut) == (2, 2)  # 64 / 32
    assert load_model(checkpoint)(TOKENS).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_given_options_computes_what_it_did(
    make_checkpoint, tmp_path: Path, dtype
) -> None:
    source = make_checkpoint(dtype=dtype, bias="qkv")
    out = tmp_path / "given"
    given = run(
        InitConfig(source=source.path, out=out, series_activation=2, augmented_shortcut=True)
    )
    assert not given.config.is_plain
    for name in source.names():
        assert torch.equal(given.tensor(name), source.tensor(name)), name
    assert {given.tensor(name).dtype for name in given.names()} == {dtype}
    with torch.no_grad():
        assert torch.equal(load_model(given)(TOKENS), load_model(source)(TOKENS))
    assert given.lineage["ancestors"][-1]["sha256"] == source.sha256
    with pytest.raises(ConfigError, match="already"):
        run(InitConfig(source=given.path, out=tmp_path / "twice", series_activation=2))
    assert Checkpoint.open(out).config == given.config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give --tokenizer, or --source"),
        ({"tokenizer": Path("t"), "source": Path("s")}, "give --tokenizer, or --source"),
        ({"source": Path("s")}, "give --series-activation 2"),
        ({"source": Path("s"), "series_activation": 2, "hidden_size": 64}, "leave out --hidden"),
        ({"tokenizer": Path("t"), "series_activation": 0}, "series.activation"),
        ({"source": Path("s"), "series_activation": 2, "seed": 1}, "--seed is for what is drawn"),
    ],
)
def test_settings_that_do_not_go_together(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        InitConfig(out=Path("o"), **settings)


def test_a_third_term_would_be_the_twin_of_the_second_and_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 2"):
        InitConfig(tokenizer=Path("t"), out=Path("o"), series_activation=3)
