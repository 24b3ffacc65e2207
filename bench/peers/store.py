"""Every run as one line of JSON, so that a killed measurement goes on where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
_KEY = (
    *("phase", "round", "slot", "attempt", "model", "batch", "bits", "setting", "identity"),
    "new_tokens",
)


class Store:
    """The rows of one work folder, in the order in which they were measured."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            # A kill may have left half of the last line.
            lines = path.read_text(encoding="utf-8").split("\n")
            whole = lines[:-1]
            self.rows = [json.loads(line) for line in whole]
            if lines[-1]:
                path.write_text("".join(line + "\n" for line in whole), encoding="utf-8")

    def add(self, row: Row) -> None:
        """Append one row, and have it on disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(dict(row))

    def has(self, wanted: Row, *, retry: bool) -> bool:
        """Return whether this was run before; a failure counts unless it is to be tried again."""
        key = key_of(wanted)
        return any(
            key_of(row) == key and not (retry and "error" in row)
            for row in self.rows
            if row["phase"] == wanted["phase"]
        )


def key_of(row: Row) -> tuple[Any, ...]:
    """Return what makes a run this run and no other."""
    return tuple(row.get(name) for name in _KEY)
