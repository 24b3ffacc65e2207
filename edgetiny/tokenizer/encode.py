"""`edgetiny tokenizer encode`: the tokens of a text, one row each."""

import sys
from dataclasses import dataclass
from typing import Any

from edgetiny.config.tokens import TokenizerEncodeConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import DataError
from edgetiny.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeResult:
    """The ids of a text, and what each of them stands for."""

    text: str
    ids: list[int]
    pieces: list[bytes]

    def summary(self) -> dict[str, Any]:
        """Return the counts and a row per token; a part of a character is shown as U+FFFD."""
        n_bytes = len(self.text.encode("utf-8"))
        return {
            "bytes": n_bytes,
            "tokens": len(self.ids),
            "bytes_per_token": n_bytes / len(self.ids) if self.ids else None,
            "pieces": [
                {"id": index, "piece": piece.decode("utf-8", errors="replace")}
                for index, piece in zip(self.ids, self.pieces, strict=True)
            ],
        }


def run(config: TokenizerEncodeConfig, reporter: Reporter = QUIET) -> EncodeResult:
    """Return the tokens of `config.prompt`, without BOS and EOS. Raises DataError."""
    tokenizer = Tokenizer.open(config.source)
    text = _prompt_text(config.prompt)
    ids = tokenizer.encode(text)
    return EncodeResult(text=text, ids=ids, pieces=[tokenizer.token_bytes(index) for index in ids])


def _prompt_text(prompt: str) -> str:
    """Return the prompt; `-` stands for standard input."""
    try:
        if prompt == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        prompt.encode("utf-8")
    except UnicodeError as error:
        raise DataError(f"the text is not valid UTF-8: {error}") from error
    return prompt
