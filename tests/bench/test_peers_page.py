"""The table: who is compared with whom, and what it says of it."""

from dataclasses import replace
from typing import Any

from peers.page import Facts, cell_table, markdown, verdict


def run(setting: str, number: int, speed: float, **changes: Any) -> dict[str, Any]:
    return {
        "setting": setting,
        "round": number,
        "batch": 1,
        "tokens": 510,
        "seconds": 510 / speed,
        "first_token_seconds": 0.01,
        "peak_rss_bytes": 300_000_000,
        "versions": {"engine": "1.0"},
    } | changes


def facts(name: str, is_ours: bool = False) -> Facts:
    return Facts(name=name, is_ours=is_ours, size_bytes=62_500_000, n_weights=10**8, gap=0.1)


def page_of(table: dict[str, Any]) -> str:
    empty: dict[str, Any] = {"introduction": [], "screening": [], "stability": [], "settings": []}
    return markdown(empty | {"screening_note": "", "cells": [table]})


def rounds() -> list[dict[str, Any]]:
    rows = []
    for number in range(1, 6):
        rows += [
            run("ours", number, 140.0 + number),
            run("slow peer", number, 100.0 + number),
            run("equal peer", number, 140.0 + (number % 3) * 2),
            run("reference program", number, 500.0),
        ]
    return rows


def test_ours_is_set_against_each_peer() -> None:
    table = cell_table(
        "A", rounds(), [facts("slow peer"), facts("equal peer"), facts("ours", is_ours=True)]
    )
    ours, equal, slow = table["rows"]
    assert (ours["setting"], equal["setting"], slow["setting"]) == (
        "ours",
        "equal peer",
        "slow peer",
    )
    assert "ratio" not in ours
    assert slow["ratio"]["verdict"] == "ours faster"
    assert equal["ratio"]["verdict"] == "tie"
    assert 1.38 < slow["ratio"]["ratio"] < 1.40
    assert slow["bits_per_weight"] == 5.0
    assert table["rounds"] == 5


def test_only_rounds_of_both_are_compared_and_failures_are_listed() -> None:
    rows = [row for row in rounds() if (row["setting"], row["round"]) != ("slow peer", 3)]
    rows.append({"setting": "slow peer", "round": 3, "batch": 1, "error": "ended with code 1"})
    table = cell_table("A", rows, [facts("slow peer"), facts("ours", is_ours=True)])
    slow = table["rows"][1]
    assert slow["n_runs"] == 4
    assert slow["ratio"]["confidence"] == 0.875  # 1 - 2 / 2**4
    assert slow["ratio"]["verdict"] == slow["decode_ratio"]["verdict"] == "too few rounds"
    assert table["failures"] == [{"setting": "slow peer", "round": 3, "error": "ended with code 1"}]
    assert ", 4 rounds | " in page_of(table)


def test_a_failure_that_ran_when_tried_again_is_not_listed() -> None:
    failed = {"setting": "slow peer", "round": 3, "batch": 1, "error": "ended with code 1"}
    table = cell_table("A", [failed, *rounds()], [facts("slow peer"), facts("ours", is_ours=True)])
    assert table["failures"] == []
    assert " rounds | " not in page_of(table)


def test_a_cell_without_ours_has_speeds_and_no_ratios() -> None:
    table = cell_table("A", rounds(), [facts("slow peer")])
    assert table["ours"] is None
    assert "ratio" not in table["rows"][0]


def test_an_interval_with_one_inside_is_a_tie() -> None:
    assert verdict(0.99, 1.4, 0.9375) == "tie"
    assert verdict(1.0, 1.4, 0.9375) == "tie"
    assert verdict(1.01, 1.4, 0.9375) == "ours faster"
    assert verdict(0.5, 0.99, 0.9375) == "ours slower"
    assert verdict(1.01, 1.4, 0.5) == "too few rounds"


def test_every_line_of_a_table_has_the_same_columns() -> None:
    table = cell_table("A", rounds(), [facts("slow peer"), facts("ours", is_ours=True)])
    page = markdown(
        {
            "introduction": ["How."],
            "cells": [table],
            "screening_note": "Once.",
            "screening": [
                {
                    "cell": "A",
                    "setting": "broken | peer",
                    "tok_per_s": None,
                    "of_best_peer": None,
                    "size_bytes": None,
                    "error": "did not end within 180 s",
                }
            ],
            "stability_note": "Thrice.",
            "stability": [
                {"cell": "A", "setting": "ours", "ratios": [1, 1.02], "apart": 0.02, "holds": True}
            ],
            "settings": ["ours: `{}`"],
        }
    )
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1
    assert "did not end within 180 s" in page


def test_the_row_of_ours_that_is_compared_is_chosen_by_the_screening() -> None:
    """Chosen by the rounds, it would be compared in those that it was lucky in."""
    lucky = [run("lucky", number, 150.0) for number in range(1, 6)]
    screened = (replace(facts("ours", is_ours=True), screened=150.0), facts("slow peer"))
    other = replace(facts("lucky", is_ours=True), screened=140.0)
    assert cell_table("A", [*rounds(), *lucky], [*screened, other])["ours"] == "ours"
