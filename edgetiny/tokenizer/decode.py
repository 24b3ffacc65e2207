"""`edgetiny tokenizer decode`: the text of token ids."""

from dataclasses import dataclass
from typing import Any

from edgetiny.config.tokens import TokenizerDecodeConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeResult:
    """The text of some ids."""

    text: str

    def summary(self) -> dict[str, Any]:
        """Return the text."""
        return {"text": self.text}


def run(config: TokenizerDecodeConfig, reporter: Reporter = QUIET) -> DecodeResult:
    """Return the text of `config.ids`. Raises DataError for an id out of range."""
    return DecodeResult(text=Tokenizer.open(config.source).decode(config.ids))
