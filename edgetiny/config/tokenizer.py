"""Settings of `edgetiny tokenizer train` and `edgetiny tokenizer compress`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgetiny.config.base import Config, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTrainConfig(Config):
    stage: ClassVar[str] = "tokenizer_train"

    text: tuple[Path, ...] = setting(help="text file; repeat for more")
    out: Path = setting(help="tokenizer folder to write")
    vocab_size: int = setting(48_000, "pieces, bytes and specials included", minimum=300)
    character_coverage: float = setting(
        0.9995, "share of characters with a piece of their own", minimum=0.9, maximum=1.0
    )
    max_sentences: int = setting(1_000_000, "lines sampled for training", minimum=1)
    seed: int = setting(0, "seed of the line sample")
    overwrite: bool = setting(False, "replace --out if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerCompressConfig(Config):
    stage: ClassVar[str] = "tokenizer_compress"

    source: Path = setting(
        help="checkpoint folder (embedding and head are sliced too) or tokenizer", argument=True
    )
    text: tuple[Path, ...] = setting(help="text whose tokens are counted; repeat for more")
    out: Path = setting(help="folder to write")
    vocab_size: int = setting(48_000, "pieces to keep, bytes and specials included", minimum=300)
    processes: int = setting(0, "tokenizer processes; 0 means one per core", minimum=0)
    overwrite: bool = setting(False, "replace --out if it exists")
