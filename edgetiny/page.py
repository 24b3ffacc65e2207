"""One HTML page without outside references: its style, and tables of figures."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any


def page(title: str, body: Sequence[str]) -> str:
    """Return the parts of a body as one HTML document."""
    return _PAGE.format(title=html.escape(title), style=_STYLE, body="\n".join(body))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table, with a column for each key that one of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(_number_cell(row.get(name)) for name in columns) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def svg_file(chart: str) -> str:
    """Return a chart as a file of its own, with the style that a page would give it, in light."""
    light = dict(re.findall(r"--(\w+):(#\w+)", _COLOURS.split("@media")[0]))
    style = re.sub(r"var\(--(\w+)\)", lambda found: light[found[1]], _CHART_STYLE)
    opening, rest = chart.split(">", 1)
    return (
        f'{opening} xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="{light["paper"]}"/>{rest}\n'
    )


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return a mapping as an HTML table of two columns."""
    rows = "".join(
        f"<tr><td>{html.escape(str(key).replace('_', ' '))}</td>{_number_cell(value)}</tr>"
        for key, value in facts.items()
    )
    return f"<table class='facts'>{rows}</table>"


def _number_cell(value: object) -> str:
    if isinstance(value, bool):
        return f"<td class='n'>{'yes' if value else 'no'}</td>"
    if isinstance(value, int):
        return f"<td class='n'>{value:,}</td>"
    if isinstance(value, float):
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return f"<td class='n'>{text}</td>"
    return f"<td class='n'>{html.escape('-' if value is None else str(value))}</td>"


_COLOURS = """
:root { --ink:#1c2330; --dim:#5b6472; --paper:#fdfdfb; --rule:#d9dce1; --fill:#2f6fb3;
  --s1:#c2571a; --s2:#2e8b57; --s3:#8a4fb0; --s4:#a3873a; --s5:#5b6472;
  --s6:#c23a6b; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink:#e4e7ec; --dim:#9aa3b1; --paper:#14171c;
  --rule:#343a44; --fill:#6aa5e6; --s1:#f09a5d; --s2:#66c48f; --s3:#c79be6; --s4:#d9bd6b;
  --s5:#9aa3b1; --s6:#f083a8; } }
"""

_CHART_STYLE = """
svg { width: 100%; max-width: 44rem; display:block; font-size: 11px; }
svg text { fill: var(--dim); } svg .grid { stroke: var(--rule); }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.s0 { stroke: var(--fill); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); }
.s3 { stroke: var(--s3); } .s4 { stroke: var(--s4); } .s5 { stroke: var(--s5); }
.s6 { stroke: var(--s6); }
svg circle { fill: var(--paper); stroke-width: 1.8; r: 3px; }
svg line { stroke-width: 1.2; }
"""

_STYLE = (
    _COLOURS
    + """
body { font: 16px/1.55 system-ui, sans-serif; color:var(--ink); background:var(--paper);
  max-width: 56rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; } h2 { margin: 2.4rem 0 .6rem; }
h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
.lead { font-size: 1.15rem; } small { color:var(--dim); }
table { border-collapse: collapse; width: 100%; font-size: .93rem; display:block; overflow-x:auto; }
th { text-align: left; color: var(--dim); font-weight: 500; border-bottom: 1px solid var(--rule); }
th, td { padding: .35rem .9rem .35rem 0; vertical-align: top; }
td { border-bottom: 1px solid var(--rule); } td.n { font-variant-numeric: tabular-nums; }
tr.peer td { color: var(--dim); } .facts { margin-top: .8rem; }
.bar { display:block; height:4px; width: 9rem; background: var(--rule); margin-top:.25rem; }
.bar span { display:block; height:4px; background: var(--fill); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--rule);
  margin: .2rem 0; padding: .2rem .9rem; font-size: .88rem; }
"""
    + _CHART_STYLE
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""
