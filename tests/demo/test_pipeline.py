import json

import pytest

from edgetiny.checkpoint import Checkpoint
from edgetiny.cli import main
from edgetiny.config.demo import DemoConfig
from edgetiny.demo.evidence import held_out_text, smoothed
from edgetiny.demo.pipeline import run
from edgetiny.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    return run(DemoConfig(out=tmp_path_factory.mktemp("demo") / "demo-out", fast=True))


# One run of every stage for all tests of this module: most of a minute.
@pytest.mark.slow
def test_every_stage_is_there_smaller_and_measured(demo):
    steps = demo.story.steps
    assert [step.name for step in steps] == [
        "base model",
        "compact tokenizer",
        "student, inherited",
        "student, trained",
        "GQA",
        "GQA, uptrained",
        "ONNX int8",
    ]
    sizes = [step.size_bytes for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert all(0 < step.bits_per_byte < 9 for step in steps)
    trained, untrained = steps[3].bits_per_byte, steps[2].bits_per_byte
    assert trained < untrained
    assert steps[-1].bits_per_byte == pytest.approx(steps[-2].bits_per_byte, rel=0.01)
    assert [row["batch"] for row in demo.story.speed] == [20, 1]
    assert all(row["bound_ms"] < row["step_ms"] for row in demo.story.speed)
    assert demo.report.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.slow
def test_the_literal_commands_run_after_the_demo(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo.report.parents[1])
    assert main(["export", "--gqa-groups", "8", "--json"]) == 0
    artefact = json.loads(capsys.readouterr().out)["artefact"]
    assert main(["export", "--gqa-groups", "8"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["generate", artefact, "--prompt", "Return", "--max-new-tokens", "4"]) == 0


@pytest.mark.slow
def test_the_commands_of_the_report_make_the_same_student(demo, tmp_path):
    out = demo.report.parent
    line = next(words for words in demo.story.commands if words.startswith("edgetiny inherit"))
    words = line.split()[1:]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main(words) == 0
    again, first = Checkpoint.open(tmp_path / "again"), Checkpoint.open(out / "student-born")
    assert again.sha256 == first.sha256


def test_only_a_demo_folder_is_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError):
            run(DemoConfig(out=tmp_path, fast=True, overwrite=overwrite))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_held_out_text_is_the_documents_as_they_were(tmp_path, tiny_tokenizer):
    from edgetiny.config.data import DataBuildConfig
    from edgetiny.data.build import run as build

    texts = {f"work {i}": f"Document {i}:\n  says  é{i}. " * 9 for i in range(40)}
    lines = [json.dumps({"text": text, "source": name}) for name, text in texts.items()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    shards = build(
        DataBuildConfig(
            text=(tmp_path / "a.jsonl",),
            tokenizer=tiny_tokenizer,
            out=tmp_path / "shards",
            valid_fraction=0.3,
        )
    )
    held = held_out_text(shards).decode()
    assert len(held.encode()) == shards.valid.document_bytes.sum()
    assert held == "".join(text for text in texts.values() if text in held)


def test_a_long_curve_is_drawn_with_few_points_and_the_same_mean():
    points = [(float(x), float(x % 7)) for x in range(1000)]
    drawn = smoothed(points)
    assert len(drawn) <= 150
    assert drawn[-1][0] == 999
    assert sum(y for _, y in drawn) / len(drawn) == pytest.approx(3, abs=0.05)


def test_a_text_that_is_not_there_costs_no_old_demo(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        run(DemoConfig(out=tmp_path / "new", text=(tmp_path / "none.txt",)))
    assert not (tmp_path / "new").exists()
    old = tmp_path / "old"
    old.mkdir()
    marker = '{"schema_version": 1, "export_from": null}'
    (old / "demo.json").write_text(marker)
    with pytest.raises(DataError, match="does not exist"):
        run(DemoConfig(out=old, text=(tmp_path / "none.txt",), overwrite=True))
    assert (old / "demo.json").read_text() == marker
