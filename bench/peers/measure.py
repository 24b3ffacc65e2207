"""Which engine runs when: one screening of all, then rounds of those that can be best.

Every run is a fresh process. In a round each cell (model, batch, bits) is measured at a stretch,
its engines in an order drawn for that round, so that what the machine does meets all of them.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from peers.call import call
from peers.conversion import Converted
from peers.intervals import paired_ratio
from peers.settings import REFERENCE, Setting
from peers.store import Store

PROMPT_TOKENS = 2
WARM_UP_TOKENS = 16
_VOCABULARY_STEP = 7919  # prime, so that prompts differ in every row

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is compared with each other."""

    model: str
    batch: int
    bits: int

    @property
    def name(self) -> str:
        return f"{self.model}, batch {self.batch}, {self.bits} bits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How much is generated, how often, and how near the best peer the contestants are.

    pass_runs: of a row of ours in one pass of the question whether its figure repeats.
    """

    new_tokens: int
    screen_tokens: int
    rounds: int
    pass_runs: int
    keep_share: float
    keep_most: int
    threads: int
    limit_s: float
    retry: bool


class Measurement:
    """Runs what is not in the store yet."""

    def __init__(
        self,
        store: Store,
        protocol: Protocol,
        pythons: Mapping[str, Path],
        converted: Converted,
        say: Callable[[str], None],
    ) -> None:
        self.store = store
        self.protocol = protocol
        self.pythons = pythons
        self._converted = converted
        self._say = say

    def screen(self, cells: Sequence[Cell], settings: Sequence[Setting]) -> None:
        """Run everything once, with fewer tokens."""
        jobs = [(cell, each) for cell in cells for each in of_cell(cell, settings)]
        for number, (cell, setting) in enumerate(jobs, start=1):
            self._say(f"screening {number}/{len(jobs)}: {cell.name}: {setting.name}")
            self._run(cell, setting, "screen", 0, 0, self.protocol.screen_tokens)

    def rounds(self, cells: Sequence[Cell], settings: Sequence[Setting]) -> None:
        """Run the contestants of each cell in every round, and the reference program with them.

        A round of a cell whose last attempt lacks one of them, as it is now, is attempted again:
        ratios are of runs one after another.
        """
        for number in range(1, self.protocol.rounds + 1):
            for cell in shuffled(cells, f"cells {number}"):
                chosen = self.contestants(cell, settings)
                if chosen:
                    order = shuffled([*chosen, REFERENCE], f"{cell.name} {number}")
                    self._together(cell, "round", number, [(0, each) for each in order])

    def contestants(self, cell: Cell, settings: Sequence[Setting]) -> list[Setting]:
        """Return ours and the peers near the best, by the screening; none if none of ours runs."""
        speeds = {}
        for setting in of_cell(cell, settings):
            found = self.find("screen", cell, setting)
            if found and "error" not in found[-1]:
                speeds[setting.name] = rate(found[-1])
        chosen = of_cell(cell, settings)
        ours = [each for each in chosen if each.is_ours and each.name in speeds]
        peers = [each for each in chosen if not each.is_ours and each.name in speeds]
        peers = near_the_best(
            peers,
            [speeds[each.name] for each in peers],
            self.protocol.keep_share,
            self.protocol.keep_most,
        )
        return [*ours, *peers] if ours else []

    def stability(self, cells: Sequence[Cell], settings: Sequence[Setting], passes: int) -> None:
        """Run ours between runs of the reference program, in separate passes.

        A pass that was left half way is run again from its beginning, as a round is.
        """
        for number in range(1, passes + 1):
            for cell in cells:
                for setting in (each for each in of_cell(cell, settings) if each.is_ours):
                    slots = range(pass_slots(self.protocol.pass_runs))
                    runs = [(slot, setting if slot % 2 else REFERENCE) for slot in slots]
                    self._together(cell, self.stability_phase(setting), number, runs)

    def stability_phase(self, setting: Setting) -> str:
        """Return the phase of a row's passes: the reference runs in them are no other row's."""
        return f"stability {setting.name} {self.protocol.pass_runs}"

    def find(self, phase: str, cell: Cell, setting: Setting) -> list[Row]:
        """Return the stored runs of a setting as it was last measured, with as many tokens as now.

        Runs of an earlier setting, pins or code are left out: nothing is averaged across them.
        """
        protocol = self.protocol
        new_tokens = protocol.screen_tokens if phase == "screen" else protocol.new_tokens
        found = [
            row
            for row in self.store.rows
            if row["phase"] == phase
            and (row["model"], row["batch"], row["bits"]) == (cell.model, cell.batch, cell.bits)
            and (row["setting"], row["new_tokens"]) == (setting.name, new_tokens)
        ]
        found = [row for row in found if row["identity"] == found[-1]["identity"]]
        if phase == "screen":
            return found
        last = {row["round"]: self._last_attempt(cell, phase, row["round"]) for row in found}
        return [row for row in found if row.get("attempt", 0) == last[row["round"]]]

    def _together(
        self, cell: Cell, phase: str, number: int, runs: Sequence[tuple[int, Setting]]
    ) -> None:
        """Run settings (slot, setting) one after another, unless the last attempt has them all."""
        last = self._last_attempt(cell, phase, number)
        if all(self._has(cell, phase, number, slot, each, last) for slot, each in runs):
            return
        for slot, setting in runs:
            self._say(f"{phase} {number}: {cell.name}: {setting.name}")
            tokens = self.protocol.new_tokens
            self._run(cell, setting, phase, number, slot, tokens, attempt=last + 1)

    def _last_attempt(self, cell: Cell, phase: str, number: int) -> int:
        """Return which attempt at a round or pass of a cell was the last; 0 if there was none."""
        return max(
            (
                row.get("attempt", 0)
                for row in self.store.rows
                if (row["phase"], row.get("round")) == (phase, number)
                and (row["model"], row["batch"], row["bits"]) == (cell.model, cell.batch, cell.bits)
                and row["new_tokens"] == self.protocol.new_tokens
            ),
            default=0,
        )

    def _has(
        self, cell: Cell, phase: str, number: int, slot: int, setting: Setting, attempt: int
    ) -> bool:
        tokens = self.protocol.new_tokens
        row = self._key(cell, setting, phase, number, slot, tokens, attempt)
        return self.store.has(row, retry=self.protocol.retry)

    def _key(
        self,
        cell: Cell,
        setting: Setting,
        phase: str,
        number: int,
        slot: int,
        new_tokens: int,
        attempt: int | None = None,
    ) -> Row:
        return ({} if attempt is None else {"attempt": attempt}) | {
            "phase": phase,
            "round": number,
            "slot": slot,
            "model": cell.model,
            "batch": cell.batch,
            "bits": cell.bits,
            "setting": setting.name,
            "identity": self._converted.identity(setting),
            "new_tokens": new_tokens,
        }

    def _run(
        self,
        cell: Cell,
        setting: Setting,
        phase: str,
        number: int,
        slot: int,
        new_tokens: int,
        attempt: int | None = None,
    ) -> None:
        row = self._key(cell, setting, phase, number, slot, new_tokens, attempt)
        if self.store.has(row, retry=self.protocol.retry):
            return
        row |= {"started": time.time(), "load": os.getloadavg()[0]}
        failure = self._converted.failure(cell.model, setting)
        if failure is None:
            row |= call(
                self.pythons[setting.environment],
                {
                    "action": "run",
                    "engine": setting.engine,
                    "folder": str(self._converted.folder(cell.model, setting)),
                    "options": setting.options,
                    "packages": setting.packages,
                    "prompt": prompt(cell.batch),
                    "new_tokens": new_tokens,
                    "warm_up_tokens": WARM_UP_TOKENS,
                    "threads": self.protocol.threads,
                },
                limit_s=self.protocol.limit_s,
            )
        else:
            row["error"] = failure
        self._say(f"  {row['error']}" if "error" in row else f"  {rate(row):.1f} tok/s")
        self.store.add(row)


def prompt(batch: int) -> list[list[int]]:
    """Return prompts of two tokens, another for each row; the first is the same at any batch."""
    return [
        [3 + (_VOCABULARY_STEP * (PROMPT_TOKENS * row + place)) % 15_990 for place in range(2)]
        for row in range(batch)
    ]


def of_cell(cell: Cell, settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings of a cell's bits that take its batch."""
    return [each for each in settings if each.bits == cell.bits and cell.batch in each.batches]


