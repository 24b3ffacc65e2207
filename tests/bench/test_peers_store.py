"""Runs outlive the process that made them."""

from pathlib import Path
from typing import Any

from peers.store import Store


def row(**changes: Any) -> dict[str, Any]:
    return {
        "phase": "round",
        "round": 1,
        "slot": 0,
        "model": "A",
        "batch": 20,
        "bits": 8,
        "setting": "an engine",
        "identity": "abc",
        "new_tokens": 510,
    } | changes


def test_a_stored_run_is_found_again(tmp_path: Path) -> None:
    Store(tmp_path / "runs.jsonl").add(row(seconds=1.0))
    again = Store(tmp_path / "runs.jsonl")
    assert again.rows == [row(seconds=1.0)]
    assert again.has(row(), retry=False)


def test_anything_else_is_another_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    store.add(row(seconds=1.0))
    for changed in (
        {"phase": "screen"},
        {"round": 2},
        {"model": "G"},
        {"batch": 1},
        {"setting": "another"},
        {"identity": "def"},
        {"new_tokens": 254},
        {"slot": 1},
        {"bits": 4},
    ):
        assert not store.has(row(**changed), retry=False)


def test_a_failure_is_tried_again_only_if_asked(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.jsonl")
    store.add(row(error="ended with code 1"))
    assert store.has(row(), retry=False)
    assert not store.has(row(), retry=True)
    store.add(row(seconds=1.0))
    assert store.has(row(), retry=True)


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    Store(path).add(row(seconds=1.0))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"phase": "rou')
    again = Store(path)
    again.add(row(round=2, seconds=2.0))
    assert Store(path).rows == [row(seconds=1.0), row(round=2, seconds=2.0)]
