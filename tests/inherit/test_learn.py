import json
import math
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.model import InheritConfig
from edgetiny.console import Reporter
from edgetiny.data import Shards
from edgetiny.errors import CheckFailed, ConfigError
from edgetiny.inherit.learn import Learner
from edgetiny.inherit.shape import student_shape
from edgetiny.inherit.stage import run

SHAPE = {"hidden_size": 20, "intermediate_size": 30, "num_key_value_heads": 3}
STEPS = {
    "mask_steps": 160,
    "mask_batch_size": 2,
    "mask_save_every": 20,
    "mask_learning_rate": 0.1,
}


def lines_of(folder):
    return (folder / "out.masks/log.jsonl").read_text().splitlines()


def learned(source, data, out, **settings):
    settings = {"calibration_tokens": 64} | STEPS | SHAPE | settings
    return InheritConfig(source=source.path, data=data, out=out, method="learned", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("layers_method", ["greedy", "learned"])
@pytest.mark.parametrize("rate", [1e-4, 0.0])
def test_masks_come_to_the_shape(make_checkpoint, data, tmp_path, layers_method, rate):
    source = make_checkpoint(num_hidden_layers=3, num_key_value_heads=4, num_attention_heads=8)
    result = run(
        learned(
            source,
            data,
            tmp_path / "out",
            num_hidden_layers=2,
            layers_method=layers_method,
            mask_weight_learning_rate=rate,
        )
    )
    config, metrics = result.config, result.lineage["metrics"]
    assert (config.hidden_size, config.intermediate_size) == (20, 30)
    assert (config.num_key_value_heads, config.num_attention_heads) == (3, 6)
    assert config.num_hidden_layers == len(metrics["kept_layers"]) == 2
    assert metrics["mask_tokens"] == 160 * 2 * 64
    rows = [json.loads(line) for line in lines_of(tmp_path)]
    assert [row["step"] for row in rows] == list(range(1, 161))
    assert rows[0]["open"]["hidden"] > 0.9
    assert rows[-1]["open"]["hidden"] == pytest.approx(20 / 32, abs=0.1)
    assert {*rows[0]["multipliers"]} >= {"hidden", "unit", "kv"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_masks_come_to_any_shape(make_checkpoint, data, tmp_path, seed):
    rng = random.Random(seed)
    kv = rng.choice([2, 4, 8])
    source = make_checkpoint(
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=kv,
        tie_word_embeddings=rng.random() < 0.5,
    )
    groups = rng.randint(1, kv)
    asked = {
        "hidden_size": rng.randint(1, 32),
        "num_hidden_layers": rng.randint(1, 3),
        "intermediate_size": rng.randint(1, 44),
        "num_attention_heads": groups * rng.randint(1, 8 // kv),
        "num_key_value_heads": groups,
    }
    method = rng.choice(["greedy", "learned"])
    result = run(learned(source, data, tmp_path / "out", layers_method=method, **asked))
    assert {name: getattr(result.config, name) for name in asked} == asked


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(make_checkpoint, data, tmp_path):
    source = make_checkpoint()
    whole = run(learned(source, data, tmp_path / "whole"))
    config = learned(source, data, tmp_path / "out")
    command = [sys.executable, "-m", *config.command_line().split()]
    state = tmp_path / "out.masks" / "mask_state.json"
    with subprocess.Popen(command) as process:
        while not state.exists() or json.loads(state.read_text())["step"] < 40:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    result = run(learned(source, data, tmp_path / "out", resume=True))
    assert all(torch.equal(result.tensor(name), whole.tensor(name)) for name in whole.names())
    rows = [json.loads(line) for line in lines_of(tmp_path)]
    assert [row["step"] for row in rows] == list(range(1, 161))


def test_masks_of_an_earlier_run_are_seen_before_anything_is_scored(
    make_checkpoint, data, tmp_path, counting_reporter
):
    source, few = make_checkpoint(num_hidden_layers=3), {"num_hidden_layers": 2}
    first = run(learned(source, data, tmp_path / "out", **few), counting_reporter)
    assert {"scoring 3 layers", "learning masks"} == counting_reporter.tasks.keys()
    (tmp_path / "out").rename(tmp_path / "first")
    counting_reporter.tasks.clear()
    with pytest.raises(ConfigError, match="had seed = 0, not 1:"):
        run(learned(source, data, tmp_path / "out", resume=True, seed=1, **few), counting_reporter)
    other = make_checkpoint("other", num_hidden_layers=3, seed=1)
    with pytest.raises(ConfigError, match="another source or text"):
        run(learned(other, data, tmp_path / "out", resume=True, **few), counting_reporter)
    with pytest.raises(ConfigError, match=r"out\.masks exists"):
        run(learned(source, data, tmp_path / "out", **few), counting_reporter)
    assert counting_reporter.tasks == {}
    # Asked to go on, it has the layers' choice from the first run.
    again = run(learned(source, data, tmp_path / "out", resume=True, **few), counting_reporter)
    assert counting_reporter.tasks == {"learning masks": (160, 160)}
    assert again.lineage["metrics"] == first.lineage["metrics"]
    assert Checkpoint.open(tmp_path / "first").sha256 == again.sha256


def test_a_design_may_move_and_its_shape_may_not_change(
    make_checkpoint, data, tmp_path, tiny_design, counting_reporter
):
    source = make_checkpoint()
    asked = {"hidden_size": None, "intermediate_size": None, "num_key_value_heads": None}
    design, moved = tmp_path / "student.toml", tmp_path / "moved.toml"
    shape = tiny_design.replace("intermediate_size = 64", "intermediate_size = 30")
    design.write_text(shape)
    first = run(learned(source, data, tmp_path / "out", to=design, **asked))
    (tmp_path / "out").rename(tmp_path / "first")
    design.rename(moved)
    resumed = {"resume": True, **asked}
    again = run(learned(source, data, tmp_path / "out", to=moved, **resumed), counting_reporter)
    assert counting_reporter.tasks == {"learning masks": (160, 160)}
    assert again.sha256 == first.sha256
    (tmp_path / "out").rename(tmp_path / "again")
    moved.write_text(shape.replace("intermediate_size = 30", "intermediate_size = 29"))
    with pytest.raises(ConfigError, match="had intermediate_size = 30, not 29"):
        run(learned(source, data, tmp_path / "out", to=moved, **resumed))


def test_masks_that_do_not_come_to_the_shape_fail(make_checkpoint, data, tmp_path):
    source = make_checkpoint()
    with pytest.raises(CheckFailed, match=r"hidden row 0 keeps .* of 32, not 20; give more"):
        run(learned(source, data, tmp_path / "out", mask_learning_rate=1e-4))
    assert not (tmp_path / "out").exists()


def test_gates_that_are_all_alike_fail(make_checkpoint, data, tmp_path):
    source = make_checkpoint()
    config = learned(source, data, tmp_path / "out")
    student = student_shape(source.config, config)
    text = Shards.open(data).train
    learner = Learner(source.config, source.state_dict(), student, text, config, 16)
    axes, log_alpha = learner.masks.axes, learner.masks.log_alpha
    with torch.no_grad():
        for name, axis in axes.items():
            # As many open as asked for on average, and each as likely as any other.
            share = axis.target / axis.size
            alike = math.log(share / (1 - share)) + 2 / 3 * math.log(1 / 11)
            log_alpha[name].copy_(alike + 0.01 * torch.randn(axis.n_rows, axis.size))
    with pytest.raises(CheckFailed, match="decided nothing: all gates of hidden are alike"):
        learner.check_counts()
    n_kept = sum(axis.n_rows * axis.target for axis in axes.values())
    assert learner.masks.undecided() == n_kept, "all are closed in their middle"
    with torch.no_grad():
        for name, settled in learner.settled().items():
            log_alpha[name].copy_(torch.where(settled, 5.0, -5.0))
    learner.check_counts()
    assert learner.masks.undecided() == 0


def test_what_was_undecided_is_told_and_recorded(make_checkpoint, data, tmp_path, capsys):
    config = learned(make_checkpoint(), data, tmp_path / "out")
    metrics = run(config, Reporter()).lineage["metrics"]
    # Hidden dimensions, units and groups of two layers.
    assert metrics["gates"] == 32 + 2 * 44 + 2 * 4
    assert 0 < metrics["undecided"] < metrics["gates"]
    told = f"{metrics['undecided']} of 128 gates were undecided"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"mask_steps": 20}, {"resume": True}, {"mask_ramp": 0.1}])
def test_settings_of_masks_are_for_masks(given, tmp_path):
    with pytest.raises(ConfigError, match="is for --method learned"):
        InheritConfig(source=tmp_path, data=tmp_path, out=tmp_path, **given)
    with pytest.raises(ConfigError, match="needs --method learned"):
        InheritConfig(source=tmp_path, data=tmp_path, out=tmp_path, layers_method="learned")


def test_frozen_weights_stay(make_checkpoint, data, tmp_path):
    source = make_checkpoint()
    shape = {"hidden_size": None, "num_key_value_heads": None}
    result = run(learned(source, data, tmp_path / "out", mask_weight_learning_rate=0.0, **shape))
    assert isinstance(result, Checkpoint)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(result.tensor(name), source.tensor(name))
