"""Tokens to text as it comes: whole characters, and nothing of a stop string."""

import codecs
from collections.abc import Sequence

from edgetiny.tokenizer import Tokenizer


class TextDecoder:
    """Token ids to text: characters come out when their last byte is there."""

    def __init__(self, tokenizer: Tokenizer, *, follows_text: bool) -> None:
        """follows_text: whether text stands before, so that a leading space is a space."""
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_start = not follows_text

    def push(self, index: int) -> str:
        """Return the text that this id completes; bytes that are not UTF-8 become U+FFFD."""
        text = self._utf8.decode(self._tokenizer.token_bytes(index))
        if text and self._is_start:
            self._is_start = False
            # SentencePiece may put a space before every text, and takes it off in decoding.
            if not self._tokenizer.decode([index]).startswith(" "):
                text = text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """Return what is left of a character whose end never came."""
        return self._utf8.decode(b"", final=True)


class StopStrings:
    """Text without the first stop string and what follows it, however the text is cut."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Return the text that no stop string can begin in any more."""
        if self.found:
            return ""
        held = self._held + text
        matches = [
            (held.index(stop) + len(stop), held.index(stop)) for stop in self._stops if stop in held
        ]
        if matches:
            # The one that is complete first, as if the text had come letter by letter.
            self.found = True
            return held[: min(matches)[1]]
        n_held = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - n_held :]
        return held[: len(held) - n_held]

    def finish(self) -> str:
        """Return what was held back, when nothing more comes."""
        return "" if self.found else self._held


def _overlap(text: str, stop: str) -> int:
    """Return how long the longest end of `text` is that `stop` begins with, short of the whole."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
