import copy
import json
import math
import re
from pathlib import Path

import pytest

from edgetiny.bench.compare import run
from edgetiny.bench.result import read_result
from edgetiny.cli import main
from edgetiny.config.compare import CompareConfig
from edgetiny.errors import DataError

GOLDEN = Path(__file__).parents[1] / "golden/bench_result.json"


@pytest.fixture
def results(tmp_path):
    """Return a function that writes the golden result, edited row by row; and returns its path."""

    def write(name, edit=lambda row: None, *, rows=None, version=1):
        rows = copy.deepcopy(rows or read_result(GOLDEN))
        for row in rows:
            edit(row)
        path = tmp_path / name
        path.write_text(json.dumps({"schema_version": version, "rows": rows}))
        return path

    return write


def compare(first, second, **settings):
    return run(CompareConfig(first=first, second=second, **settings))


def refusal(capsys, *words):
    assert main(["compare", *map(str, words)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def speed_up(factor):
    """Return an edit that makes every run of a row `factor` times as fast."""

    def edit(row):
        row["samples_ns"] = [round(each / factor) for each in row["samples_ns"]]
        for name in ("decode_tok_per_s_summed", "ttft_ms"):
            scale = factor if "tok" in name else 1 / factor
            row[name] = {key: value * scale for key, value in row[name].items()}

    return edit


def test_a_result_ties_with_itself(results):
    found = compare(results("a"), results("b"))
    assert len(found.rows) == 2
    for row in found.rows:
        assert row.decode_tok_per_s.ratio == row.ttft.ratio == row.peak_rss == 1.0
        assert row.decode_tok_per_s.is_tie
        assert "tie" in row.cells()["decode_tok_per_s"]
    assert found.only_first == found.only_second == []


def test_twice_as_fast_is_no_tie(results):
    [row, _] = compare(results("a"), results("b", speed_up(2.0)), confidence=0.6).rows
    assert row.decode_tok_per_s.ratio == pytest.approx(2.0)
    assert row.ttft.ratio == pytest.approx(0.5)
    assert row.decode_tok_per_s.low > 1
    assert row.cells()["decode_tok_per_s"].endswith("faster")
    assert row.cells()["ttft"].endswith("shorter")


def test_too_few_repeats_say_no_word_and_how_many_would_do(results):
    found = compare(results("a"), results("b", speed_up(2.0)))
    [row, _] = found.rows
    assert row.decode_tok_per_s.low > 1
    cell, times = row.cells()["decode_tok_per_s"], row.n_repeats[0]
    assert cell.endswith(f" at {1 - 2 / math.comb(2 * times, times):.0%}")
    assert any("both sides with --repeats 4 or more" in note for note in found.notes)


def test_two_models_of_one_shape_are_no_repeats(results):
    def other(row):
        row["model_filename"] = "another"

    rows = read_result(GOLDEN)
    again = copy.deepcopy(rows[:1])
    other(again[0])
    with pytest.raises(DataError, match="they are no repeats of one another"):
        compare(results("a"), results("b", rows=rows + again))


@pytest.mark.parametrize("n", [2, 3])
def test_samples_are_read_back_from_a_spread_of_up_to_three(results, n):
    """A row with its samples and one without, as written before, give the same intervals."""
    from edgetiny.measure import spread

    ttft_ns, total_ns = [5e7, 4e7, 9e7][:n], [3e9, 2e9, 2.5e9][:n]

    def summary(values):
        found = spread(values)
        return {"median": found.median, "p10": found.p10, "p90": found.p90}

    def old(row):
        n_tokens = row["n_batch"] * (row["n_gen"] - 1)
        pairs = list(zip(total_ns, ttft_ns, strict=True))
        row["samples_ns"] = [int(each) for each in total_ns]
        row["ttft_ms"] = summary([each / 1e6 for each in ttft_ns])
        rates = [1e9 * n_tokens / (total - first) for total, first in pairs]
        row["decode_tok_per_s_summed"] = summary(rates)

    def new(row):
        old(row)
        row["samples_ttft_ns"] = [int(each) for each in ttft_ns]

    base = results("base")
    before, after = (
        compare(base, results("a", old)).rows[0],
        compare(base, results("b", new)).rows[0],
    )
    for name in ("decode_tok_per_s", "ttft"):
        old_found, new_found = getattr(before, name), getattr(after, name)
        assert new_found.ratio == pytest.approx(old_found.ratio)
        assert new_found.low == pytest.approx(old_found.low)
        assert new_found.high == pytest.approx(old_found.high)


@pytest.mark.parametrize("is_first", [True, False])
def test_one_repeat_on_a_side_is_a_ratio_and_no_verdict(results, is_first):
    def once(row):
        speed_up(2.0)(row)
        row["samples_ns"] = row["samples_ns"][:1]

    files = [results("once", once), results("a")]
    found = compare(*(files if is_first else reversed(files))).rows[0]
    ratio = 0.5 if is_first else 2.0
    assert found.decode_tok_per_s == pytest.approx(ratio)
    assert found.ttft == pytest.approx(1 / ratio)
    assert found.cells()["decode_tok_per_s"] == f"{ratio:.3f}"


def test_many_repeats_without_samples_have_no_interval(results):
    def many(row):
        row["samples_ns"] = row["samples_ns"] * 2

    found = compare(results("a"), results("b", many)).rows[0]
    assert found.decode_tok_per_s is None
    assert found.cells()["decode_tok_per_s"] == "-"


def test_rows_that_are_not_valid_are_told(results):
    def sure(row):
        row |= {"valid": True, "doubts": []}

    def doubt(row):
        row |= {"valid": False, "doubts": ["other work ran"]}

    [note] = compare(results("a", sure), results("b", doubt)).notes
    assert "2 of 2 rows of" in note
    assert "(other work ran)" in note


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_batch", 7), ("precision", "bf16"), ("runtime", "onnxruntime"), ("n_gen", 64)],
)
def test_what_was_measured_otherwise_stands_alone(results, field, value):
    rows = read_result(GOLDEN)
    rows[1][field] = value
    found = compare(results("a"), results("b", rows=rows))
    assert len(found.rows) == len(found.only_first) == len(found.only_second) == 1
    assert str(value) in found.only_second[0]
    alone = found.summary()["without_a_match"]
    assert [each["row"] for each in alone] == found.only_first + found.only_second


def test_nothing_in_common_is_refused(results, capsys):
    def other(row):
        row["model"]["hidden_size"] = 64

    line = refusal(capsys, results("a"), results("b", other))
    assert "no row of" in line
    with pytest.raises(DataError, match="no row of"):
        compare(results("a"), results("b", other))


@pytest.mark.parametrize(("field", "value"), [("cpu_info", "another"), ("n_threads", 8)])
def test_another_machine_is_refused_unless_asked_for(results, capsys, field, value):
    def elsewhere(row):
        row[field] = value

    first, second = results("a"), results("b", elsewhere)
    line = refusal(capsys, first, second)
    assert str(value) in line
    assert "--across-machines" in line
    found = compare(first, second, across_machines=True)
    assert len(found.rows) == 2
    assert str(value) in found.summary()["note"]


def test_another_schema_and_no_result_are_refused(results, capsys, tmp_path):
    newer = results("newer", version=2)
    assert "upgrade edgetiny" in refusal(capsys, results("a"), newer)
    assert "does not exist" in refusal(capsys, results("a"), tmp_path / "none")

    def without(row):
        del row["n_gen"]

    assert "lacks 'n_gen'" in refusal(capsys, results("a"), results("b", without))


def test_the_command_prints_and_writes(results, capsys, tmp_path):
    table = tmp_path / "table.md"
    words = ["compare", str(results("a")), str(results("b", speed_up(1.5))), "--json"]
    assert main([*words, "--markdown", str(table)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["compared"]) == 2
    assert printed["compared"][0]["decode_tok_per_s"].startswith("1.500")
    assert len(re.findall(r"^\| 16x320", table.read_text(), re.MULTILINE)) == 2
    assert main([*words, "--markdown", str(table)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--markdown", str(table), "--overwrite", "--confidence", "0.8"]) == 0
