"""Tables of Markdown."""

from collections.abc import Mapping, Sequence


def markdown_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return rows of the same keys as lines of a table; underscores of keys become spaces."""
    head = [name.replace("_", " ") for name in rows[0]]
    lines = [head, *([str(row[name]) for name in rows[0]] for row in rows)]
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return [shown[0], "|" + "---|" * len(head), *shown[1:]]
