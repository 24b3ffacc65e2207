import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
from safetensors.torch import save_file

from edgetiny.bench.deterministic import Figure, compare_figures
from edgetiny.bench.gate import run
from edgetiny.bench.gate_result import GateResult, SpeedLine, stored_line
from edgetiny.bench.gate_sides import both_sides
from edgetiny.bench.gate_speed import SpeedRow
from edgetiny.bench.verdict import Block, judge
from edgetiny.cli import main
from edgetiny.config.compare import GateConfig
from edgetiny.errors import ConfigError, DeviceError

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs/schemas/gate.schema.json").read_text())
# Counts only what takes a second; the flags that leave the rest out.
QUICK = {"export": False, "instructions": "none"}


@pytest.fixture
def refused(capsys):
    """Run a gate that must fail; return its line."""

    def run(*words):
        assert main(["gate", *map(str, words)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.fixture
def repository(tmp_path):
    """Return a git repository with this package at its one revision, tagged `before`."""
    folder = tmp_path / "repository"
    shutil.copytree(
        ROOT / "edgetiny", folder / "edgetiny", ignore=shutil.ignore_patterns("__pycache__")
    )
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "before"], ["tag", "before"]):
        subprocess.run(["git", "-C", folder, *who, *words], check=True)
    return folder


def row_of(ratio):
    """Return a row of three rounds whose head takes `ratio` times as long, give or take 1%."""
    blocks = [
        [Block(3.0, 3.0, ratio * 3.0 * (1 + 0.01 * (-1) ** i)) for i in range(4)] for _ in range(3)
    ]
    return SpeedRow(1, blocks, judge(blocks, margin=0.05, noise_factor=3.0, confidence=0.99))


def result_of(*, ratio=1.0, grown=0, base="before"):
    base_figures = {"nodes": Figure(value=10, unit="nodes", tolerance=0.0, parts={"Add": 10})}
    figures = {
        "nodes": Figure(value=10 + grown, unit="nodes", tolerance=0.0, parts={"Add": 10 + grown})
    }
    return GateResult(
        base=base,
        head="now",
        is_stored=False,
        speed=[SpeedLine.of(row_of(ratio))],
        changes=compare_figures(base_figures, figures, {}) if base else [],
        figures=figures,
        absent={"instructions per step, valgrind": "valgrind is not installed"},
        machine={
            "cpu": "a processor",
            "cores": 2,
            "threads": 1,
            "torch": "2.13.0",
            "python": "3.11.7",
        },
        suite={
            "source": None,
            "sha256": "0" * 64,
            "num_hidden_layers": 8,
            "hidden_size": 256,
            "vocab_size": 4096,
            "prompt_tokens": 2,
            "steps": 12,
        },
    )


@pytest.mark.parametrize(
    ("settings", "verdict", "code"),
    [
        ({}, "pass", 0),
        ({"ratio": 1.15}, "regress", 1),
        ({"ratio": 0.8}, "pass", 0),
        ({"grown": 1}, "regress", 1),
        ({"grown": -1}, "pass", 0),
        ({"ratio": 1.05}, "inconclusive", 3),
        ({"ratio": 1.05, "grown": 1}, "regress", 1),
        ({"ratio": 1.15, "base": None}, "measured", 0),
    ],
)
def test_the_worst_finding_is_the_verdict(settings, verdict, code):
    found = result_of(**settings)
    assert (found.verdict, found.exit_code) == (verdict, code)
    jsonschema.validate(json.loads(json.dumps(found.document())), SCHEMA)


def test_the_comment_says_what_grew_and_what_is_absent():
    text = result_of(ratio=1.15, grown=2).markdown()
    assert text.startswith("### Speed: regress\n")
    assert "1.150" in text
    assert "+2 Add" in text
    assert "absent: instructions per step, valgrind: valgrind is not installed" in text


