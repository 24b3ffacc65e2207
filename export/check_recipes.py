"""Load every table of every recipe in export/recipes; exit 1 if one would be refused."""

import sys
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

from edgetiny.config.base import Config
from edgetiny.config.stages import STAGES
from edgetiny.errors import ConfigError

RECIPES = Path(__file__).with_name("recipes")
PATHS_OF_THE_USER = {
    "source",
    "checkpoint",
    "artefact",
    "against",
    "data",
    "text",
    "tokenizer",
    "out",
}


def given_by_flags(config: type[Config], table: dict[str, object]) -> dict[str, object]:
    """Return stand-ins for the required paths that a recipe leaves to the command line."""
    return {
        spec.name: [spec.name] if spec.name == "text" else spec.name
        for spec in fields(config)
        if spec.default is MISSING and spec.name not in table and spec.name in PATHS_OF_THE_USER
    }


def check(path: Path) -> list[str]:
    """Return the names of the tables that load. Raises ConfigError at the first that does not."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if not tables:
        raise ConfigError(f"{path} has no table")
    for stage, table in tables.items():
        if stage not in STAGES:
            raise ConfigError(f"{path}: unknown table [{stage}]")
        STAGES[stage].load(path, given_by_flags(STAGES[stage], table))
    return list(tables)


def main() -> int:
    """Check all recipes, one line each."""
    paths = sorted(RECIPES.glob("*.toml"))
    failed = not paths
    for path in paths:
        try:
            print(f"{path.name}: {', '.join(check(path))}")
        except (ConfigError, tomllib.TOMLDecodeError) as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
