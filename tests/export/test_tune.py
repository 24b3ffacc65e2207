import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from edgetiny.artefact import Artefact
from edgetiny.config.export import ExportConfig
from edgetiny.console import QUIET
from edgetiny.errors import ConfigError
from edgetiny.export.plan import candidates, without_twins
from edgetiny.export.tune import choices, contest, require_choice, tune

pytest.importorskip("onnxruntime")

SCHEMA = Path(__file__).parents[2] / "docs/schemas/verification.schema.json"
SHAPE = {"hidden_size": 64, "head_dim": 16}


def kinds(made):
    return [(plan.kernel, plan.block_size) for plan in made]


def choices_of(shape, **settings):
    config = ExportConfig(tune=True, **settings)
    return [kinds(choices(plan, config)) for plan in candidates(config, shape)]


def test_the_usual_kernel_comes_first(tiny_config):
    assert choices_of(tiny_config, batch=(1, 20)) == [
        [("weight_only", 32), ("weight_only", 128), ("dynamic", 0)],
        [("dynamic", 0), ("weight_only", 32), ("weight_only", 128)],
    ]


def test_what_is_asked_for_is_not_chosen(tiny_config):
    assert choices_of(tiny_config, kernel="weight_only") == [
        [("weight_only", 32), ("weight_only", 128)]
    ]
    assert choices_of(tiny_config, precision="int4", block_size=64) == [
        [("weight_only", 64), ("dynamic", 64)]
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "fp32"},
        {"layout": "portable"},
        {"format": ("gguf",)},
        {"kernel": "dynamic"},
        {"kernel": "weight_only", "block_size": 64},
    ],
)
def test_no_choice_is_an_error(settings, tiny_config):
    config = ExportConfig(tune=True, **settings)
    with pytest.raises(ConfigError, match="nothing here leaves it a choice"):
        require_choice(candidates(config, tiny_config), config)


def test_a_forecast_times_nothing():
    with pytest.raises(ConfigError, match="--tune runs"):
        ExportConfig(tune=True, dry_run=True)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_every_kernel_is_timed_and_one_is_chosen(precision, make_checkpoint):
    checkpoint = make_checkpoint(**SHAPE)
    config = ExportConfig(tune=True, precision=precision, kv="int8", batch=(3,))
    [plan] = candidates(config, checkpoint.config)
    chosen, tuning = tune(plan, config, checkpoint.config, checkpoint.state_dict(), QUIET)
    assert chosen in choices(plan, config)
    assert len(tuning.trials) == 3
    [kept] = [trial for trial in tuning.trials if trial.chosen]
    assert (kept.kernel, tuning.plan) == (chosen.kernel, plan.name)
    assert tuning.trials[0].ratio == 1
    assert all(trial.step_ms > 0 for trial in tuning.trials)


class Clock:
    """A side whose steps take what it is told."""

    def __init__(self, step_ms):
        self.step_ms = step_ms

    def turn(self):
        return self.step_ms


@pytest.mark.parametrize(
    ("times", "ratios", "chosen"),
    [
        ((2.0, 1.0, 0.99), (1.0, 0.5, 0.495), 1),
        ((2.0, 1.96, 1.9), (1.0, 0.98, 0.95), 2),
        ((2.0, 2.5, 3.0), (1.0, 1.25, 1.5), 0),
    ],
    ids=["a tie keeps what came before", "small gains add up", "the usual one"],
)
def test_the_faster_side_goes_on(times, ratios, chosen, tiny_config):
    config = ExportConfig(tune=True)
    [plan] = candidates(config, tiny_config)
    ways = choices(plan, config)
    clocks = dict(zip(ways, times, strict=True))
    trials = contest(ways, lambda way: Clock(clocks[way]), lambda: None)
    assert [trial.step_ms for trial in trials] == list(times)
    assert [trial.ratio for trial in trials] == pytest.approx(ratios)
    assert [trial.chosen for trial in trials].index(True) == chosen
    assert [(trial.kernel, trial.block_size) for trial in trials][2] == ("dynamic", 0)


def test_classes_that_chose_one_kernel_share_a_file(tiny_config):
    made = candidates(ExportConfig(tune=True, batch=(1, 4)), tiny_config)
    assert [plan.batch for plan in without_twins(made)] == [1, 4]
    same = [replace(plan, kernel="dynamic", block_size=0) for plan in made]
    assert [plan.batch for plan in without_twins(same)] == [1]


def test_the_artefact_says_what_was_timed(keep_scale, make_checkpoint, make_artefact):
    checkpoint = make_checkpoint(edit=keep_scale, **SHAPE)
    folder = make_artefact(checkpoint, precision="int8", batch=(2,), tune=True)
    verification = json.loads((folder / "verification.json").read_text())
    schema = json.loads(SCHEMA.read_text())
    jsonschema.validate(verification, schema)
    [tuning] = verification["tuning"]
    [chosen] = [trial for trial in tuning["trials"] if trial["chosen"]]
    assert Artefact.open(folder).models[0].kernel == chosen["kernel"]
