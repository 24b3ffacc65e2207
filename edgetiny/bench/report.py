"""The page of a benchmark: what was asked, charts, and every row in figures."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from edgetiny import page
from edgetiny.bench.charts import Chart, charts
from edgetiny.bench.launch_cost import fits_table
from edgetiny.bench.table import lines, shared_facts

Row = Mapping[str, Any]


def report(title: str, rows: Sequence[Row]) -> str:
    """Return one HTML document without outside references."""
    body = [f"<h1>{html.escape(title)}</h1>", page.facts_table(shared_facts(rows))]
    for chart in charts(rows):
        body += _section(chart)
    fits = fits_table(rows).get("cost_of_a_layer")
    if fits:
        body += [
            "<h2>What a layer costs</h2>",
            "<p>Least squares over the rows of one protocol and engine: time of a step = layers x"
            " cost + bytes / bandwidth, with standard errors. A cost near zero means that depth is"
            " paid for in bytes alone.</p>",
            page.table(fits),
        ]
    body += ["<h2>Rows</h2>", page.table(lines(rows)), *_doubts(rows)]
    return page.page(title, body)


def _section(chart: Chart) -> list[str]:
    parts = [f"<h2>{html.escape(chart.title)}</h2>", f"<p>{html.escape(chart.caption)}</p>"]
    return [*parts, chart.svg]


def _doubts(rows: Sequence[Row]) -> list[str]:
    doubts = [(row["model_filename"], "; ".join(row["doubts"])) for row in rows if row["doubts"]]
    if not doubts:
        return []
    items = "".join(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in doubts)
    return ["<h2>Rows that are not valid</h2>", f"<ul>{items}</ul>"]
