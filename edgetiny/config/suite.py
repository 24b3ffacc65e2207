"""Tables of a benchmark suite and of a design: what stands in their TOML files.

The formats are described in docs/formats/suite.md.
"""

from dataclasses import dataclass

from edgetiny.config.base import Config, setting
from edgetiny.config.run import BenchPrecision, RuntimeName


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolTable(Config):
    """How designs are run; what is left out is decided elsewhere."""

    runtimes: tuple[RuntimeName, ...] = setting((), "engines")
    precisions: tuple[BenchPrecision, ...] = setting((), "weights")
    batches: tuple[int, ...] = setting((), "sequences decoded together", minimum=1)
    contexts: tuple[int, ...] = setting((), "tokens in the cache beforehand", minimum=0)
    prompt_tokens: int | None = setting(None, "tokens of a prompt", minimum=1)
    new_tokens: int | None = setting(None, "tokens to decode", minimum=2)
    repeats: int | None = setting(None, "measured runs", minimum=1)
    sustained_minutes: float | None = setting(None, "minutes of decoding after them", minimum=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignTable(Config):
    """A shape under Hugging Face's names."""

    name: str = setting(help="what rows call it")
    num_hidden_layers: int = setting(help="depth", minimum=1)
    hidden_size: int = setting(help="width", minimum=1)
    intermediate_size: int = setting(help="width of the FFN", minimum=1)
    num_attention_heads: int = setting(help="query heads", minimum=1)
    num_key_value_heads: int | None = setting(
        None, "key/value heads; as many as query heads if left out", minimum=1
    )
    head_dim: int | None = setting(None, "width of a head; width / heads if left out", minimum=2)
    vocab_size: int = setting(help="rows of embedding and head", minimum=1)
    max_position_embeddings: int = setting(2048, "longest context", minimum=2)
    tie_word_embeddings: bool = setting(True, "one tensor for embedding and head")
    reference_tok_per_s_per_sequence: float | None = setting(
        None, "what others measured, for the report", minimum=0.0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteTable(Config):
    """What stands at the top of a suite."""

    name: str = setting(help="what rows call the suite")
    title: str = setting("", "headline of its report")
    reference: str = setting("", "where the designs' reference speeds come from")
