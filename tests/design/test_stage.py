import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from edgetiny.checkpoint import Checkpoint
from edgetiny.cli import main
from edgetiny.config.design import DesignConfig, parse_size
from edgetiny.config.stages import STAGES
from edgetiny.cost import parameters
from edgetiny.design import PRESETS, read_design
from edgetiny.design.stage import run
from edgetiny.errors import ConfigError

DEVICE = """
schema_version = 1
name = "phone"
source = "made up"
cpu = "none"
cores = 4
threads = 4
ram_bytes = 4000000000
read_bandwidth_bytes_per_s = 15000000000
[gemm_flops_per_s]
fp32 = 50000000000
int8 = 300000000000
"""


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "phone.toml"
    path.write_text(DEVICE)
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 10**9),
        ("1.5b", 1_500_000_000),
        ("350M", 350_000_000),
        ("800k", 800_000),
        ("2000000", 2_000_000),
    ],
)
def test_a_size_is_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1T", "B", "-1B", "1,5B", "0", "0.1", "1e9", "one"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="is no size"):
        parse_size(text)


def test_a_family_is_shown_and_the_choice_is_written(tmp_path, device):
    out = tmp_path / "student.toml"
    result = run(DesignConfig(params="25M", vocab=4_000, device=device, out=out))
    assert read_design(out) == result.design
    summary = result.summary()
    assert [row["depth"] for row in summary["candidates"] if row["chosen"]] == [
        result.design.config.num_hidden_layers
    ]
    assert len(summary["candidates"]) == len(summary["in_use"]) > 3
    for row in summary["in_use"]:
        for precision in ("fp16", "int8", "int4"):
            assert 0 < row[f"tok_s_{precision}"] < row[f"limit_{precision}"]
    assert {row["rule"] for row in summary["rules"]} >= {"depth", "ffn", "head_dim", "pehf"}


def test_without_a_device_there_is_no_speed():
    result = run(DesignConfig(params="25M", vocab=4_000, precision=("int8",)))
    [row, *_] = result.summary()["in_use"]
    assert not any(key.startswith(("tok_s", "limit")) for key in row)
    assert row["ram_mb_int8"] > 0


def test_tables_are_tied_only_where_their_share_needs_it():
    assert not run(DesignConfig(params="25M", vocab=2_000)).design.config.tie_word_embeddings
    assert run(DesignConfig(params="25M", vocab=10_000)).design.config.tie_word_embeddings


def test_tables_are_tied_where_the_size_needs_it():
    config = DesignConfig(params="5M", vocab=4_000, num_hidden_layers=6, max_pehf=0.5)
    tied = run(config).design.config
    assert tied.tie_word_embeddings
    assert abs(parameters(tied).total / 5e6 - 1) <= 0.1
    with pytest.raises(ConfigError, match="no design of 6 layers comes within 10% of 5M"):
        run(replace(config, tie_word_embeddings=False))


@pytest.mark.parametrize(("size", "vocab", "depth"), [("100k", 512, 4), ("10M", 2_000, 6)])
def test_a_depth_without_a_width_of_the_size_is_refused(size, vocab, depth):
    with pytest.raises(ConfigError, match=f"no design of {depth} layers comes within 10%") as found:
        run(DesignConfig(params=size, vocab=vocab, num_hidden_layers=depth))
    nearest, width = re.search(r"nearest has ([\d,]+);.*size (\d+)", str(found.value)).groups()
    taken = run(
        DesignConfig(
            params=size,
            vocab=vocab,
            num_hidden_layers=depth,
            hidden_size=int(width),
            tie_word_embeddings="--tie-word-embeddings" in str(found.value),
        )
    )
    assert parameters(taken.design.config).total == int(nearest.replace(",", ""))


def test_a_promise_moves_the_choice_and_is_noted(device):
    free = run(DesignConfig(params="25M", vocab=4_000, device=device, precision=("int8",)))
    speeds = {row["depth"]: row["tok_s_int8"] for row in free.in_use}
    bound = 1.05 * speeds[free.design.config.num_hidden_layers]
    found = run(
        DesignConfig(params="25M", vocab=4_000, device=device, precision=("int8",), min_tok_s=bound)
    )
    assert found.design.config.num_hidden_layers < free.design.config.num_hidden_layers
    assert any("tok/s in int8" in row["but"] for row in found.candidates)
    with pytest.raises(ConfigError, match=r"no design of 25M keeps the promise.* tok/s in int4"):
        run(DesignConfig(params="25M", vocab=4_000, device=device, min_tok_s=1e9))


