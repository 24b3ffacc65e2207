"""Settings of `edgetiny tokenizer encode` and `edgetiny tokenizer decode`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgetiny.config.base import Config, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerEncodeConfig(Config):
    stage: ClassVar[str] = "tokenizer_encode"

    source: Path = setting(help="tokenizer or checkpoint folder", argument=True)
    prompt: str = setting(help="text to split; - reads it from standard input")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerDecodeConfig(Config):
    stage: ClassVar[str] = "tokenizer_decode"

    source: Path = setting(help="tokenizer or checkpoint folder", argument=True)
    ids: tuple[int, ...] = setting(help="token ids", minimum=0, argument=True)
