"""Where rows go: result JSON, CSV, Markdown and a report, each written whole after every row."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetiny.bench.report import report
from edgetiny.bench.result import BenchResult
from edgetiny.bench.suite import Suite
from edgetiny.bench.table import markdown
from edgetiny.config.run import BenchConfig
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_file, refuse_existing, write_json, writing


class Outputs:
    """The files that the settings name."""

    def __init__(self, config: BenchConfig) -> None:
        self._config = config

    def check(self) -> None:
        """Raise ConfigError if a file exists and the settings do not give it up."""
        config, paths = self._config, self._paths()
        if len(set(paths)) < len(paths):
            raise ConfigError("--out, --csv, --markdown and --report must be different files")
        # --resume goes on with --out, and the other files follow from its rows.
        goes_on = config.resume and config.out is not None and config.out.exists()
        for path in paths:
            refuse_existing(path, overwrite=config.overwrite or goes_on)

    def check_writable(self) -> None:
        """Raise ConfigError before the long run, not after it, if a file cannot be written."""
        for path in self._paths():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=path.parent):
                    pass

    def _paths(self) -> list[Path]:
        config = self._config
        return [path for path in (config.out, config.csv, config.markdown, config.report) if path]

    def write(self, rows: Sequence[dict[str, Any]], suite: Suite | None) -> None:
        """Replace every file by one of these rows."""
        config = self._config
        if config.out is not None:
            with atomic_file(config.out) as path:
                write_json(path, BenchResult(list(rows), config.out).document())
        if config.csv is not None:
            with atomic_file(config.csv) as path:
                write_csv(path, rows)
        if config.markdown is not None:
            with atomic_file(config.markdown) as path:
                path.write_text(markdown(rows), encoding="utf-8")
        if config.report is not None:
            title = "Speed of decoding" if suite is None else suite.title
            with atomic_file(config.report) as path:
                path.write_text(report(title, rows), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one line per row; what is nested in the JSON has its path as name: `ttft_ms.median`."""
    flat = [flatten(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the scalars of a row by their path; a list of them is one cell, `;` between them."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ";".join(
                str(part) for part in value if not isinstance(part, Mapping)
            )
        else:
            flat[prefix + name] = value
    return flat
