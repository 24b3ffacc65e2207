"""Settings of `edgetiny design`, and the table of one design in a TOML file.

The file is described in docs/formats/design.md.
"""

from dataclasses import dataclass

from edgetiny.config.base import Config, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class DesignTable(Config):
    """A shape under Hugging Face's names."""

    name: str = setting(help="what rows call it")
    source: str = setting("", "where the shape comes from")
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
    rope_theta: float = setting(10_000.0, "base of the rotary embedding", minimum=1.0)
    tie_word_embeddings: bool = setting(True, "one tensor for embedding and head")
    reference_tok_per_s_per_sequence: float | None = setting(
        None, "what others measured, for the report", minimum=0.0
    )