def test_the_services_get_rates_where_bigger_is_better():
    found = result_of(ratio=2.0)
    [row] = found.github()
    assert set(row) == {"name", "unit", "value", "range", "extra"}
    assert row["value"] == pytest.approx(1e3 / 6.0, rel=1e-3)
    metrics = found.bencher()
    assert metrics["decode, batch 1"]["throughput"]["value"] == row["value"]
    assert metrics["nodes"] == {"nodes": {"value": 10.0}}


def test_slower_than_a_stored_baseline_is_no_proof():
    config = GateConfig(base="base.json")
    now = row_of(1.0)
    assert stored_line(now, [[3.0] * 6] * 2, config).verdict == "same"
    assert stored_line(now, [[2.0] * 6] * 2, config).verdict == "inconclusive"
    assert stored_line(now, [], config).verdict is None


def test_settings_that_contradict_are_refused():
    with pytest.raises(ConfigError, match="--rounds-at-most 2 is below"):
        GateConfig(rounds_at_most=2)
    with pytest.raises(ConfigError, match="fewer than 12 samples"):
        GateConfig(rounds=2, blocks=2)
    with pytest.raises(ConfigError, match="at least one --batch"):
        GateConfig(batch=())
    with pytest.raises(ConfigError, match="steps must be"):
        GateConfig(steps=2)
    with pytest.raises(ConfigError, match="--no-speed measures none"):
        GateConfig(speed=False, github=Path("rates.json"))


def test_sides_that_are_not_there(refused, tmp_path, repository):
    assert "holds no folder edgetiny" in refused("--head", tmp_path)
    line = refused("--base", "nowhere", "--head", repository)
    assert "neither a folder, nor a .json file, nor a git revision" in line
    line = refused("--base", tmp_path / "none.json", "--head", repository)
    assert "does not exist" in line


def test_a_context_beyond_the_model_and_an_existing_file(refused, make_checkpoint, tmp_path):
    source = make_checkpoint().path
    assert "holds 64 tokens" in refused(source, "--steps", 63)
    out = tmp_path / "gate.json"
    out.write_text("mine")
    for flag in ("--out", "--markdown", "--github", "--bencher"):
        assert "--overwrite" in refused(flag, out)
    assert out.read_text() == "mine"
    assert "cannot write" in refused("--out", out / "gate.json")
    new = tmp_path / "new"
    assert "must be different files" in refused("--out", new, "--markdown", new)


def test_both_sides_are_copies_that_go_away(repository):
    (repository / "edgetiny" / "new.py").write_text("")
    with both_sides("before", repository) as (base, head):
        folders = [base.folder, head.folder]
        assert not (base.folder / "edgetiny" / "new.py").exists()
        assert (head.folder / "edgetiny" / "new.py").exists()
        assert (base.folder / "edgetiny" / "cli.py").read_text() == (
            head.folder / "edgetiny" / "cli.py"
        ).read_text()
    assert not any(folder.exists() for folder in folders)
    worktrees = ["git", "-C", repository, "worktree", "list"]
    assert len(subprocess.check_output(worktrees).splitlines()) == 1


SLOW_STEP = """

def _slow(self, tokens, step=EagerRuntime.step):
    from time import process_time
    end = process_time() + 0.03
    while process_time() < end:
        pass
    torch.zeros(1)
    return step(self, tokens)


EagerRuntime.step = _slow
"""


