"""The page of a sweep: quality against each axis, and against measured speed."""

from edgetiny import page
from edgetiny.svg import Series, line_chart
from edgetiny.sweep.result import SweepResult

_AXES = (
    ("depth", "layers"),
    ("width", "width"),
    ("expansion", "FFN width over width"),
)


def render(result: SweepResult) -> str:
    """Return one HTML document without outside references."""
    rows = result.ranked()
    body = [
        "<h1>Shapes of one size, trained alike</h1>",
        "<p>Held-out bits per byte after equal tokens, one seed a shape. Lower is better.</p>",
        page.table(rows),
        *_doubts(result),
        "<h2>Quality against speed</h2>",
        "<p>tok/s as measured here on the exported model, summed over the batch. The line joins the"
        " shapes that no other beats in both (marked * above).</p>",
        _front(rows),
        "<h2>What goes with quality</h2>",
        "<p>Spearman's coefficient with bits per byte: below 0, more is better. Nearer to zero than"
        " chance_95 it says nothing: 95 of 100 random orders of these shapes give as much.</p>",
        page.table(result.correlations()),
    ]
    for name, label in _AXES:
        if len({row[name] for row in rows}) > 1:
            points = sorted((float(row[name]), row["bits_per_byte"]) for row in rows)
            series = [Series("shapes", points, has_line=False)]
            body += [f"<h3>{label.capitalize()}</h3>", line_chart(series, label, "bits per byte")]
    body += ["<h2>Settings</h2>", page.facts_table(result.settings)]
    return page.page("Shapes of one size", body)


def _doubts(result: SweepResult) -> list[str]:
    doubts = result.doubts()
    return ["<h3>Speeds that are not valid</h3>", page.facts_table(doubts)] if doubts else []


def _front(rows: list[dict[str, object]]) -> str:
    def points(marks: tuple[str, ...]) -> list[tuple[float, float]]:
        return sorted(
            (float(str(row["tok_s"])), float(str(row["bits_per_byte"])))
            for row in rows
            if row["front"] in marks
        )

    series = [
        Series("not beaten", points(("*",)), has_marks=True),
        Series("all", points(("", "*")), has_line=False),
    ]
    return line_chart(series, "tok/s", "bits per byte")
