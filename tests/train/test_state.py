import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from edgetiny.config.train import TrainConfig
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.train.stage import run
from edgetiny.train.state import STATE_FILE, TrainerState, read_moments, saved_settings

Settings = Callable[..., TrainConfig]
SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "trainer_state.schema.json"


@pytest.fixture
def state(settings: Settings) -> TrainerState:
    return TrainerState(
        step=3,
        tokens=96,
        position=6,
        seconds=0.5,
        threads=1,
        is_finished=False,
        checkpoint_sha256="a" * 64,
        data_sha256="b" * 64,
        settings=saved_settings(settings(), "fp32"),
    )


def test_it_is_read_as_written(state: TrainerState, tmp_path: Path) -> None:
    state.write(tmp_path)
    assert TrainerState.read(tmp_path) == state


def test_what_a_run_writes_follows_the_schema(settings: Settings) -> None:
    done = run(settings(steps=2, seed=5))
    payload = json.loads((done.path / STATE_FILE).read_text())
    jsonschema.validate(payload, json.loads(SCHEMA.read_text()))
    assert payload["step"] == 2
    assert payload["tokens"] == 2 * 2 * 32
    assert payload["position"] == 2 * 2
    assert payload["settings"]["seed"] == 5
    assert payload["is_finished"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "upgrade"),
        ({"step": None, "extra": 1}, "not a training state"),
    ],
)
def test_a_damaged_or_newer_state_is_refused(
    state: TrainerState, tmp_path: Path, change: dict, message: str
) -> None:
    state.write(tmp_path)
    path = tmp_path / STATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        TrainerState.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 9},
        {"batch_size": 3},
        {"gradient_accumulation": 2},
        {"sequence_length": 33},
        {"learning_rate": 0.5},
        {"warmup_fraction": 0.9},
        {"final_lr_fraction": 0.9},
        {"weight_decay": 0.9},
        {"beta1": 0.1},
        {"beta2": 0.1},
        {"clip": 0.1},
        {"device": "cuda"},
        {"threads": 2},
        {"precision": "bf16"},
        {"compile": True},
        {"seed": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_that_changes_the_result_must_be_the_same(
    state: TrainerState, settings: Settings, change: dict
) -> None:
    config = settings(**change)
    now = dataclasses.replace(state, settings=saved_settings(config, config.precision))
    [name] = change
    with pytest.raises(ConfigError, match="--" + name.replace("_", "-")):
        state.check_resumable(now)


def test_every_other_setting_may_differ(state: TrainerState, settings: Settings) -> None:
    other = settings(
        checkpoint=Path("elsewhere"),
        data=Path("moved"),
        out=Path("out"),
        eval_every=7,
        eval_tokens=7,
        save_every=7,
        sample_every=7,
        sample_prompt="x",
        sample_tokens=7,
        sample_temperature=0.7,
        tensorboard=True,
        resume=True,
    )
    state.check_resumable(
        dataclasses.replace(state, step=0, settings=saved_settings(other, "fp32"))
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [("checkpoint_sha256", "checkpoint"), ("data_sha256", "data")],
)
def test_other_sources_are_refused(state: TrainerState, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        state.check_resumable(dataclasses.replace(state, **{name: "c" * 64}))


def test_missing_moments_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_moments(tmp_path)
    (tmp_path / "optimizer.safetensors").write_bytes(b"\x00" * 5)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_moments(tmp_path)
