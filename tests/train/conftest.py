"""Shards of the tiny text, and settings of a run that takes a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.train import TrainConfig
from edgetiny.data import Shards
from edgetiny.data.build import run as build


@pytest.fixture(scope="session")
def tiny_shards(
    tmp_path_factory: pytest.TempPathFactory, tiny_text: Path, tiny_tokenizer: Path
) -> Shards:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    return build(
        DataBuildConfig(
            text=(tiny_text,), tokenizer=tiny_tokenizer, out=folder, valid_fraction=0.1, processes=1
        )
    )


@pytest.fixture
def settings(
    tmp_path: Path, tiny_checkpoint: Checkpoint, tiny_shards: Shards
) -> Callable[..., TrainConfig]:
    """Return a function that makes settings of a short run into `tmp_path / "out"`."""

    def make(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "checkpoint": tiny_checkpoint.path,
            "data": tiny_shards.path,
            "out": tmp_path / "out",
            "steps": 8,
            "batch_size": 2,
            "sequence_length": 32,
            "threads": 1,
            "precision": "fp32",
            "eval_every": 0,
            "eval_tokens": 256,
            "save_every": 3,
        }
        return TrainConfig(**(values | changes))

    return make
