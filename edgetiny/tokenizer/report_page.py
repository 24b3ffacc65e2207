"""The page of `edgetiny tokenizer report`: Figures 2 and 3 of the paper, for one tokenizer."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from edgetiny.page import facts_table, page, table
from edgetiny.svg import Series, line_chart

_PERCENT = (
    *("coverage", "token_growth", "worst_growth", "parts_of_characters_or_unknown"),
    *("embedding_and_head_untied", "embedding_and_head_tied"),
    *("most_frequent", "as_compress_chooses"),
)


def render(document: Mapping[str, Any]) -> str:
    """Return the report as one HTML document without outside references."""
    tokenizer, found = document["tokenizer"], document["recommendation"]
    size = found["recommended_vocab_size"]
    verdict = f"Take {size:,} pieces" if size is not None else "No size to recommend"
    body = [
        f"<h1>{verdict}</h1>",
        f"<p class='lead'>A smaller vocabulary for <code>{html.escape(tokenizer['path'])}</code>,"
        f" {tokenizer['vocab_size']:,} pieces, {html.escape(tokenizer['kind'])}, on"
        f" {tokenizer['bytes']:,} bytes of text.</p>",
        _list(found["reasons"]),
        f"<p>What to do:</p>{_list(found['advice'])}" if found["advice"] else "",
        "<h2>Coverage</h2>",
        _coverage(document["coverage_curve"]),
        "<h2>Embedding and head</h2>",
        _shares([*document["sizes"], tokenizer], document["model"]),
        "<h2>What each size costs</h2>",
        "<p>Growth is measured: a sample of the text, spread over all of it, was tokenized again"
        " with each compact tokenizer. Coverage alone does not say how lost tokens are"
        " spelled.</p>",
        table(_in_percent(document["sizes"])),
        "<h2>Tokens per byte, by text</h2>",
        _speed_note(document["groups"]),
        table(_in_percent(document["groups"])),
        "<h2>The text, with the tokenizer as it is</h2>",
        table(_in_percent(document["sources"])),
        facts_table(_in_percent([tokenizer])[0]),
    ]
    return page("edgetiny tokenizer report", body)


def _coverage(points: Sequence[Mapping[str, float]]) -> str:
    series = [
        Series("the most frequent alone", _points(points, "most_frequent")),
        Series("as compress chooses", _points(points, "as_compress_chooses")),
    ]
    chart = line_chart(series, "pieces kept", "share of token occurrences")
    return (
        "<p>How much of the text the pieces cover (the paper's Figure 2): the most frequent ones"
        " alone, and those that compress keeps, each with what it is built from.</p>"
        f"{chart}{table(_in_percent(points[:: max(1, len(points) // 12)]))}"
    )


def _shares(sizes: Sequence[Mapping[str, Any]], model: str) -> str:
    series = [
        Series(name, [(row["vocab_size"], row[f"embedding_and_head_{name}"]) for row in sizes])
        for name in ("untied", "tied")
    ]
    chart = line_chart(series, "pieces kept", "share of the parameters")
    return (
        "<p>What embedding and head take of the parameters (the paper's Figure 3), as two tables"
        f" and as one, of {html.escape(model)}.</p>{chart}"
    )


def _speed_note(groups: Sequence[Mapping[str, Any]]) -> str:
    if "bytes_per_s_before" not in groups[0]:
        return ""
    return (
        "<p>Bytes of text a second are at equal tokens a second. A smaller head decodes each token"
        " faster, so what comes after is more than shown.</p>"
    )


def _points(points: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(point["rows"], point[name]) for point in points if name in point]


def _in_percent(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: f"{value:.2%}" if key in _PERCENT else value for key, value in row.items()}
        for row in rows
    ]


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
