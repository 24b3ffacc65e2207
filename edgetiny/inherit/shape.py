"""The shape a student is to have, or why its source cannot give it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.model import STUDENT_AXES, InheritConfig
from edgetiny.design import open_design
from edgetiny.errors import ConfigError


def student_shape(source: ModelConfig, config: InheritConfig) -> ModelConfig:
    """Return the student's configuration: the source's, with the settings that are given.

    Raises ConfigError naming the axis that cannot be reached by removing from the source.
    """
    if config.to is not None:
        config = replace(config, to=None, **_axes_of_design(config.to, source))
    n_heads, n_kv_heads = _heads(source, config)
    shape = replace(
        source,
        hidden_size=_given(config.hidden_size, source.hidden_size),
        num_hidden_layers=_given(config.num_hidden_layers, source.num_hidden_layers),
        intermediate_size=_given(config.intermediate_size, source.intermediate_size),
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
    )
    # What was asked for is named before what follows from it.
    for name in sorted(STUDENT_AXES, key=lambda name: getattr(config, name) is None):
        wanted, there = getattr(shape, name), getattr(source, name)
        if wanted > there:
            raise ConfigError(
                f"--{name.replace('_', '-')} {wanted} is more than the source has; choose at most"
                f" {there}, since inheriting only removes"
            )
    if shape.group_size > source.group_size:
        raise ConfigError(
            f"{n_heads} query heads on {n_kv_heads} key/value heads are {shape.group_size} to one,"
            f" but the source has {source.group_size} to one; keep that, and merge key/value heads"
            " afterwards with edgetiny gqa"
        )
    return shape


def _axes_of_design(path: Path, source: ModelConfig) -> dict[str, Any]:
    """Return what a design asks for. Context and rotary base stay the source's: it learned them."""
    shape = open_design(path).config
    if shape.vocab_size != source.vocab_size:
        raise ConfigError(
            f"design {path} has {shape.vocab_size} rows, the source {source.vocab_size}; give"
            f" --tokenizer, one that edgetiny tokenizer compress --vocab-size {shape.vocab_size}"
            " made"
        )
    for name in ("head_dim", "tie_word_embeddings"):
        wanted, there = getattr(shape, name), getattr(source, name)
        if wanted != there:
            raise ConfigError(
                f"design {path} has {name} = {wanted}, the source {there}, which inheriting keeps;"
                f" make the design with {name} = {there}"
            )
    return {name: getattr(shape, name) for name in STUDENT_AXES}


def _given(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _heads(source: ModelConfig, config: InheritConfig) -> tuple[int, int]:
    """Settle query and key/value heads where one of them, or none, is given.

    Whole groups go first, since a group less is a smaller KV cache too; a number of query heads
    that whole groups cannot give takes equally many from each group.
    """
    n_heads, n_kv_heads = config.num_attention_heads, config.num_key_value_heads
    group_size, n_groups = source.group_size, source.num_key_value_heads
    if n_heads is None:
        n_kv_heads = _given(n_kv_heads, n_groups)
        return n_kv_heads * group_size, n_kv_heads
    if n_kv_heads is None:
        if n_heads % group_size == 0:
            return n_heads, n_heads // group_size
        n_kv_heads = n_groups
    if n_heads % n_kv_heads:
        raise ConfigError(
            f"--num-attention-heads {n_heads} cannot be reached with {n_kv_heads} key/value heads:"
            f" choose a multiple of {n_kv_heads}, or of {group_size} with fewer key/value heads"
        )
    return n_heads, n_kv_heads
