"""The recipe that makes a design out of a big model: every stage with every path and size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.design import DesignConfig
from edgetiny.config.stages import STAGES
from edgetiny.cost import Precision
from edgetiny.files import toml_value

Tables = Mapping[str, Mapping[str, Any]]


def recipe(
    config: DesignConfig, source: ModelConfig, shape: ModelConfig, precision: Precision
) -> Tables:
    """Return the settings of each stage, in the order to run them.

    Fewer rows, then fewer layers, neurons and heads, then fewer key/value heads, then training,
    which heals all three, then export. A stage that would change nothing is left out.
    """
    assert config.source is not None
    folder = config.out.with_suffix("") if config.out is not None else Path("student")
    texts = {"text": [str(path) for path in config.text]} if config.text else {}
    at, tables = config.source, dict[str, dict[str, Any]]()
    if shape.vocab_size < source.vocab_size:
        out = folder / "compact"
        sizes = {"vocab_size": shape.vocab_size}
        tables["tokenizer_compress"] = {"source": at, "out": out} | sizes | texts
        at = out
    shards = folder / "shards"
    tables["data_build"] = {"tokenizer": at, "out": shards} | texts
    n_groups = shape.num_attention_heads // source.group_size
    axes = {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": n_groups,
        "intermediate_size": shape.intermediate_size,
    }
    if any(getattr(source, name) != size for name, size in axes.items()):
        out = folder / "inherited"
        tables["inherit"] = {"source": at, "data": shards, "out": out} | axes
        at = out
    if shape.num_key_value_heads < n_groups:
        out = folder / "grouped"
        tables["gqa"] = {"source": at, "groups": shape.num_key_value_heads, "out": out}
        at = out
    out = folder / "trained"
    length = min(512, shape.max_position_embeddings)
    tables["train"] = {"checkpoint": at, "data": shards, "out": out, "sequence_length": length}
    context = min(config.context, shape.max_position_embeddings)
    tables["export"] = {
        "source": out,
        "out": folder / "artefact",
        "precision": precision,
        "batch": [config.batch],
        "kv": config.kv,
        "context": context,
    }
    if config.kv == "int8" or precision == "int4":
        # With text int4 is rounded by GPTQ, which costs least.
        tables["export"]["data"] = shards
    return tables


def recipe_toml(tables: Tables, head: str) -> str:
    """Return a recipe as TOML, with the commands that run it as comments."""
    lines = [f"# {line}" for line in head.splitlines()]
    for stage, settings in tables.items():
        lines += ["", f"[{stage}]"]
        lines += [f"{name} = {toml_value(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def commands(tables: Tables, path: Path) -> list[str]:
    """Return the commands that run a recipe, in order; what only the user knows is in capitals."""
    lines = []
    for stage, settings in tables.items():
        wants_text = "text" not in settings and stage in ("tokenizer_compress", "data_build")
        more = " --text TEXT" if wants_text else ""
        lines.append(f"edgetiny {STAGES[stage].stage.replace('_', ' ')} --recipe {path}{more}")
    return lines
