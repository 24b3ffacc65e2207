"""Results on standard output, progress on standard error, and no mark-up taken from data."""

import json
from collections.abc import Iterator

import pytest

from edgetiny.console import QUIET, Reporter, show

RESULT = {
    "name": "tiny [bold]model[/]",
    "parameters": 1234567,
    "ready": True,
    "bits_per_byte": 1.23456,
    "sizes": [1, 2],
    "missing": None,
    "layers": [{"layer": 0, "std": 0.5}, {"layer": 1, "extra": "x"}],
    "device": {"cores": 2},
}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "100")
    return


def test_json_comes_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    show(RESULT, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == RESULT
    assert printed.err == ""


def test_tables_hold_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    show(RESULT, as_json=False)
    out = capsys.readouterr().out
    assert "parameters" in out
    assert "1,234,567" in out
    assert "ready" in out
    assert "yes" in out
    assert "bits per byte" in out
    assert "1.235" in out
    assert "1, 2" in out
    assert out.count("layer") == 2, "a heading and a column"
    assert "extra" in out
    assert "cores" in out


def test_text_from_data_is_not_read_as_mark_up(capsys: pytest.CaptureFixture[str]) -> None:
    show({"text": "[red]a[/red] [/oops]", "rows": [{"[b]key": "[/x]"}]}, as_json=False)
    out = capsys.readouterr().out
    assert "[red]a[/red] [/oops]" in out
    assert "[/x]" in out


def test_an_empty_list_of_rows_prints_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    show({"steps": 3, "samples": []}, as_json=False)
    assert "samples" not in capsys.readouterr().out


def test_progress_goes_beside_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter()
    reporter.say("reading [1] file")
    with reporter.task("tokens", 10) as task:
        task.advance(3)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "reading [1] file" in printed.err


def test_a_quiet_reporter_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for reporter in (QUIET, Reporter(quiet=True)):
        reporter.say("hello")
        with reporter.task("tokens") as task:
            task.advance(5, note="half way")
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""
