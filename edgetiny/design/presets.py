"""Shapes that others published, by name.

What a table of the paper leaves out is what its own sizes and shares imply: an untied LLaMA block
whose FFN is 8/3 of the width rounded up to a multiple of 256, with heads of 128
(docs/results/paper_shapes.md).
"""

import difflib
from collections.abc import Iterator
from pathlib import Path

from edgetiny.checkpoint import ModelConfig
from edgetiny.design.file import Design, read_design
from edgetiny.errors import ConfigError

_FULL_VOCABULARY = 100_883

# name, depth, width, FFN, vocabulary, key/value heads
_TABLE_9 = (
    ("pangu-pi-1b", 12, 2048, 5632, _FULL_VOCABULARY, 16),
    ("pangu-pi-1b-implied", 12, 2048, 6912, _FULL_VOCABULARY, 16),
    ("pangu-pi-1b-pro", 21, 1792, 4864, 48_000, 14),
    ("pangu-pi-1.5b-pro", 22, 2048, 5632, 48_000, 16),
    ("pangu-pi-1.5b-pro-implied", 22, 2048, 6912, 48_000, 16),
    ("pangu-pi-1.5b-pro-implied-gqa", 22, 2048, 6912, 48_000, 8),
)
# name, depth, vocabulary: 1792 wide
_TABLE_1 = (
    ("table1-8k", 24, 8_000),
    ("table1-16k", 23, 16_000),
    ("table1-32k", 22, 32_000),
    ("table1-48k", 20, 48_000),
    ("table1-72k", 18, 72_000),
    ("table1-100k", 15, _FULL_VOCABULARY),
)
# name, depth, width, FFN, tok/s of one sequence
_TABLES_2_AND_3 = (
    ("table2-40x1280", 40, 1280, 3584, 12.81),
    ("table2-30x1536", 30, 1536, 4096, 17.71),
    ("table2-20x1792", 20, 1792, 4864, 29.49),
    ("table2-15x2048", 15, 2048, 5632, 36.79),
    ("table2-9x2560", 9, 2560, 6912, 57.53),
    ("table3-1.00", 20, 2304, 2304, 28.39),
    ("table3-2.00", 20, 2048, 4096, 28.68),
    ("table3-2.77", 20, 1792, 4864, 28.40),
    ("table3-4.00", 20, 1536, 6144, 28.53),
)
# name, heads, width of a head, tok/s of one sequence
_TABLE_12 = (
    ("table12-14x128", 14, 128, 29.49),
    ("table12-28x64", 28, 64, 30.11),
    ("table12-56x32", 56, 32, 30.49),
)
# name, depth, width, FFN, heads, key/value heads
_MOBILELLM = (
    ("mobilellm-125m", 30, 576, 1536, 9, 3),
    ("mobilellm-350m", 32, 960, 2560, 15, 5),
)


def open_design(path: Path) -> Design:
    """Return the design of a file, or the preset of that name.

    Raises ConfigError if it is neither, naming the nearest preset or all of them.
    """
    if path.is_file() or path.suffix == ".toml" or len(path.parts) > 1:
        return read_design(path)
    return preset(path.name)


def preset(name: str) -> Design:
    """Return a published design. Raises ConfigError for a name that is none."""
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(PRESETS)}"
    raise ConfigError(f"{name} is neither a design file nor a preset; {hint}")


def _presets() -> Iterator[Design]:
    for name, depth, width, ffn, vocabulary, n_kv_heads in _TABLE_9:
        source = "the paper, Table 10: 8 groups" if n_kv_heads == 8 else "the paper, Table 9"
        if "implied" in name:
            source += "; FFN inferred from its sizes"
        config = _untied(depth, width, ffn, vocabulary, n_kv_heads=n_kv_heads)
        yield Design(name, source, config)
    for name, depth, vocabulary in _TABLE_1:
        yield Design(name, "the paper, Table 1", _untied(depth, 1792, 4864, vocabulary))
    for name, depth, width, ffn, speed in _TABLES_2_AND_3:
        source = f"the paper, Table {name[5]}: V100, FP16, batch 20"
        yield Design(name, source, _untied(depth, width, ffn, 48_000), speed)
    for name, n_heads, head_dim, speed in _TABLE_12:
        config = _untied(20, 1792, 4864, 48_000, n_heads=n_heads, head_dim=head_dim)
        yield Design(name, "the paper, Table 12: V100, FP16, batch 20", config, speed)
    for name, depth, width, ffn, n_heads, n_kv_heads in _MOBILELLM:
        config = ModelConfig(
            vocab_size=32_000,
            hidden_size=width,
            intermediate_size=ffn,
            num_hidden_layers=depth,
            num_attention_heads=n_heads,
            num_key_value_heads=n_kv_heads,
            head_dim=64,
        )
        yield Design(name, "MobileLLM, arXiv 2402.14905", config)


def _untied(
    depth: int,
    width: int,
    ffn: int,
    vocabulary: int,
    *,
    n_heads: int | None = None,
    n_kv_heads: int | None = None,
    head_dim: int = 128,
) -> ModelConfig:
    n_heads = n_heads or width // head_dim
    return ModelConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=depth,
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads or n_heads,
        head_dim=head_dim,
        tie_word_embeddings=False,
    )


PRESETS = {design.name: design for design in _presets()}
