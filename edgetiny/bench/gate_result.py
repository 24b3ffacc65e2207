"""What a gate found: the verdict, and the same as a table, a comment, and two services' JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgetiny.bench.deterministic import Absent, Change, Figures
from edgetiny.bench.gate_speed import SpeedRow
from edgetiny.bench.interval import Interval, clustered_ratio
from edgetiny.bench.verdict import Verdict
from edgetiny.config.compare import GateConfig
from edgetiny.markdown import markdown_table
from edgetiny.measure import median, spread

SCHEMA_VERSION = 1

Overall = Literal["regress", "inconclusive", "pass", "measured"]
_EXIT_CODES = {"regress": 1, "inconclusive": 3, "pass": 0, "measured": 0}
_NOT_INTERLEAVED = (
    "speeds of a stored baseline were measured at another time, not interleaved: a slowdown against"
    " them is no proof and makes the gate inconclusive at most; --base REV gives one"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedLine:
    """One batch size. change: head over base, None if there is nothing to hold it against."""

    row: SpeedRow
    base_step_ms: float | None
    change: Interval | None
    verdict: Verdict | None

    @classmethod
    def of(cls, row: SpeedRow) -> "SpeedLine":
        """Return a row that was measured interleaved with its base."""
        found = row.judgement
        return cls(
            row=row, base_step_ms=row.base_step_ms, change=found.change, verdict=found.verdict
        )

    def cells(self) -> dict[str, Any]:
        """Return the row of a table."""
        found = self.row.judgement
        return {
            "row": self.row.name,
            "base_ms": "-" if self.base_step_ms is None else f"{self.base_step_ms:.3g}",
            "head_ms": f"{self.row.head_step_ms:.3g}",
            "head_over_base": "-" if self.change is None else self.change.text,
            "noise": f"{found.noise:.1%}",
            "counts_from": f"{found.threshold:.1%}",
            "samples": self.row.n_samples,
            "verdict": self.verdict or "-",
        }


def stored_line(
    row: SpeedRow, stored_ms: Sequence[Sequence[float]], config: GateConfig
) -> SpeedLine:
    """Return a row of head against itself, held against rounds of another time if there are any.

    Slower or faster than those is `inconclusive`: the machine may have changed in between.
    """
    if not stored_ms:
        return SpeedLine(row=row, base_step_ms=None, change=None, verdict=None)
    now = [[block.head for block in each] for each in row.rounds]
    change = clustered_ratio(stored_ms, now, config.confidence)
    is_within = change.low > 1.0 / (1.0 + config.margin) and change.high < 1.0 + config.margin
    return SpeedLine(
        row=row,
        base_step_ms=median([value for each in stored_ms for value in each]),
        change=change,
        verdict="same" if is_within else "inconclusive",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """A finished gate. `exit_code` is what the process ends with: 1 regress, 3 inconclusive."""

    base: str | None
    head: str
    is_stored: bool
    speed: list[SpeedLine]
    changes: list[Change]
    figures: Figures
    absent: Absent
    machine: dict[str, Any] = field(default_factory=dict)
    suite: dict[str, Any] = field(default_factory=dict)
    margin: float = 0.05

    @property
    def verdict(self) -> Overall:
        """regress if anything regressed, else inconclusive if anything was, else pass."""
        found = {line.verdict for line in self.speed} | {each.outcome for each in self.changes}
        if self.base is None:
            return "measured"
        if "regress" in found:
            return "regress"
        return "inconclusive" if "inconclusive" in found else "pass"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 a proven regression, 3 not to be told."""
        return _EXIT_CODES[self.verdict]

    def document(self) -> dict[str, Any]:
        """Return the gate's file: docs/formats/gate.md."""
        speed = []
        for line in self.speed:
            row = line.row.as_json() | {"base_step_ms": line.base_step_ms, "verdict": line.verdict}
            change = line.change
            row |= {
                "ratio": None if change is None else change.ratio,
                "low": None if change is None else change.low,
                "high": None if change is None else change.high,
            }
            speed.append(row)
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "gate",
            "verdict": self.verdict,
            "base": self.base,
            "head": self.head,
            "is_interleaved": not self.is_stored,
            "machine": self.machine,
            "suite": self.suite,
            "margin": self.margin,
            "speed": speed,
            "figures": {name: each.as_json() for name, each in self.figures.items()},
            "changes": [
                {
                    "name": each.name,
                    "unit": each.unit,
                    "base": each.base,
                    "head": each.head,
                    "tolerance": each.tolerance,
                    "outcome": each.outcome,
                    "note": each.note,
                }
                for each in self.changes
            ],
            "absent": self.absent,
        }

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        machine = self.machine
        shown: dict[str, Any] = {
            "verdict": self.verdict,
            "base": self.base or "none: head was measured alone",
            "head": self.head,
            "machine": f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores",
        }
        if self.is_stored and self.speed:
            shown["note"] = _NOT_INTERLEAVED
        shown["speed"] = [line.cells() for line in self.speed]
        if self.base is None:
            shown["figures"] = [
                {"figure": name, "head": f"{each.value:,.0f}"}
                for name, each in self.figures.items()
            ]
        else:
            shown["figures"] = [_figure_cells(each) for each in self.changes]
        return shown | ({"absent": self.absent} if self.absent else {})

    def files(self, config: GateConfig) -> dict[Path, str]:
        """Return the text of each file that the settings name."""
        texts = {
            config.out: _json(self.document()),
            config.markdown: self.markdown(),
            config.github: _json(self.github()),
            config.bencher: _json(self.bencher()),
        }
        return {path: text for path, text in texts.items() if path is not None}

    def markdown(self) -> str:
        """Return a comment for a pull request."""
        shown = self.summary()
        lines = [f"### Speed: {self.verdict}", "", f"{shown['base']} against {shown['head']}", ""]
        for part in ("speed", "figures"):
            if shown[part]:
                lines += [*markdown_table(shown[part]), ""]
        lines += [f"- absent: {name}: {why}" for name, why in self.absent.items()]
        lines += [f"\n{shown['note']}"] if "note" in shown else []
        lines += [f"\n{shown['machine']}. Noise: base against itself, in the same blocks."]
        return "\n".join(lines) + "\n"

    def github(self) -> list[dict[str, Any]]:
        """Return github-action-benchmark's list, for `tool: customBiggerIsBetter`."""
        rows = []
        for line in self.speed:
            rates = spread(line.row.head_tok_per_s)
            rows.append(
                {
                    "name": line.row.name,
                    "unit": "tok/s",
                    "value": rates.median,
                    "range": f"{rates.p10:.4g} to {rates.p90:.4g}",
                    "extra": f"{self.head}; step {line.row.head_step_ms:.4g} ms",
                }
            )
        return rows

    def bencher(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return Bencher's metric format: benchmark, measure, value with bounds."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for line in self.speed:
            rates = spread(line.row.head_tok_per_s)
            found[line.row.name] = {
                "throughput": {
                    "value": rates.median,
                    "lower_value": rates.p10,
                    "upper_value": rates.p90,
                }
            }
        for name, each in self.figures.items():
            found[name] = {each.unit.lower(): {"value": float(each.value)}}
        return found


def _figure_cells(change: Change) -> dict[str, Any]:
    return {
        "figure": change.name,
        "base": "-" if change.base is None else f"{change.base:,.0f}",
        "head": "-" if change.head is None else f"{change.head:,.0f}",
        "change": "-" if change.share is None else f"{change.share:+.2%}",
        "passes_up_to": f"{change.tolerance:+.1%}",
        "outcome": change.outcome,
        "what": change.note,
    }


def _json(payload: object) -> str:
    return json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
