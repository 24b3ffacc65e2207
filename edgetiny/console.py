"""What a person sees: progress on standard error, a stage's result on standard output."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0


class Task:
    """One piece of long work with a bar on a terminal, and a line every ten seconds elsewhere."""

    def __init__(
        self, console: Console, name: str, total: int | None, progress: Progress | None
    ) -> None:
        self._console = console
        self._name = name
        self._total = total
        self._progress = progress
        self._id: TaskID | None = None
        self._done = 0
        self._last_line = time.monotonic()
        if progress is not None:
            self._id = progress.add_task(name, total=total, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move on by `count` of the units that `total` counts; `note` is shown beside the bar."""
        self._done += count
        if self._progress is not None and self._id is not None:
            self._progress.update(self._id, advance=count, note=note)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            of_total = f"/{self._total}" if self._total is not None else ""
            self._console.print(Text(f"{self._name}: {self._done}{of_total} {note}".rstrip()))


class Reporter:
    """Where a stage says what it is doing. `Reporter(quiet=True)` says nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, message: str) -> None:
        """Print one line."""
        self.console.print(Text(message), soft_wrap=True)

    @contextlib.contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        """Show progress of `total` units (unknown if None) while the block runs."""
        if not self.console.is_terminal or self.console.quiet:
            yield Task(self.console, name, total, None)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield Task(self.console, name, total, progress)


QUIET = Reporter(quiet=True)


def show(payload: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a stage's result on standard output: JSON, or tables for a person.

    Scalars become rows of one table, a list of mappings becomes a table of its own,
    and a mapping becomes rows under its own heading.
    """
    if as_json:
        sys.stdout.write(json.dumps(payload, indent=2, ensure_ascii=False) + "\n")
        return
    console = Console(highlight=False)
    scalars = {key: value for key, value in payload.items() if not _is_nested(value)}
    if scalars:
        console.print(_two_columns(scalars))
    for key, value in payload.items():
        if isinstance(value, Mapping):
            console.print(Text(f"\n{_words(key)}", style="bold"))
            console.print(_two_columns(value))
        elif _is_nested(value) and value:
            console.print(Text(f"\n{_words(key)}", style="bold"))
            console.print(_rows(value))


def _is_nested(value: object) -> bool:
    is_rows = isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, Mapping) or (
        is_rows and all(isinstance(row, Mapping) for row in value)  # type: ignore[attr-defined]
    )


def _two_columns(values: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in values.items():
        table.add_row(_words(key), Text(_cell(value)))
    return table


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        is_number = all(isinstance(row.get(name, 0), int | float) for row in rows)
        table.add_column(_words(name), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name, ""))) for name in columns))
    return table


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_cell(part) for part in value)
    return "-" if value is None else str(value)
