"""What a sweep says of its rows."""

from pathlib import Path

from edgetiny.sweep.report import render
from edgetiny.sweep.result import SweepResult


def row(shape, bits, **changes):
    return {
        "shape": shape,
        "depth": 2,
        "width": 32,
        "expansion": 2.0,
        "bits_per_byte": bits,
        "tok_s": 10.0,
        "doubts": [],
    } | changes


def test_a_speed_that_bench_doubts_is_marked_everywhere():
    rows = [row("a", 3.0), row("b", 2.0, doubts=["the logits are not finite"])]
    del rows[0]["doubts"]  # as a sweep wrote it that began with an older edgetiny
    result = SweepResult(settings={}, rows=rows, page=Path("sweep.html"))
    summary = result.summary()
    assert [each["valid"] for each in summary["shapes"]] == ["no", "yes"]
    assert summary["doubts"] == {"b": "the logits are not finite"}
    assert "the logits are not finite" in render(result)
    rows[1]["doubts"] = []
    assert "doubts" not in result.summary()
    assert "not valid" not in render(result)
