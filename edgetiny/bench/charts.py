"""Rows as charts: speed against depth, the roofline, scaling with the batch and with the context.

A chart is drawn where what it shows varies among the rows.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetiny.bench.launch_cost import differing, group_name
from edgetiny.svg import Series, line_chart

Row = Mapping[str, Any]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with its headline and what to see in it."""

    title: str
    caption: str
    svg: str


def charts(rows: Sequence[Row]) -> list[Chart]:
    """Return every chart that these rows fill."""
    found = [
        *_against_depth(rows),
        _roofline(rows),
        *_scaling(rows, "n_batch", "batch", "tok/s summed over the batch", _summed),
        *_scaling(rows, "n_depth", "tokens in the cache beforehand", "ms per step", _step_ms),
        *_sustained(rows),
    ]
    return found


def _against_depth(rows: Sequence[Row]) -> list[Chart]:
    found = _curves(rows, lambda row: group_name(row, rows), _layers, _speed)
    curves = {name: curve for name, curve in found if len(curve) > 1}
    if not curves:
        return []
    given = {
        _layers(row): row["reference"]["tok_per_s_per_sequence"]
        for row in rows
        if "reference" in row
    }
    if len(given) > 1:
        curves["reference"] = sorted(given.items())
    source = next((row["reference"].get("source", "") for row in rows if "reference" in row), "")
    caption = f"Reference: {source}." if source else ""
    relative = {name: [(x, y / curve[0][1]) for x, y in curve] for name, curve in curves.items()}
    return [
        Chart(
            "Speed against depth, relative to the shallowest",
            "1 is no cost of depth among shapes of one size. " + caption,
            _draw(relative, "layers", "speed over that of the shallowest"),
        ),
        Chart(
            "Speed against depth",
            f"Tokens a second of each sequence. {caption}".strip(),
            _draw(curves, "layers", "tok/s per sequence"),
        ),
    ]


def _roofline(rows: Sequence[Row]) -> Chart:
    """Return time against bytes: the roof is a straight line, and no log scale hides a factor."""

    def name(row: Row) -> str:
        return " ".join([row["runtime"], row["precision"], *differing(row, rows)])

    curves = dict(_curves(rows, name, _gb, _step_ms))
    most = max(_gb(row) for row in rows)
    rate = max(row["roofline"]["read_bytes_per_s"] for row in rows) / 1e9
    curves[f"limit: {rate:.4g} GB/s"] = [(0.0, 0.0), (most, 1e3 * most / rate)]
    return Chart(
        "Roofline",
        "Time of a step against the bytes it has to read; the line is the bandwidth of this"
        " machine, measured in the same call. Large batches may be limited by arithmetic instead.",
        _draw(curves, "GB a step", "ms per step"),
    )


def _scaling(
    rows: Sequence[Row], key: str, x_label: str, y_label: str, y: Callable[[Row], float]
) -> list[Chart]:
    def name(row: Row) -> str:
        parts = [row["model_filename"], row["runtime"], row["precision"]]
        others = {"n_batch": "batch", "n_depth": "context"}
        parts += [f"{word} {row[other]}" for other, word in others.items() if other != key]
        return " ".join([*parts, *differing(row, rows)])

    curves = {
        name: curve
        for name, curve in _curves(rows, name, lambda row: float(row[key]), y)
        if len(curve) > 1
    }
    if not curves:
        return []
    return [Chart(f"Scaling with {x_label}", "", _draw(curves, x_label, y_label))]


def _sustained(rows: Sequence[Row]) -> list[Chart]:
    curves = {
        f"{row['model_filename']} {group_name(row, rows)}": [
            (sample["at_s"] / 60, sample["tok_per_s_summed"])
            for sample in row["sustained"]["samples"]
        ]
        for row in rows
        if "sustained" in row
    }
    if not curves:
        return []
    return [Chart("Sustained", "", _draw(curves, "minutes", "tok/s summed over the batch"))]


def _curves(
    rows: Sequence[Row],
    name: Callable[[Row], str],
    x: Callable[[Row], float],
    y: Callable[[Row], float],
) -> Iterable[tuple[str, list[Point]]]:
    """Yield the points of each group of rows, by x; of several at one x the first."""
    groups: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows:
        groups[name(row)].setdefault(x(row), y(row))
    for group, points in groups.items():
        yield group, sorted(points.items())


def _draw(curves: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    series = [Series(name, points, has_marks=True) for name, points in curves.items()]
    return line_chart(series, x_label, y_label)


def _layers(row: Row) -> float:
    return float(row["model"]["num_hidden_layers"])


def _speed(row: Row) -> float:
    return float(row["tok_per_s_per_sequence"]["median"])


def _summed(row: Row) -> float:
    return float(row["tok_per_s_summed"]["median"])


def _step_ms(row: Row) -> float:
    return float(row["roofline"]["measured_step_ms"])


def _gb(row: Row) -> float:
    return float(row["roofline"]["bytes_per_step"]) / 1e9
