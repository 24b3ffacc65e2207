"""The page of `edgetiny importance`: the paper's Figure 5 for one model, by loss."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from edgetiny.page import page, table
from edgetiny.svg import Series, line_chart

_NO_CHART = "<p>A model of one layer has no chart: without that layer it is none.</p>"


def render(found: Mapping[str, Any]) -> str:
    """Return the tables and the chart as one HTML document without outside references."""
    body = [f"<h1>What {html.escape(found['checkpoint'])} would miss</h1>"]
    if "layers" in found:
        body += [
            "<h2>Layers</h2>",
            f"<p>Held-out loss, nats per token, with runs of neighbours skipped, by the first of"
            f" them; {found['loss']:.4f} with all layers. Turn: 1 - cos(in, out).</p>",
            _NO_CHART if len(found["layers"]) == 1 else layer_chart(found["layers"]),
            table(found["layers"]),
        ]
    if "neurons" in found:
        body += [
            "<h2>Neurons</h2>",
            "<p>The share of the score that the best half has, averaged over the layers' sets: 0.5"
            " says that a method sees no difference.</p>",
            table(found["neurons"]),
        ]
    return page("edgetiny importance", body)


def layer_chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the losses against the first layer that is skipped, a curve for each length."""
    names = [name for name in rows[0] if name.startswith("loss_without_")]
    series = [
        Series(
            f"skip {name.removeprefix('loss_without_')}",
            [(row["layer"], row[name]) for row in rows if row[name] is not None],
            has_marks=True,
        )
        for name in names
    ]
    return line_chart(series, "first layer that is skipped", "loss, nats per token")
