"""What one more layer costs beside its bytes: a fit of step time over the rows of a suite.

t = n * tau + bytes / BW: `n` layers, each with a fixed cost tau (launches, Python, barriers), and
bytes that are read at a bandwidth BW. The paper's Table 2 is almost all tau.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgetiny.errors import ConfigError

LEAST_DEPTHS = 3
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchCost:
    """A fit, with standard errors. bytes_per_s is None if more bytes did not take longer.

    r_squared: share of the variance of step times that the fit explains. not_valid: rows among
    these that other work, or the reading of the peaks, makes doubtful.
    """

    tau_ms: float
    tau_error_ms: float
    bytes_per_s: float | None
    bytes_per_s_error: float | None
    r_squared: float
    rows: int
    not_valid: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return what tables show."""
        bandwidth = "no limit seen"
        if self.bytes_per_s is not None and self.bytes_per_s_error is not None:
            bandwidth = f"{self.bytes_per_s / 1e9:.3g} +- {self.bytes_per_s_error / 1e9:.2g}"
        rows = f"{self.rows}, {self.not_valid} of them not valid" if self.not_valid else self.rows
        return {
            "ms_per_layer": f"{self.tau_ms:.3g} +- {self.tau_error_ms:.2g}",
            "gb_per_s": bandwidth,
            "r_squared": round(self.r_squared, 4),
            "rows": rows,
        }


def fit_launch_cost(
    layers: Sequence[int], n_bytes: Sequence[float], step_s: Sequence[float]
) -> LaunchCost:
    """Fit step times by least squares. Raises ConfigError for fewer than three different depths."""
    if len(set(layers)) < LEAST_DEPTHS:
        raise ConfigError(
            f"what a layer costs needs rows of at least {LEAST_DEPTHS} different depths, not"
            f" {len(set(layers))}"
        )
    # In GB and ms, so that both columns are of a size.
    unknowns = np.column_stack([layers, np.array(n_bytes) / 1e9])
    times = 1e3 * np.array(step_s)
    (tau, ms_per_gb), *_ = np.linalg.lstsq(unknowns, times)
    residual = times - unknowns @ [tau, ms_per_gb]
    variance = float(residual @ residual) / (len(times) - 2)
    errors = np.sqrt(variance * np.diag(np.linalg.pinv(unknowns.T @ unknowns)))
    spread = float(((times - times.mean()) ** 2).sum())
    has_slope = bool(ms_per_gb > 0)
    return LaunchCost(
        tau_ms=float(tau),
        tau_error_ms=float(errors[0]),
        bytes_per_s=1e12 / float(ms_per_gb) if has_slope else None,
        # First order: the error of a reciprocal, relative as that of the slope.
        bytes_per_s_error=1e12 * float(errors[1] / ms_per_gb**2) if has_slope else None,
        r_squared=1.0 - float(residual @ residual) / spread if spread else 1.0,
        rows=len(times),
    )


def fits(rows: Sequence[Row]) -> dict[str, LaunchCost]:
    """Return a fit for each group of rows that differ in their model only, where depths do."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[group_name(row, rows)].append(row)
    return {
        name: replace(
            fit_launch_cost(
                [row["model"]["num_hidden_layers"] for row in group],
                [row["roofline"]["bytes_per_step"] for row in group],
                [row["roofline"]["measured_step_ms"] / 1e3 for row in group],
            ),
            not_valid=sum(not row["valid"] for row in group),
        )
        for name, group in groups.items()
        if len({row["model"]["num_hidden_layers"] for row in group}) >= LEAST_DEPTHS
    }


def fits_table(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the fits as rows of a table; nothing if depths vary too little."""
    found = fits(rows)
    if not found:
        return {}
    return {"cost_of_a_layer": [{"rows_of": name} | fit.as_json() for name, fit in found.items()]}


def group_name(row: Row, rows: Sequence[Row]) -> str:
    """Return in words what a row has in common with others of the same protocol and engine."""
    depth = [f"context {row['n_depth']}"] if row["n_depth"] else []
    name = f"{row['runtime']} {row['precision']} batch {row['n_batch']}"
    return ", ".join([name, *depth, *differing(row, rows)])


def differing(row: Row, rows: Sequence[Row]) -> list[str]:
    """Return device, threads, lengths and repeats in words, each only where `rows` differ in it."""
    return [words(row) for words in _WORDS if len({words(each) for each in rows}) > 1]


_WORDS: tuple[Callable[[Row], str], ...] = (
    lambda row: str(row["device"]),
    lambda row: f"{row['n_threads']} threads",
    lambda row: f"{row['n_prompt']}+{row['n_gen']} tokens",
    lambda row: f"{row['protocol']['repeats']} runs",
    lambda row: f"{row['protocol'].get('sustained_minutes', 0):g} min sustained",
)