def cells_of(models: Sequence[str], batches: Sequence[int], bits: Sequence[int]) -> list[Cell]:
    """Return every combination."""
    return [
        Cell(model=model, batch=batch, bits=width)
        for width in bits
        for batch in batches
        for model in models
    ]


def near_the_best(
    names: Sequence[Any], speeds: Sequence[float], share: float, most: int
) -> list[Any]:
    """Return the fastest first, as long as they reach a share of the best one's speed."""
    ranked = sorted(zip(speeds, range(len(names)), strict=True), key=lambda pair: -pair[0])
    return [names[index] for speed, index in ranked[:most] if speed >= share * ranked[0][0]]


def shuffled(things: Sequence[Any], seed: str) -> Iterator[Any]:
    """Return the things in an order that the seed decides."""
    return iter(random.Random(seed).sample(list(things), len(things)))


def rate(row: Mapping[str, Any]) -> float:
    """Return the tokens a second, summed over the batch, with the prefill's time in it."""
    return float(row["tokens"]) / float(row["seconds"])


def decode_rate(row: Mapping[str, Any]) -> float:
    """Return the tokens a second of the steps after the first token."""
    decoded = row["tokens"] - row["batch"]
    return float(decoded) / float(row["seconds"] - row["first_token_seconds"])


def pass_slots(pass_runs: int) -> int:
    """Return how many runs a pass has: reference, row, reference, row, ..., reference."""
    return 2 * pass_runs + 1


def pass_ratios(rows: Sequence[Mapping[str, Any]], pass_runs: int) -> list[float]:
    """Return `pass_ratio` of each pass that is complete; one that was killed or failed has none."""
    passes: dict[int, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            passes.setdefault(row["round"], {})[row["slot"]] = row
    return [
        pass_ratio(list(slots.values()))
        for _, slots in sorted(passes.items())
        if len(slots) == pass_slots(pass_runs)
    ]


def pass_ratio(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return a row over the reference program, from runs that took turns (slots 0, 1, 2, ...).

    Each run of the row is set against the mean of the reference runs before and after it; the
    estimate is that of the tables, which needs fewer runs than a median.
    """
    speeds = [rate(row) for row in sorted(rows, key=lambda row: row["slot"])]
    beside = [(before + after) / 2 for before, after in pairwise(speeds[::2])]
    return paired_ratio(speeds[1::2], beside)[0].ratio