@pytest.mark.parametrize("name", ["pangu-pi-1b-pro", "mobilellm-350m"])
def test_a_preset_is_written_as_it_is(name, tmp_path):
    out = tmp_path / "design.toml"
    assert run(DesignConfig(preset=name, out=out)).design == PRESETS[name] == read_design(out)


def test_a_recipe_inside_a_model_names_every_step(tiny_checkpoint, tmp_path, device):
    out = tmp_path / "student.toml"
    source = tiny_checkpoint.path
    config = DesignConfig(
        source=source,
        device=device,
        min_tok_s=5.0,
        max_mb=0.04,
        max_pehf=0.8,
        batch=4,
        context=64,
        text=(Path("a.txt"),),
        out=out,
    )
    result = run(config)
    tables = tomllib.loads(out.read_text())
    shape = result.design.config
    assert (shape.vocab_size, shape.head_dim) == (512, 8)
    assert [table.split("_")[0] for table in tables] == [step.split()[1] for step in result.steps]
    assert tables["export"]["precision"] == result.precision
    assert (tables["export"]["batch"], tables["export"]["kv"]) == ([4], "fp32")
    assert tables["data_build"]["text"] == ["a.txt"]
    assert all("--text" not in step for step in result.steps)
    for stage in tables:
        assert STAGES[stage].load(out).as_json()
    assert config.command_line() in out.read_text()
    assert f"--from {source}" in config.command_line()


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_a_recipe_rounds_int4_by_text(precision, tiny_checkpoint, tmp_path):
    out = tmp_path / "student.toml"
    run(
        DesignConfig(
            source=tiny_checkpoint.path,
            precision=(precision,),
            max_mb=1.0,
            max_pehf=0.8,
            context=64,
            out=out,
        )
    )
    tables = tomllib.loads(out.read_text())
    shards = tables["data_build"]["out"]
    assert tables["export"].get("data") == (shards if precision == "int4" else None)


@pytest.mark.slow
def test_a_recipe_runs(tiny_checkpoint, tiny_text, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    words = ["--max-mb", "0.04", "--max-pehf", "0.8", "--context", "64", "--precision", "int8"]
    words += ["--vocab", "448", "--text", str(tiny_text), "--out", "student.toml"]
    assert main(["design", "--from", str(tiny_checkpoint.path), *words]) == 0
    tables = tomllib.loads(Path("student.toml").read_text())
    short = {
        "train": ["--steps", "2", "--threads", "1"],
        "inherit": ["--calibration-tokens", "512"],
    }
    for stage in tables:
        arguments = [*stage.split("_"), "--recipe", "student.toml", *short.get(stage, [])]
        assert main(arguments) == 0, stage
    shape = Checkpoint.open(tmp_path / "student/trained").config
    for axis in ("hidden_size", "num_hidden_layers", "intermediate_size"):
        assert getattr(shape, axis) == tables["inherit"][axis]
    assert list((tmp_path / "student/artefact").glob("*manifest.json"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of --params, --from and --preset"),
        ({"params": "1B", "preset": "a", "vocab": 100}, "give one of"),
        ({"params": "1B"}, "--params needs --vocab"),
        ({"params": "big", "vocab": 100}, "--params big is no size"),
        ({"params": "1001B", "vocab": 100}, "--params 1001B is more than 1000B"),
        ({"params": "1B", "vocab": 100, "min_tok_s": 3.0}, "--min-tok-s needs --device"),
        ({"preset": "a", "reached_share": 0.5}, "--reached-share needs --device"),
        ({"preset": "a", "vocab": 100}, "--vocab does nothing with --preset"),
        ({"preset": "a", "max_mb": 1.0}, "--max-mb does nothing with --preset"),
        ({"source": Path("big"), "head_dim": 64, "max_mb": 1.0}, "--head-dim does nothing"),
        ({"source": Path("big")}, "--from needs a promise"),
        (
            {"source": Path("big"), "max_mb": 1.0, "out": Path("student")},
            "--out student must end in .toml",
        ),
        ({"params": "1B", "vocab": 100, "text": (Path("a"),)}, "--text does nothing"),
        ({"source": Path("big"), "max_mb": 1.0, "text": (Path("a"),)}, "give --out as well"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DesignConfig(**settings)


def test_what_stands_is_not_replaced(tmp_path):
    out = tmp_path / "design.toml"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        run(DesignConfig(preset="mobilellm-125m", out=out))
    assert out.read_text() == "mine"
    run(DesignConfig(preset="mobilellm-125m", out=out, overwrite=True))
    assert read_design(out) == PRESETS["mobilellm-125m"]


def test_more_context_than_the_source_has_is_refused(tiny_checkpoint):
    with pytest.raises(ConfigError, match="--context 512 is more than the source's 128"):
        run(DesignConfig(source=tiny_checkpoint.path, max_mb=1.0))
