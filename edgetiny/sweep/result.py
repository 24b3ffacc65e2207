"""What a sweep found: a row per shape, and what goes with quality."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.sweep.statistics import chance_bound, pareto_front, spearman

SCHEMA_VERSION = 1
_AXES = ("depth", "width", "expansion")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """Rows in the order of training; `settings` are those of the command."""

    settings: Mapping[str, Any]
    rows: list[dict[str, Any]]
    page: Path

    def document(self) -> dict[str, Any]:
        """Return what `sweep.json` holds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": dict(self.settings),
            "rows": self.rows,
            "correlations": self.correlations(),
        }

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        doubts = self.doubts()
        return {
            "shapes": self.ranked(),
            **({"doubts": doubts} if doubts else {}),
            "correlations": self.correlations(),
            "report": str(self.page),
        }

    def doubts(self) -> dict[str, str]:
        """Return why a shape's speed is not to be believed, for those of which bench said so."""
        return {row["shape"]: "; ".join(row["doubts"]) for row in self.rows if row.get("doubts")}

    def ranked(self) -> list[dict[str, Any]]:
        """Return the rows, the best first, with a mark where none is better and as fast."""
        best = pareto_front(
            [row["bits_per_byte"] for row in self.rows], [row["tok_s"] for row in self.rows]
        )
        marked = [
            {name: value for name, value in row.items() if name != "doubts"}
            | {"front": "*" if is_best else "", "valid": "no" if row.get("doubts") else "yes"}
            for row, is_best in zip(self.rows, best, strict=True)
        ]
        return sorted(marked, key=lambda row: float(row["bits_per_byte"]))

    def correlations(self) -> list[dict[str, Any]]:
        """Return Spearman's coefficient of each axis with bits per byte: below 0, more is better.

        A coefficient nearer to zero than `chance_95` is what 95 of 100 random orders give too.
        """
        quality = [row["bits_per_byte"] for row in self.rows]
        found = []
        for axis in _AXES:
            values = [float(row[axis]) for row in self.rows]
            rho = spearman(values, quality)
            if rho is not None:
                chance = chance_bound(values, quality)
                found.append(
                    {"axis": axis, "spearman": rho, "chance_95": chance, "shapes": len(quality)}
                )
        return found
