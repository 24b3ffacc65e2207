"""What the page says: cells, screening, stability, and the circumstances of all of it."""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgetiny.checkpoint import Checkpoint, parameter_shapes
from edgetiny.device import cpu_model
from edgetiny.measure import median, ram_bytes
from edgetiny.runtimes import Runtime, open_runtime
from peers.agreement import SUSPICIOUS, mean_gap
from peers.conversion import Converted
from peers.measure import (
    PROMPT_TOKENS,
    WARM_UP_TOKENS,
    Cell,
    Measurement,
    of_cell,
    pass_ratios,
    prompt,
    rate,
)
from peers.page import LEAST_CONFIDENCE, Facts, cell_table, markdown
from peers.settings import REFERENCE, Setting

SCHEMA_VERSION = 1
STABLE = 0.05


def write_report(
    out: Path,
    cells: Sequence[Cell],
    settings: Sequence[Setting],
    measurement: Measurement,
    converted: Converted,
    work: Path,
) -> None:
    """Write `out`.json and `out`.md from the stored runs."""
    document = report(cells, settings, measurement, converted, work)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=True)
    out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(document), encoding="utf-8")


def report(
    cells: Sequence[Cell],
    settings: Sequence[Setting],
    measurement: Measurement,
    converted: Converted,
    work: Path,
) -> dict[str, Any]:
    """Return the whole document."""
    gaps = Gaps(work)
    tables, screening, stability = [], [], []
    for cell in cells:
        weights = _n_weights(work, cell.model)
        facts = {
            each.name: Facts(
                name=each.name,
                is_ours=each.is_ours,
                size_bytes=converted.facts(cell.model, each).get("bytes"),
                n_weights=weights,
                gap=gaps.of(cell.model, measurement.find("screen", cell, each)),
                screened=_screened(measurement.find("screen", cell, each)),
            )
            for each in of_cell(cell, settings)
        }
        rounds = [
            row
            for each in (*of_cell(cell, settings), REFERENCE)
            for row in measurement.find("round", cell, each)
        ]
        contestants = {row["setting"] for row in rounds} & facts.keys()
        if contestants:
            chosen = [each for name, each in facts.items() if name in contestants]
            tables.append(cell_table(cell.name, rounds, chosen))
        screening += _screening(cell, settings, measurement, facts)
        stability += _stability(cell, settings, measurement)
    return {
        "schema_version": SCHEMA_VERSION,
        "introduction": _introduction(measurement),
        "machine": _machine(measurement),
        "cells": tables,
        "screening_note": _screening_note(measurement),
        "screening": screening,
        "stability_note": (
            "Separate passes that ran to their end; in each, runs of the row"
            f" ({measurement.protocol.pass_runs}) took turns with runs of the reference program."
            " A ratio is the signed-rank estimate of the row's speed over the mean of its two"
            " neighbours."
        ),
        "stability": stability,
        "settings": [_described(each, converted, cells) for each in settings],
    }


class Gaps:
    """How far the first ids of runs are from the fp32 reference; each model is opened once."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._references: dict[str, Runtime] = {}

    def of(self, model: str, runs: Sequence[Mapping[str, Any]]) -> float | None:
        """Return the mean gap of the last run's ids; None if it shows none."""
        ids = runs[-1].get("first_ids") if runs else None
        if not ids:
            return None
        if model not in self._references:
            path = self._work / "models" / model
            self._references[model] = open_runtime(path, runtime="eager", context=64)
        return round(mean_gap(self._references[model], prompt(1)[0], ids), 3)


def _screened(found: Sequence[Mapping[str, Any]]) -> float | None:
    return rate(found[-1]) if found and "error" not in found[-1] else None


def _n_weights(work: Path, model: str) -> int:
    shapes = parameter_shapes(Checkpoint.open(work / "models" / model).config)
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _screening(
    cell: Cell,
    settings: Sequence[Setting],
    measurement: Measurement,
    facts: Mapping[str, Facts],
) -> list[dict[str, Any]]:
    rows = []
    for setting in of_cell(cell, settings):
        found = measurement.find("screen", cell, setting)
        if found:
            error = found[-1].get("error")
            rows.append((setting, None if error else rate(found[-1]), error))
    best = max((speed or 0.0 for setting, speed, _ in rows if not setting.is_ours), default=0.0)
    return [
        {
            "cell": cell.name,
            "setting": setting.name,
            "tok_per_s": None if speed is None else round(speed, 2),
            "of_best_peer": round(speed / best, 3) if speed and best else None,
            "size_bytes": facts[setting.name].size_bytes,
            "gap": facts[setting.name].gap,
            "error": error,
        }
        for setting, speed, error in sorted(rows, key=lambda row: -(row[1] or 0.0))
    ]


