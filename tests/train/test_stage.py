import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.train import TrainConfig
from edgetiny.console import Reporter
from edgetiny.data import Shards
from edgetiny.data.build import run as build
from edgetiny.errors import CheckFailed, ConfigError, DataError, DeviceError
from edgetiny.train.stage import run
from edgetiny.train.state import OPTIMIZER_FILE, STATE_FILE

Settings = Callable[..., TrainConfig]


class Hearing(Reporter):
    """Keeps what a stage says."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def step_records(out: Path) -> list[dict]:
    return [record for record in records(out) if "loss" in record]


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in checkpoint.state_dict().items()}


def same(left: Checkpoint, right: Checkpoint) -> bool:
    a, b = weights(left), weights(right)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_the_loss_and_says_what_it_did(
    settings: Settings, tiny_shards: Shards
) -> None:
    done = run(settings(steps=60, batch_size=4, learning_rate=1e-2, eval_every=30))
    steps = step_records(done.path)
    assert [record["step"] for record in steps] == list(range(1, 61))
    assert np.mean([record["loss"] for record in steps[-5:]]) < steps[0]["loss"] - 0.5
    validations = [record for record in records(done.path) if "bits_per_byte" in record]
    assert [record["step"] for record in validations] == [30, 60]
    metrics = done.lineage["metrics"]
    assert metrics["bits_per_byte"] == validations[-1]["bits_per_byte"]
    assert metrics["bits_per_byte"].keys() == {*tiny_shards.groups, "all"}
    assert metrics["tokens"] == 60 * 4 * 32 == steps[-1]["tokens"]
    train = tiny_shards.train
    bytes_per_token = train.document_bytes.sum() / len(train.tokens)
    assert metrics["text_bytes"] == round(metrics["tokens"] * bytes_per_token)
    assert done.lineage["stage"] == "train"
    assert done.summary()["train_loss"] == metrics["train_loss"]


def test_a_fraction_of_the_tokens_sets_the_steps(settings: Settings, tiny_shards: Shards) -> None:
    config = replace(settings(), steps=None, fraction=0.01)
    result = run(config)
    steps = round(0.01 * len(tiny_shards.train.tokens) / 64)
    assert 2 < steps < 30
    assert result.lineage["metrics"]["steps"] == steps
    assert result.lineage["settings"]["steps"] == steps
    run(replace(config, resume=True))
    with pytest.raises(ConfigError, match="--steps"):
        run(replace(config, fraction=0.02, resume=True))
    with pytest.raises(ConfigError, match="give it or --steps"):
        settings(fraction=0.01, steps=1000)


def test_a_finished_run_keeps_the_tokenizer_and_drops_the_moments(
    settings: Settings, tiny_checkpoint: Checkpoint
) -> None:
    done = run(settings(steps=2))
    assert not (done.path / OPTIMIZER_FILE).exists()
    name = "tokenizer.model"
    assert (done.path / name).read_bytes() == (tiny_checkpoint.path / name).read_bytes()
    assert done.lineage["ancestors"][-1]["sha256"] == tiny_checkpoint.sha256


def test_the_tokenizer_of_the_shards_serves_where_the_checkpoint_has_none(
    settings: Settings, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    bare = make_checkpoint(vocab_size=512)
    done = run(settings(checkpoint=bare.path, steps=1, sample_every=1, sample_tokens=2))
    assert (done.path / "tokenizer.model").is_file()


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3},
        {"warmup_fraction": 0.5},
        {"final_lr_fraction": 1.0},
        {"weight_decay": 0.5},
        {"beta1": 0.5},
        {"beta2": 0.5},
        {"clip": 1e-3},
        {"seed": 1},
        {"precision": "bf16"},
        {"sequence_length": 16},
        {"batch_size": 3},
        {"gradient_accumulation": 2},
        {"steps": 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_of_the_arithmetic_changes_the_weights(
    settings: Settings, tmp_path: Path, change: dict
) -> None:
    plain = run(settings(steps=6))
    changed = run(settings(**({"steps": 6, "out": tmp_path / "changed"} | change)))
    assert not same(plain, changed)


@pytest.mark.parametrize(
    "change",
    [
        {"eval_every": 1},
        {"save_every": 1},
        {"sample_every": 2, "sample_tokens": 3},
        {"tensorboard": True},
        {"eval_tokens": 10},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_of_the_surroundings_changes_no_weight(
    settings: Settings, tmp_path: Path, change: dict
) -> None:
    plain = run(settings(steps=4))
    changed = run(settings(steps=4, out=tmp_path / "changed", **change))
    assert same(plain, changed)


def test_no_limit_is_what_clip_0_means(settings: Settings, tmp_path: Path) -> None:
    free = run(settings(clip=0.0))
    wide = run(settings(clip=1e9, out=tmp_path / "wide"))
    assert same(free, wide)
    assert not torch.equal(
        free.tensor("model.norm.weight"),
        Checkpoint.open(settings().checkpoint).tensor("model.norm.weight"),
    )


def test_accumulated_passes_equal_one_large_batch(settings: Settings, tmp_path: Path) -> None:
    whole = run(settings(batch_size=4, steps=3))
    parts = run(settings(batch_size=1, gradient_accumulation=4, steps=3, out=tmp_path / "parts"))
    for left, right in zip(step_records(whole.path), step_records(parts.path), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
        assert left["tokens"] == right["tokens"]
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)


def test_samples_are_printed_when_due(settings: Settings) -> None:
    hearing = Hearing()
    run(
        settings(steps=4, sample_every=2, sample_prompt="The ", sample_tokens=4, eval_every=0),
        hearing,
    )
    samples = [message for message in hearing.said if "'The " in message or '"The ' in message]
    assert [message.split(":")[0] for message in samples] == ["step 2", "step 4"]


def test_greedy_samples_do_not_depend_on_the_seed(settings: Settings) -> None:
    from edgetiny.model import load_model
    from edgetiny.train.sample import Sampler

    def continuations(temperature: float) -> set[str]:
        config = settings(sample_every=1, sample_temperature=temperature, sample_tokens=8)
        model = load_model(Checkpoint.open(config.checkpoint))
        sampler = Sampler(config, model, config.checkpoint)
        return {sampler.continuation(seed) for seed in range(4)}

    assert len(continuations(0.0)) == 1
    assert len(continuations(1.0)) > 1


def test_tensorboard_has_the_losses(settings: Settings) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run(settings(steps=7, save_every=2, eval_every=3, tensorboard=True))
    events = EventAccumulator(str(done.path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    logged = [(record["step"], record["loss"]) for record in step_records(done.path)]
    assert losses == [(step, pytest.approx(loss)) for step, loss in logged]
    assert [event.step for event in events.Scalars("valid/bits_per_byte/all")] == [3, 6, 7]


def test_a_stored_bf16_checkpoint_is_trained_in_fp32(
    settings: Settings, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    half = make_checkpoint(vocab_size=512, dtype=torch.bfloat16)
    done = run(settings(checkpoint=half.path, steps=1))
    assert done.tensor("model.norm.weight").dtype == torch.float32


def test_auto_precision_is_said_and_kept(settings: Settings) -> None:
    hearing = Hearing()
    done = run(settings(steps=1, precision="auto"), hearing)
    chosen = done.lineage["settings"]["precision"]
    assert chosen in ("fp32", "bf16")
    assert any(chosen in message for message in hearing.said)


@pytest.mark.slow
# torch 2.13's own compiler uses what it deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_a_compiled_model_learns_the_same(settings: Settings, tmp_path: Path) -> None:
    plain = run(settings(steps=3))
    compiled = run(settings(steps=3, compile=True, out=tmp_path / "compiled"))
    for left, right in zip(step_records(plain.path), step_records(compiled.path), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run(settings: Settings) -> None:
    config = settings(steps=50, learning_rate=1e30, clip=0.0, save_every=1, warmup_fraction=0.0)
    with pytest.raises(CheckFailed, match="--learning-rate") as failure:
        run(config)
    kept = Checkpoint.open(config.out)
    assert all(tensor.isfinite().all() for tensor in kept.state_dict().values())
    state = json.loads((config.out / STATE_FILE).read_text())
    found = re.search(r"step (\d+): .* after step (\d+)\.", str(failure.value))
    assert found is not None
    failed, saved = map(int, found.groups())
    assert saved == state["step"] == failed - 1
    assert [record["step"] for record in records(config.out)] == list(range(1, failed))
    assert not state["is_finished"]


def test_a_held_out_loss_that_is_not_finite_stops_the_run(settings: Settings) -> None:
    config = settings(steps=1, learning_rate=1e38, clip=0.0, warmup_fraction=0.0)
    with pytest.raises(CheckFailed, match=r"step 1: the held-out loss is .* after step 0\."):
        run(config)


@pytest.mark.parametrize(
    "change", [{"sample_prompt": "The"}, {"sample_tokens": 7}, {"sample_temperature": 0.0}]
)
def test_a_sample_that_is_never_printed_is_refused(settings: Settings, change: dict) -> None:
    with pytest.raises(ConfigError, match="does nothing without --sample-every"):
        settings(**change)


def test_threads_are_put_back(settings: Settings) -> None:
    before = torch.get_num_threads()
    run(settings(steps=1, threads=before + 1))
    assert torch.get_num_threads() == before


def test_without_held_out_text_there_is_no_validation(
    settings: Settings, tmp_path: Path, tiny_text: Path, tiny_tokenizer: Path
) -> None:
    build(
        DataBuildConfig(
            text=(tiny_text,), tokenizer=tiny_tokenizer, out=tmp_path / "all", valid_fraction=0.0
        )
    )
    hearing = Hearing()
    done = run(settings(data=tmp_path / "all", steps=2, eval_every=1), hearing)
    assert "bits_per_byte" not in done.lineage["metrics"]
    assert any("no validation" in message for message in hearing.said)


def test_bare_token_files_are_trained_on(
    settings: Settings, tmp_path: Path, tiny_shards: Shards
) -> None:
    (tmp_path / "bare").mkdir()
    for ours, theirs in (("train.bin", "train.bin"), ("valid.bin", "val.bin")):
        shutil.copyfile(tiny_shards.path / ours, tmp_path / "bare" / theirs)
    done = run(settings(data=tmp_path / "bare", steps=1))
    assert "text_bytes" not in done.lineage["metrics"]


def test_a_folder_in_the_way_is_refused(settings: Settings) -> None:
    run(settings(steps=1))
    with pytest.raises(ConfigError, match="--overwrite"):
        run(settings(steps=1))
    again = run(settings(steps=2, overwrite=True))
    assert len(step_records(again.path)) == 2


def test_the_checkpoint_itself_is_no_out(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="choose another folder"):
        settings(out=settings().checkpoint)


def test_a_sequence_beyond_the_context_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="128"):
        run(settings(sequence_length=129))


def test_too_little_text_is_refused(settings: Settings) -> None:
    config = settings(batch_size=100, gradient_accumulation=1000)
    with pytest.raises(DataError, match="one step takes 100000"):
        run(config)
    assert not config.out.exists()


def test_shards_of_another_tokenizer_are_refused(
    settings: Settings, tmp_path: Path, tiny_text: Path
) -> None:
    from edgetiny.config.tokenizer import TokenizerTrainConfig
    from edgetiny.tokenizer.train import run as train_tokenizer

    train_tokenizer(TokenizerTrainConfig(text=(tiny_text,), out=tmp_path / "other", vocab_size=400))
    build(DataBuildConfig(text=(tiny_text,), tokenizer=tmp_path / "other", out=tmp_path / "shards"))
    with pytest.raises(DataError, match="another tokenizer"):
        run(settings(data=tmp_path / "shards"))


def test_ids_beyond_the_vocabulary_are_refused(
    settings: Settings, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    with pytest.raises(DataError, match="vocabulary of 97"):
        run(settings(checkpoint=make_checkpoint(vocab_size=97).path))


def test_samples_without_a_tokenizer_are_refused(
    settings: Settings,
    tmp_path: Path,
    tiny_shards: Shards,
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    bare = make_checkpoint(vocab_size=512)
    (tmp_path / "bare").mkdir()
    for ours, theirs in (("train.bin", "train.bin"), ("valid.bin", "val.bin")):
        shutil.copyfile(tiny_shards.path / ours, tmp_path / "bare" / theirs)
    config = settings(checkpoint=bare.path, data=tmp_path / "bare", sample_every=1)
    with pytest.raises(ConfigError, match="tokenizer"):
        run(config)
    run(replace(config, sample_every=0, steps=1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_refused(settings: Settings) -> None:
    with pytest.raises(DeviceError, match="--device cpu"):
        run(settings(device="cuda"))
