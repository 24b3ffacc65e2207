"""One design and the TOML file that holds it: read by bench, init and inherit, written by design.

The format is described in docs/formats/design.md.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.design import DesignTable
from edgetiny.errors import ConfigError
from edgetiny.files import read_toml, toml_value

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Design:
    """A named shape. `source` says where it comes from.

    reference_tok_per_s: speed per sequence that others measured (`source` says where), or None.
    """

    name: str
    source: str
    config: ModelConfig
    reference_tok_per_s: float | None = None


def read_design(path: Path) -> Design:
    """Read a file with one design. Raises ConfigError in one line."""
    return design_of_table(read_toml(path, "design", schema_version=SCHEMA_VERSION), f"{path}")


def design_of_table(table: object, where: str, source: str = "") -> Design:
    """Return the design that a table describes; `source` if it does not say where it is from.

    Raises ConfigError, beginning with `where`, for a key that is unknown, wrong or missing, and for
    sizes that do not go together.
    """
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
            rope_theta=values.rope_theta,
            tie_word_embeddings=values.tie_word_embeddings,
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return Design(
        values.name, values.source or source, config, values.reference_tok_per_s_per_sequence
    )


def to_toml(design: Design) -> str:
    """Return the design as the text of a file. What follows from the rest is left out."""
    config = design.config
    given: dict[str, Any] = {
        "name": design.name,
        "source": design.source,
        "reference_tok_per_s_per_sequence": design.reference_tok_per_s,
    }
    lines = [f"schema_version = {SCHEMA_VERSION}"]
    for spec in fields(DesignTable):
        value = given[spec.name] if spec.name in given else getattr(config, spec.name)
        if value not in (None, ""):
            lines.append(f"{spec.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"
