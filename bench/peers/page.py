"""The table of ratios, as JSON and as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from peers.agreement import SUSPICIOUS
from peers.intervals import paired_ratio
from peers.measure import decode_rate, rate
from peers.settings import REFERENCE

Row = Mapping[str, Any]

LEAST_CONFIDENCE = 0.9  # five rounds reach 93.75%, four 87.5%

_HEAD = (
    *("engine and setting", "tok/s (lowest to highest)", "decode tok/s", "ours / it (interval)"),
    *("decode alone", "verdict", "MB", "bits/weight", "peak RSS, MB", "gap"),
)
_SCREEN_HEAD = ("cell", "engine and setting", "tok/s", "of the best peer", "MB", "why not")


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a setting in a cell apart from its runs.

    screened: tok/s of the screening; None if it failed there.
    """

    name: str
    is_ours: bool
    size_bytes: int | None
    n_weights: int
    gap: float | None
    screened: float | None = None


def cell_table(cell: str, rounds: Sequence[Row], facts: Sequence[Facts]) -> dict[str, Any]:
    """Return one cell: every setting of its rounds, ours first, beside the best of ours.

    The best is what the screening says: chosen by the rounds themselves, it would be compared in
    those that it was lucky in. Only rounds in which both ran are compared. What failed is listed
    with its reason, unless it ran in that round when tried again.
    """
    runs = {each.name: _by_round(rounds, each.name) for each in facts}
    ours = [each for each in facts if each.is_ours and runs[each.name]]
    best = max(
        ours,
        key=lambda each: (each.screened or 0.0, _median_rate(runs[each.name])),
        default=None,
    )
    ranked = sorted(facts, key=lambda each: (not each.is_ours, -_median_rate(runs[each.name])))
    rows = [
        _row(each, runs[each.name], None if best is None else runs[best.name], each == best)
        for each in ranked
    ]
    reference = _by_round(rounds, REFERENCE.name)
    done = {(row["setting"], row["round"]) for row in rounds if "error" not in row}
    return {
        "cell": cell,
        "ours": None if best is None else best.name,
        "rounds": len({row["round"] for row in rounds}),
        "reference_tok_per_s": [round(rate(row), 2) for row in reference.values()],
        "rows": rows,
        "failures": [
            {"setting": row["setting"], "round": row["round"], "error": row["error"]}
            for row in rounds
            if "error" in row and (row["setting"], row["round"]) not in done
        ],
    }


def _by_round(rows: Sequence[Row], name: str) -> dict[int, Row]:
    return {row["round"]: row for row in rows if row["setting"] == name and "error" not in row}


def _median_rate(runs: Mapping[int, Row]) -> float:
    return median([rate(row) for row in runs.values()]) if runs else 0.0


def _row(
    facts: Facts, runs: Mapping[int, Row], ours: Mapping[int, Row] | None, is_best: bool
) -> dict[str, Any]:
    rates = sorted(rate(row) for row in runs.values())
    found: dict[str, Any] = {
        "setting": facts.name,
        "is_ours": facts.is_ours,
        "n_runs": len(runs),
        "tok_per_s": _rounded(rates),
        "decode_tok_per_s": _rounded(sorted(decode_rate(row) for row in runs.values())),
        "size_bytes": facts.size_bytes,
        "bits_per_weight": (
            None if not facts.size_bytes else round(8 * facts.size_bytes / facts.n_weights, 3)
        ),
        "peak_rss_bytes": max((row["peak_rss_bytes"] for row in runs.values()), default=None),
        "gap": facts.gap,
        "versions": next((row["versions"] for row in runs.values()), {}),
    }
    shared = sorted(runs.keys() & (ours or {}).keys())
    if ours is not None and shared and not is_best:
        for key, speed in (("ratio", rate), ("decode_ratio", decode_rate)):
            interval, confidence = paired_ratio(
                [speed(ours[each]) for each in shared], [speed(runs[each]) for each in shared]
            )
            found[key] = {
                "ratio": round(interval.ratio, 4),
                "low": round(interval.low, 4),
                "high": round(interval.high, 4),
                "confidence": round(confidence, 4),
                "rounds": len(shared),
                "verdict": verdict(interval.low, interval.high, confidence),
            }
    return found


