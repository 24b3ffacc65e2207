"""A whole suite of two tiny designs through the command line: interrupted, and gone on with."""

import json
from pathlib import Path

import jsonschema
import pytest

from edgetiny.bench.result import read_result
from edgetiny.bench.stage import run
from edgetiny.cli import main
from edgetiny.config.run import BenchConfig
from edgetiny.console import Reporter
from edgetiny.device import cpu_model
from edgetiny.errors import ConfigError, DataError

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/result.schema.json").read_text())
SUITE = """
schema_version = 1
name = "tiny"
title = "Two tiny designs"
reference = "a test"
[protocol]
batches = [2]
new_tokens = 6
repeats = 1
[cpu]
precisions = ["fp32"]
"""
DESIGN = """
[[designs]]
name = "{name}"
num_hidden_layers = {layers}
hidden_size = 32
intermediate_size = 64
num_attention_heads = 4
vocab_size = 97
reference_tok_per_s_per_sequence = {reference}
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "tiny.toml"
    designs = [("deep", 4, 10.0), ("shallow", 2, 20.0)]
    texts = [DESIGN.format(name=name, layers=n, reference=r) for name, n, r in designs]
    path.write_text(SUITE + "".join(texts))
    return path


class InterruptedAtRow2(Reporter):
    """A user who presses Ctrl-C when the second row begins."""

    def task(self, name, total=None):
        if name.startswith("row 2"):
            raise KeyboardInterrupt
        return super().task(name, total)


def edited(path, place, **fields):
    """Write other fields into a row of a result file, and return the row."""
    document = json.loads(path.read_text())
    document["rows"][place] |= fields
    path.write_text(json.dumps(document))
    return document["rows"][place]


@pytest.mark.slow
def test_a_suite_keeps_what_it_has_and_goes_on(suite, tmp_path, capsys):
    out = tmp_path / "out"
    files = {name: out / f"r.{name}" for name in ("json", "csv", "markdown", "report")}
    config = BenchConfig(suite=suite, threads=1, out=files["json"])
    with pytest.raises(KeyboardInterrupt):
        run(config, InterruptedAtRow2(quiet=True))
    # Whatever else this machine did.
    kept = edited(files["json"], 0, valid=True, doubts=[])
    assert kept["model_filename"] == "deep"

    flags = ["--suite", str(suite), "--threads", "1", "--out", str(files["json"]), "--resume"]
    flags += [word for name in ("csv", "markdown", "report") for word in (f"--{name}", files[name])]
    assert main(["bench", *map(str, flags), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    jsonschema.validate(printed, SCHEMA)
    assert printed["rows"] == read_result(files["json"])
    first, second = printed["rows"]
    assert first == kept, "a row that stands is not measured again"
    assert (second["model_filename"], second["suite"]) == ("shallow", "tiny")
    assert second["reference"] == {"tok_per_s_per_sequence": 20.0, "source": "a test"}
    assert "Two tiny designs" in files["report"].read_text()
    assert files["csv"].read_text().count("\n") == 3

    # Nothing is left to measure: the files stay, in the order of the suite.
    second = edited(files["json"], 1, valid=True, doubts=[])
    assert main(["bench", *map(str, flags), "--json"]) == 0
    assert read_result(files["json"]) == [first, second]

    # A row that is not valid, or of what lay in the folder before, is measured again; one that
    # is not of this suite stays.
    document = json.loads(files["json"].read_text())
    doubtful = {"valid": False, "doubts": ["planted"]}
    other = first | doubtful | {"model_filename": "another"}
    document["rows"] = [first | {"model_sha256": "0" * 64}, second | doubtful, other]
    files["json"].write_text(json.dumps(document))
    assert main(["bench", *map(str, flags), "--json"]) == 0
    again = read_result(files["json"])
    assert [row["model_filename"] for row in again] == ["deep", "shallow", "another"]
    assert again[2] == other
    assert "model_sha256" not in again[0]
    assert "planted" not in again[1]["doubts"]
    assert again[1]["samples_ns"] != second["samples_ns"]


def test_resume_replaces_no_file_of_another_run(suite, tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    out = tmp_path / "new.json"
    with pytest.raises(ConfigError, match=r"notes\.md"):
        run(BenchConfig(suite=suite, threads=1, out=out, markdown=notes, resume=True))
    assert notes.read_text() == "mine"


def test_what_is_no_row_is_not_gone_on_with(suite, tmp_path):
    out = tmp_path / "r.json"
    out.write_text('{"schema_version": 1, "rows": [{"a": 1}]}')
    with pytest.raises(DataError, match=r"a row of .*r\.json is not one of bench"):
        run(BenchConfig(suite=suite, threads=1, out=out, resume=True))


@pytest.mark.parametrize(
    "where", [{"cpu_info": "another processor"}, {"gpu_info": "a GPU", "device": "cuda:0"}]
)
def test_rows_of_another_machine_are_not_gone_on_with(suite, tmp_path, where):
    golden = Path(__file__).parents[1] / "golden/bench_result.json"
    document = json.loads(golden.read_text())
    for row in document["rows"]:
        row["cpu_info"] = cpu_model()
    document["rows"][0] |= where
    out = tmp_path / "r.json"
    out.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="rows of another machine"):
        run(BenchConfig(suite=suite, threads=1, out=out, resume=True))
    assert json.loads(out.read_text()) == document
