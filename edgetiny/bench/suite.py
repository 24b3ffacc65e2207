"""Suites and designs from TOML files: what to measure, and how.

The formats are described in docs/formats/suite.md.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.bench.designs import Design
from edgetiny.checkpoint import ModelConfig
from edgetiny.config.suite import DesignTable, ProtocolTable, SuiteTable
from edgetiny.errors import ConfigError

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
    values = _read(path, "suite")
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
            _design(table, f"{path} [[designs]] number {number}", head.reference)
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


def read_design(path: Path) -> Design:
    """Read a file with one design. Raises ConfigError in one line."""
    return _design(_read(path, "design"), f"{path}", "")


def _read(path: Path, kind: str) -> dict[str, Any]:
    """Return the content without its version."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{kind} {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{kind} {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{kind} {path} is not valid TOML: {error}") from error
    version = values.pop("schema_version", None)
    if type(version) is not int or version < 1:
        raise ConfigError(f"{path} has no schema_version; is it a {kind}?")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"{path} follows schema version {version}, this edgetiny knows up to"
            f" {SCHEMA_VERSION}; upgrade edgetiny"
        )
    return values


def _design(table: object, where: str, source: str) -> Design:
    values = DesignTable.from_table(table, where)
    n_heads = values.num_attention_heads
    if values.head_dim is None and values.hidden_size % n_heads:
        raise ConfigError(
            f"{where}: {n_heads} heads do not divide the width of {values.hidden_size};"
            " give head_dim"
        )
    try:
        config = ModelConfig(
            vocab_size=values.vocab_size,
            hidden_size=values.hidden_size,
            intermediate_size=values.intermediate_size,
            num_hidden_layers=values.num_hidden_layers,
            num_attention_heads=n_heads,
            num_key_value_heads=values.num_key_value_heads or n_heads,
            head_dim=values.head_dim or values.hidden_size // n_heads,
            max_position_embeddings=values.max_position_embeddings,
            tie_word_embeddings=values.tie_word_embeddings,
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return Design(values.name, source, config, values.reference_tok_per_s_per_sequence)