def verdict(low: float, high: float, confidence: float) -> str:
    """Return what an interval of ours over theirs says, if it holds with some confidence."""
    if confidence < LEAST_CONFIDENCE:
        return "too few rounds"
    if low <= 1.0 <= high:
        return "tie"
    return "ours faster" if low > 1.0 else "ours slower"


def _rounded(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "median": round(median(values), 2),
        "lowest": round(values[0], 2),
        "highest": round(values[-1], 2),
    }


def markdown(document: Mapping[str, Any]) -> str:
    """Return the page."""
    lines = ["# Ours beside its peers", "", *document["introduction"], ""]
    for table in document["cells"]:
        lines += [f"## {table['cell']}", ""]
        if table["ours"] is not None:
            lines += [f"Ratios of `{table['ours']}` over each, {table['rounds']} rounds.", ""]
        lines += _lines(_HEAD, [_cells(row, table["rounds"]) for row in table["rows"]])
        lines += [
            f"- {each['setting']} failed in round {each['round']}: {each['error']}"
            for each in table["failures"]
        ]
        lines.append("")
    lines += ["## Screening", "", document["screening_note"], ""]
    lines += _lines(_SCREEN_HEAD, [_screen_cells(row) for row in document["screening"]])
    if document["stability"]:
        lines += ["", "## Stability", "", document["stability_note"], ""]
        head = ("cell", "setting", "ratios to the reference program", "apart", "within 5%")
        lines += _lines(head, [_stability_cells(row) for row in document["stability"]])
    lines += ["", "## Settings", "", *(f"- {line}" for line in document["settings"])]
    return "\n".join(lines).rstrip() + "\n"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [*([list(head)]), *rows]
    table = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in shown]
    return [table[0], "|" + "---|" * len(head), *table[1:]]


def _cells(row: Row, rounds: int) -> list[str]:
    speed, decode, ratio = row["tok_per_s"], row["decode_tok_per_s"], row.get("ratio")
    alone = row.get("decode_ratio")
    gap = row["gap"]
    return [
        f"**{row['setting']}**" if row["is_ours"] else row["setting"],
        "-"
        if not speed
        else f"{speed['median']:.0f} ({speed['lowest']:.0f} to {speed['highest']:.0f})",
        f"{decode['median']:.0f}" if decode else "-",
        "-" if ratio is None else _ratio(ratio, rounds),
        "-" if alone is None else f"{alone['ratio']:.2f}",
        "-" if ratio is None else ratio["verdict"],
        _megabytes(row["size_bytes"]),
        "-" if row["bits_per_weight"] is None else f"{row['bits_per_weight']:.2f}",
        _megabytes(row["peak_rss_bytes"]),
        "-" if gap is None else f"{gap:.2f}" + (" !" if gap > SUSPICIOUS else ""),
    ]


def _ratio(ratio: Row, rounds: int) -> str:
    shared = "" if ratio["rounds"] == rounds else f", {ratio['rounds']} rounds"
    return f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}){shared}"


def _screen_cells(row: Row) -> list[str]:
    return [
        row["cell"],
        row["setting"],
        "-" if row["tok_per_s"] is None else f"{row['tok_per_s']:.0f}",
        "-" if row["of_best_peer"] is None else f"{row['of_best_peer']:.2f}",
        _megabytes(row["size_bytes"]),
        row["error"] or "",
    ]


def _stability_cells(row: Row) -> list[str]:
    ratios = ", ".join(f"{ratio:.3f}" for ratio in row["ratios"])
    word = "yes" if row["holds"] else "no"
    return [row["cell"], row["setting"], ratios, f"{row['apart']:.1%}", word]


def _megabytes(size: int | None) -> str:
    return "-" if not size else f"{size / 1e6:.0f}"
