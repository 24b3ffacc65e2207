"""Files and the page, from the rows of the golden result and changed copies of them."""

import copy
import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgetiny.bench.charts import charts
from edgetiny.bench.outputs import Outputs, flatten
from edgetiny.bench.report import report
from edgetiny.bench.result import BenchResult, read_result
from edgetiny.bench.table import lines, markdown
from edgetiny.config.run import BenchConfig
from edgetiny.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden/bench_result.json"


def golden(**changes):
    row = copy.deepcopy(read_result(GOLDEN)[0])
    for name, value in changes.items():
        if isinstance(value, dict):
            row.setdefault(name, {}).update(value)
        else:
            row[name] = value
    return row


@pytest.fixture
def family():
    """Return rows of three depths in two engines, the deepest half as fast, with references."""
    return [
        golden(
            model_filename=f"{depth} deep",
            runtime=runtime,
            model={"num_hidden_layers": depth},
            tok_per_s_per_sequence={"median": 100.0 / depth},
            reference={"tok_per_s_per_sequence": 50.0 / depth, "source": "a <paper>"},
        )
        for runtime in ("eager", "graph")
        for depth in (40, 20, 10)
    ]


def test_every_file_is_written_and_agrees(family, tmp_path):
    names = {name: tmp_path / f"x.{name}" for name in ("out", "csv", "markdown", "report")}
    outputs = Outputs(BenchConfig(**names))
    outputs.check()
    outputs.check_writable()
    outputs.write(family, None)
    assert read_result(names["out"]) == family
    with names["csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert rows[0]["model.num_hidden_layers"] == "40"
    assert float(rows[2]["tok_per_s_per_sequence.median"]) == 10.0
    assert names["markdown"].read_text().count("\n| ") == 7  # a head and six rows
    assert names["report"].read_text().startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="--overwrite"):
        outputs.check()
    Outputs(BenchConfig(**names, resume=True)).check()


def test_one_file_for_two_purposes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="different files"):
        Outputs(BenchConfig(out=tmp_path / "x", csv=tmp_path / "x")).check()


def test_a_nested_row_becomes_flat_without_losing_a_scalar():
    flat = flatten({"a": 1, "b": {"c": {"d": None}, "e": [1, 2]}})
    assert flat == {"a": 1, "b.c.d": None, "b.e": "1;2"}


def test_charts_are_drawn_of_what_varies(family):
    titles = [chart.title for chart in charts(family)]
    assert titles == [
        "Speed against depth, relative to the shallowest",
        "Speed against depth",
        "Roofline",
    ]
    batches = [golden(n_batch=batch) for batch in (1, 8, 64)]
    assert [chart.title for chart in charts(batches)] == ["Roofline", "Scaling with batch"]
    contexts = [golden(n_depth=depth) for depth in (0, 512)]
    assert charts(contexts)[1].title == "Scaling with tokens in the cache beforehand"
    assert [chart.title for chart in charts(batches[:1])] == ["Roofline"]


def test_the_papers_points_stand_beside_ours(family):
    relative, absolute, _ = charts(family)
    for chart in (relative, absolute):
        root = ET.fromstring(chart.svg)
        texts = [element.text for element in root.iter("text")]
        assert {"eager fp32 batch 20", "graph fp32 batch 20", "reference"} <= set(texts)
        assert len(list(root.iter("circle"))) == 9
        assert "a <paper>" in chart.caption
    # All three have the same slope here, so that their relative curves are one.
    lines = [line.attrib["points"] for line in ET.fromstring(relative.svg).iter("polyline")]
    assert len(set(lines)) == 1


def test_the_page_needs_nothing_from_elsewhere_and_escapes(family):
    family[0] |= {"valid": False, "doubts": ["<script>"]}
    text = report("Depth & width", family)
    assert "Depth &amp; width" in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    for outside in ("http://", "https://", "src="):
        assert outside not in text
    assert "What a layer costs" in text


def test_a_sustained_part_is_drawn():
    samples = [
        {
            "at_s": at,
            "tok_per_s_summed": 100 - at,
            "temperature_celsius": None,
            "frequency_hz": None,
        }
        for at in (10.0, 20.0, 30.0)
    ]
    row = golden(sustained={"minutes": 0.5, "change": -0.2, "samples": samples})
    assert charts([row])[-1].title == "Sustained"
    assert lines([row])[0]["sustained"] == "-20.0% over 0.5 min"


def test_many_rows_are_lines_and_fit_a_terminal(family):
    summary = BenchResult(family, None).summary()
    assert [line["model"] for line in summary["results"][:2]] == ["40 deep", "20 deep"]
    assert {line["runtime"] for line in summary["results"]} == {"eager", "graph"}
    assert "precision" not in summary["results"][0]
    assert len(summary["cost_of_a_layer"]) == 2
    json.dumps(summary)


def test_rows_that_differ_in_threads_alone_have_a_name_each():
    rows = [golden(n_threads=n, tok_per_s_summed={"median": 100.0 * n}) for n in (1, 2)]
    line = BenchResult(rows, None).summary()["results"][1]
    assert line["batch 20, 1 threads"].startswith("100 ")
    assert line["batch 20, 2 threads"].startswith("200 ")
    assert [each["threads"] for each in lines(rows)] == ["1", "2"]
    assert "threads" not in lines(rows[:1])[0]


def test_markdown_leaves_out_what_no_row_has(family):
    assert "| J/token" not in markdown(family)
    assert "J/token" in markdown([golden(joules_per_token={"median": 0.5})])
