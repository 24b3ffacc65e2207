"""A tokenizer as the other rooms use it: text to ids and back."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from edgetiny.errors import DataError
from edgetiny.tokenizer.locate import find_model_file, is_json
from edgetiny.tokenizer.vocabulary import Vocabulary


class Tokenizer(ABC):
    """A tokenizer, opened from a tokenizer or checkpoint folder or from its file.

    Ids never include BOS or EOS unless the caller puts them there. Special tokens written out in
    a text are text like any other.
    """

    kind: str
    """What it is, in a few words."""
    vocab_size: int
    """The largest id + 1."""
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        """The file that decides the ids."""
        self.sha256 = hashlib.sha256(content).hexdigest()
        """Identifies the tokenizer: the SHA-256 of that file, with the pieces beside it if any."""

    @staticmethod
    def open(path: Path) -> "Tokenizer":
        """Open a folder that holds `tokenizer.model` or else `tokenizer.json`, or such a file.

        Raises DataError if nothing is there, it is damaged, or it is another kind of tokenizer.
        """
        model_file = find_model_file(Path(path))
        try:
            content = model_file.read_bytes()
        except OSError as error:
            raise DataError(f"{model_file} cannot be read: {error.strerror}") from error
        # Each kind needs a library of its own; the other one is not imported.
        if is_json(model_file):
            from edgetiny.tokenizer.json_tokenizer import JsonTokenizer

            return JsonTokenizer(model_file, content)
        from edgetiny.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer(model_file, content)

    @property
    def text_size(self) -> int:
        """The largest id that a text is split into + 1: special tokens may lie beyond."""
        return next((i + 1 for i in range(self.vocab_size)[::-1] if self.token_bytes(i)), 0)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS and EOS.

        With byte fallback or byte level, and without a dummy prefix or normalisation, decoding
        gives the same text back, whatever it is. Raises DataError for a text that is not valid
        Unicode (it holds half a surrogate pair).
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; BOS, EOS and other control ids give no text.

        Bytes that are not UTF-8 become U+FFFD. Raises DataError for an id out of range.
        """

    @abstractmethod
    def token_bytes(self, index: int) -> bytes:
        """Return the UTF-8 bytes that one id stands for; none for BOS, EOS, unknown and control.

        Where decoding gives the text back, the bytes of its ids are the bytes of the text.
        """

    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """Return its pieces with what each is built from.

        Raises DataError for a model that cannot be made smaller.
        """

    def _checked(self, ids: Sequence[int]) -> list[int]:
        """Return the ids as a list; raise DataError for one out of range."""
        listed = [int(index) for index in ids]
        if listed and not 0 <= min(listed) <= max(listed) < self.vocab_size:
            wrong = next(index for index in listed if not 0 <= index < self.vocab_size)
            raise DataError(
                f"id {wrong} is not in the vocabulary of {self.path} ({self.vocab_size} pieces)"
            )
        return listed


def require_unicode(text: str) -> None:
    """Raise DataError for a text with half a surrogate pair, which no UTF-8 can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text is not valid Unicode: {error.reason} at character {error.start};"
            " read it as UTF-8, with errors='replace' where it is damaged"
        ) from None
