"""Which engines meet in which order, and how their speeds are counted."""

from dataclasses import replace
from pathlib import Path

import pytest
from peers.measure import (
    Cell,
    Measurement,
    Protocol,
    cells_of,
    decode_rate,
    near_the_best,
    of_cell,
    pass_ratio,
    pass_ratios,
    prompt,
    rate,
    shuffled,
)
from peers.settings import REFERENCE, Setting
from peers.store import Store


def setting(name: str, bits: int, batches: tuple[int, ...]) -> Setting:
    return Setting(
        name=name, engine="e", environment="e", bits=bits, conversion=name, batches=batches
    )


def test_rates_count_the_batch_and_leave_the_prefill_out_of_decoding() -> None:
    row = {"tokens": 20 * 510, "batch": 20, "seconds": 12.0, "first_token_seconds": 1.82}
    assert rate(row) == pytest.approx(850.0)
    assert decode_rate(row) == pytest.approx(1000.0)


def test_the_contestants_are_those_near_the_best() -> None:
    assert near_the_best(["a", "b", "c", "d"], [60.0, 100.0, 71.0, 95.0], 0.7, 9) == ["b", "d", "c"]
    assert near_the_best(["a", "b", "c"], [99.0, 100.0, 98.0], 0.7, 2) == ["b", "a"]
    assert near_the_best([], [], 0.7, 3) == []


def test_a_cell_takes_its_bits_and_its_batch() -> None:
    rows = [setting("a", 8, (1, 20)), setting("b", 4, (1, 20)), setting("c", 8, (1,))]
    cell = Cell(model="A", batch=20, bits=8)
    assert [each.name for each in of_cell(cell, rows)] == ["a"]
    assert len(cells_of(["A", "G", "B"], [1, 20], [8, 4])) == 12


def test_orders_differ_from_round_to_round_and_repeat_from_run_to_run() -> None:
    names = list("abcdef")
    orders = {tuple(shuffled(names, f"round {number}")) for number in range(5)}
    assert len(orders) > 1
    assert all(sorted(order) == names for order in orders)
    assert list(shuffled(names, "x")) == list(shuffled(names, "x"))


def test_prompts_differ_in_each_row_and_the_first_is_shared_by_all_batches() -> None:
    rows = prompt(20)
    assert len({tuple(row) for row in rows}) == 20
    assert rows[0] == prompt(1)[0]
    assert all(3 <= token < 16_000 for row in rows for token in row)


def test_a_pass_that_was_killed_or_failed_is_left_out() -> None:
    def run(number: int, slot: int) -> dict[str, object]:
        name = ("ref", "row")[slot % 2]
        speed = 2.0 if slot % 2 else 1.0
        return {"round": number, "slot": slot, "setting": name, "tokens": speed, "seconds": 1.0}

    whole = [run(1, slot) for slot in range(7)]
    killed = [run(2, 0), run(3, 0), run(3, 1), run(3, 2)]
    failed = [run(4, slot) for slot in range(6)]
    failed.append({"round": 4, "slot": 6, "setting": "ref", "error": "ended with code 1"})
    assert pass_ratios([*killed, *whole, *failed], 3) == [2.0]
    assert pass_ratios(killed, 3) == []


def test_a_pass_sets_each_run_against_its_two_neighbours() -> None:
    def run(slot: int, name: str, speed: float) -> dict[str, object]:
        return {"slot": slot, "setting": name, "tokens": speed, "seconds": 1.0}

    # The machine slows down all the while; the row stays twice as fast as the reference.
    speeds = [100.0, 190.0, 90.0, 170.0, 80.0]
    rows = [run(slot, ("ref", "row")[slot % 2], speed) for slot, speed in enumerate(speeds)]
    assert pass_ratio(rows) == pytest.approx(2.0)


class Recorded(Measurement):
    """Stores what would run, without the engines."""

    def _run(self, cell, setting, phase, number, slot, new_tokens, attempt=None) -> None:
        row = self._key(cell, setting, phase, number, slot, new_tokens, attempt)
        self.store.add(row | {"tokens": 1.0, "seconds": 1.0})


class Versions:
    """What every setting stands on, as of now."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def identity(self, setting: Setting) -> str:
        return self.of.get(setting.name, "first")


CELL = Cell(model="A", batch=1, bits=8)
OURS = replace(setting("ours", 8, (1,)), is_ours=True)


def recorded(folder: Path, versions: Versions) -> Recorded:
    return Recorded(
        Store(folder / "runs.jsonl"),
        Protocol(
            new_tokens=4,
            screen_tokens=2,
            rounds=1,
            pass_runs=1,
            keep_share=0.5,
            keep_most=2,
            threads=1,
            limit_s=9.0,
            retry=False,
        ),
        {},
        versions,  # type: ignore[arg-type]
        lambda line: None,
    )


def test_a_round_is_attempted_again_whole_when_one_of_it_changed(tmp_path) -> None:
    versions = Versions()
    settings, measured = [OURS, setting("peer", 8, (1,))], recorded(tmp_path, versions)
    for each in settings:
        measured._run(CELL, each, "screen", 0, 0, 2)
    measured.rounds([CELL], settings)
    measured.rounds([CELL], settings)
    assert len(measured.store.rows) == 2 + 3, "nothing is run twice"
    versions.of["ours"] = "second"
    measured._run(CELL, OURS, "screen", 0, 0, 2)
    measured.rounds([CELL], settings)
    for each in (*settings, REFERENCE):
        [row] = measured.find("round", CELL, each)
        assert row["attempt"] == 2
    # Killed in the middle of the next: what it has is no whole round, and pairs with nothing.
    measured._run(CELL, settings[1], "round", 1, 0, 4, attempt=3)
    assert measured.find("round", CELL, OURS) == []
    measured.rounds([CELL], settings)
    assert {row["attempt"] for row in measured.find("round", CELL, OURS)} == {4}


def test_a_pass_is_run_again_whole_when_ours_changed_or_it_was_killed(tmp_path) -> None:
    versions = Versions()
    measured = recorded(tmp_path, versions)
    measured.stability([CELL], [OURS], passes=2)
    measured.stability([CELL], [OURS], passes=2)
    assert len(measured.store.rows) == 2 * 3, "nothing is run twice"
    versions.of["ours"] = "second"
    phase = measured.stability_phase(OURS)
    measured._run(CELL, REFERENCE, phase, 1, 0, 4, attempt=2)  # and is killed after that
    measured.stability([CELL], [OURS], passes=2)
    for each, times in ((OURS, 1), (REFERENCE, 2)):
        attempts = [row["attempt"] for row in measured.find(phase, CELL, each)]
        assert attempts == [3] * times + [2] * times