def _stability(
    cell: Cell, settings: Sequence[Setting], measurement: Measurement
) -> list[dict[str, Any]]:
    found = []
    for setting in (each for each in of_cell(cell, settings) if each.is_ours):
        phase = measurement.stability_phase(setting)
        runs = [row for each in (setting, REFERENCE) for row in measurement.find(phase, cell, each)]
        ratios = pass_ratios(runs, measurement.protocol.pass_runs)
        if len(ratios) > 1:
            apart = max(ratios) / min(ratios) - 1
            found.append(
                {
                    "cell": cell.name,
                    "setting": setting.name,
                    "ratios": [round(ratio, 4) for ratio in ratios],
                    "apart": round(apart, 4),
                    "holds": apart <= STABLE,
                }
            )
    return found


def _machine(measurement: Measurement) -> dict[str, Any]:
    rows = measurement.store.rows
    seen = [row for row in rows if row["phase"] == "machine"]
    loads = [row["load"] for row in rows if "load" in row]
    return {
        "cpu": cpu_model(),
        "threads": measurement.protocol.threads,
        "ram_bytes": ram_bytes(),
        "kernel": os.uname().release,
        "commit": _commit(),
        "written": time.strftime("%Y-%m-%d", time.gmtime()),
        "read_bandwidth_bytes_per_s": [round(row["bytes_per_s"]) for row in seen],
        "load_median": round(median(loads), 2) if loads else None,
        "load_highest": round(max(loads), 2) if loads else None,
    }


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _introduction(measurement: Measurement) -> list[str]:
    machine, protocol = _machine(measurement), measurement.protocol
    speeds = [value / 1e9 for value in machine["read_bandwidth_bytes_per_s"]]
    reads = f"{min(speeds):.0f} to {max(speeds):.0f} GB/s" if speeds else "not measured"
    return [
        f"Made by `bench/peers/run.py` ([how](../peers.md)) on {machine['cpu']},"
        f" {machine['threads']} threads, memory read at {reads}; load average"
        f" {machine['load_median']} in the median and {machine['load_highest']} at most, our own"
        f" runs included; commit {machine['commit']}, {machine['written']}.",
        "",
        f"Each run is a fresh process that adds {protocol.new_tokens} greedy tokens to"
        f" {PROMPT_TOKENS}, after a warm-up of {WARM_UP_TOKENS}; no token ends a sequence. tok/s is"
        " summed over the batch with the prefill in it; decode tok/s leaves the first token out."
        " Contestants of a cell ran in each round one after another, in an order drawn anew. The"
        " ratio is ours over the peer's of the same round, with the signed-rank estimate and"
        " interval (five rounds: the whole range, 93.75%); **an interval that includes 1 is a"
        f" tie**, and one that holds with less than {LEAST_CONFIDENCE:.0%} is no verdict."
        " bits/weight is the file over the model's own weights, embedding once. gap: how far the"
        " engine's first 16 choices lie below the best logit of the fp32 reference, in deviations"
        f" of the logits (chance is about 4, over {SUSPICIOUS:g} is marked); llama.cpp's program"
        " shows no ids.",
    ]


def _screening_note(measurement: Measurement) -> str:
    protocol = measurement.protocol
    return (
        f"Every setting once, {protocol.screen_tokens} new tokens: one run is no measurement of"
        f" small differences. The rounds above hold ours and at most {protocol.keep_most} peers"
        f" that reached {protocol.keep_share:.0%} of the cell's best peer here."
    )


def _described(setting: Setting, converted: Converted, cells: Sequence[Cell]) -> str:
    found = [converted.facts(cell.model, setting) for cell in cells]
    versions: Mapping[str, str] = next(
        (each["versions"] for each in found if each.get("versions")), {}
    )
    shown = ", ".join(f"{name} {number}" for name, number in versions.items()) or "no versions"
    # Where files lie on one machine is nothing that a reader needs.
    options = {
        key: Path(value).name if isinstance(value, str) and value.startswith("/") else value
        for key, value in setting.options.items()
    }
    return f"{setting.name}: `{json.dumps(options)}`; {shown}"