@pytest.mark.slow
def test_a_gate_from_end_to_end(repository, make_checkpoint, tmp_path, capsys):
    """A step with 30 ms of work and one operator more is found; the files are as described."""
    model = repository / "edgetiny" / "runtimes" / "eager.py"
    model.write_text(model.read_text() + SLOW_STEP)
    out, table = tmp_path / "gate.json", tmp_path / "gate.md"
    rates, metrics = tmp_path / "rates.json", tmp_path / "metrics.json"
    code = main(
        [
            *("gate", str(make_checkpoint().path), "--base", "before", "--head", str(repository)),
            *("--batch", "1", "--steps", "3", "--blocks", "3", "--rounds", "2"),
            *("--rounds-at-most", "2", "--no-export", "--instructions", "none"),
            *("--out", str(out), "--markdown", str(table), "--github", str(rates)),
            *("--bencher", str(metrics), "--quiet"),
        ]
    )
    assert code == 1
    document = json.loads(out.read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["verdict"] == "regress"
    [row] = document["speed"]
    assert row["verdict"] == "regress"
    assert row["head_step_ms"] > row["base_step_ms"]
    changes = {each["name"]: each for each in document["changes"]}
    assert changes["torch operators per step, batch 1"]["note"] == "+1 aten.zeros.default"
    assert changes["bytes per token, fp32"]["outcome"] == "same"
    assert "regress" in table.read_text()
    assert json.loads(rates.read_text())[0]["unit"] == "tok/s"
    assert "decode, batch 1" in json.loads(metrics.read_text())
    assert "regress" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stored_baseline(make_checkpoint, tmp_path, refused, capsys):
    source, out = make_checkpoint().path, tmp_path / "base.json"
    settings = {"source": source, "head": ROOT, "batch": (1,), "speed": False, **QUICK}
    written = run(GateConfig(**settings, out=out))
    assert (written.verdict, written.exit_code) == ("measured", 0)
    jsonschema.validate(json.loads(out.read_text()), SCHEMA)
    found = run(GateConfig(**settings, base=str(out)))
    assert found.verdict == "pass"
    assert {each.outcome for each in found.changes} == {"same"}
    document = json.loads(out.read_text())
    document["figures"]["graph nodes, int8"] = {"value": 82, "unit": "nodes", "tolerance": 0.0}
    out.write_text(json.dumps(document))
    found = run(GateConfig(**settings, base=str(out)))
    assert found.verdict == "pass"
    assert found.absent == {"graph nodes, int8": "in the baseline, not counted now"}

    words = [source, "--head", ROOT, "--base", out, "--batch", "1", "--no-speed"]
    line = refused(*words, "--steps", 4)
    assert "baseline" in line
    assert "of another suite: steps 8 there, 4 here" in line
    document = json.loads(out.read_text())
    for edit, message in (
        ({"machine": document["machine"] | {"cpu": "another"}}, "of another machine: cpu another"),
        ({"schema_version": 2}, "upgrade edgetiny"),
        ({"kind": "bench"}, "is no gate's result"),
        ({"figures": {"bytes": {"value": 1}}}, "lacks 'unit'"),
    ):
        out.write_text(json.dumps(document | edit))
        assert message in refused(*words)


@pytest.mark.slow
def test_a_baseline_of_other_weights_or_without_a_speed_never_passes(
    make_checkpoint, tmp_path, refused
):
    checkpoint, out = make_checkpoint(), tmp_path / "base.json"
    settings = {"source": checkpoint.path, "head": ROOT, "batch": (1,), "speed": False, **QUICK}
    run(GateConfig(**settings, out=out))
    words = [checkpoint.path, "--head", ROOT, "--base", out, "--batch", "1", "--no-export"]
    words += ["--instructions", "none"]
    assert "holds no speed at batch 1" in refused(*words)

    tensors = checkpoint.state_dict()
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(changed, checkpoint.path / "model.safetensors")
    assert "of another suite: sha256" in refused(*words, "--no-speed")


@pytest.mark.slow
def test_a_side_that_cannot_run_is_one_line(repository, make_checkpoint):
    (repository / "edgetiny" / "runtimes" / "eager.py").write_text("import nothing_of_this_name\n")
    config = GateConfig(source=make_checkpoint().path, head=repository, speed=False, **QUICK)
    with pytest.raises(DeviceError, match=r"head .* cannot be measured: .*nothing_of_this_name"):
        run(config)
