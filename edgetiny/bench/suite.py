"""Suites from TOML files: what to measure, and how.

The format is described in docs/formats/suite.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.config.suite import ProtocolTable, SuiteTable
from edgetiny.design import Design, design_of_table
from edgetiny.errors import ConfigError
from edgetiny.files import read_toml

SCHEMA_VERSION = 1
_TABLES = ("protocol", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """Designs, and protocols by name: `protocol` for any device, `cpu` and `cuda` over it."""

    name: str
    title: str
    reference: str
    designs: tuple[Design, ...]
    protocols: Mapping[str, ProtocolTable]

    def setting(self, name: str, device: str) -> Any:
        """Return a setting of the protocol on a device; None if the suite leaves it open."""
        for table in (device, "protocol"):
            value = getattr(self.protocols[table], name)
            if value not in (None, ()):
                return value
        return None


def read_suite(path: Path) -> Suite:
    """Read a suite. Raises ConfigError in one line naming the key that is unknown or wrong."""
    values = read_toml(path, "suite", schema_version=SCHEMA_VERSION)
    designs = values.pop("designs", None)
    if not isinstance(designs, list) or not designs:
        raise ConfigError(f"{path} has no [[designs]]; a suite measures at least one")
    tables = {name: values.pop(name, {}) for name in _TABLES}
    head = SuiteTable.from_table(values, f"{path}")
    suite = Suite(
        name=head.name,
        title=head.title or head.name,
        reference=head.reference,
        designs=tuple(
            design_of_table(table, f"{path} [[designs]] number {number}", head.reference)
            for number, table in enumerate(designs, 1)
        ),
        protocols={
            name: ProtocolTable.from_table(table, f"{path} [{name}]")
            for name, table in tables.items()
        },
    )
    names = [design.name for design in suite.designs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two designs are called {name}; give each its own name")
    return suite
