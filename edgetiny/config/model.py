"""Settings of the stages that make or remake a model: init, inherit, gqa, inspect."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgetiny.config.base import Config, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class InitConfig(Config):
    stage: ClassVar[str] = "init"

    tokenizer: Path = setting(help="tokenizer folder; its size is the vocabulary")
    out: Path = setting(help="checkpoint folder to write")
    hidden_size: int = setting(256, "width", minimum=8)
    num_hidden_layers: int = setting(8, "depth", minimum=1)
    num_attention_heads: int = setting(8, "query heads", minimum=1)
    num_key_value_heads: int | None = setting(
        None, "key/value heads; as many as query heads if not given", minimum=1
    )
    head_dim: int | None = setting(None, "width of a head; width / heads if not given", minimum=2)
    intermediate_size: int | None = setting(
        None, "FFN width; 8/3 of the width rounded up to a multiple of 32 if not given", minimum=1
    )
    max_position_embeddings: int = setting(2048, "longest context", minimum=2)
    rope_theta: float = setting(10_000.0, "base of the rotary embedding", minimum=1.0)
    tie_word_embeddings: bool = setting(True, "one tensor for embedding and head")
    initializer_range: float = setting(
        0.02, "standard deviation of every weight matrix", minimum=0.0
    )
    seed: int = setting(0, "seed of the random weights")
    overwrite: bool = setting(False, "replace --out if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class InheritConfig(Config):
    stage: ClassVar[str] = "inherit"

    source: Path = setting(help="checkpoint folder to inherit from", argument=True)
    data: Path = setting(help="token shards whose held-out part scores the layers")
    out: Path = setting(help="checkpoint folder to write")
    hidden_size: int | None = setting(
        None, "width of the student; as the source if not given", minimum=1
    )
    num_hidden_layers: int | None = setting(None, "depth of the student", minimum=1)
    num_attention_heads: int | None = setting(None, "query heads of the student", minimum=1)
    num_key_value_heads: int | None = setting(None, "key/value heads of the student", minimum=1)
    intermediate_size: int | None = setting(None, "FFN width of the student", minimum=1)
    calibration_tokens: int = setting(16_384, "tokens that score the layers", minimum=1)
    overwrite: bool = setting(False, "replace --out if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class GqaConfig(Config):
    stage: ClassVar[str] = "gqa"

    source: Path = setting(help="checkpoint folder to convert", argument=True)
    groups: int = setting(help="key/value heads of the result", minimum=1)
    out: Path = setting(help="checkpoint folder to write")
    overwrite: bool = setting(False, "replace --out if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectConfig(Config):
    stage: ClassVar[str] = "inspect"

    source: Path = setting(help="checkpoint or artefact folder", argument=True)
