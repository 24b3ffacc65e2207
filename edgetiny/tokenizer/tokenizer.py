"""A tokenizer as the other rooms use it: text to ids and back."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgetiny.errors import DataError
from edgetiny.tokenizer.model_file import (
    BYTE,
    CONTROL,
    SPACE,
    UNKNOWN,
    find_model_file,
    load_model,
)

# SentencePiece merges a text as one piece of string: memory grows by some 200 bytes a character.
_CHUNK_CHARACTERS = 1 << 18


class Tokenizer:
    """SentencePiece, opened from a tokenizer or checkpoint folder or a `.model` file.

    Ids never include BOS or EOS unless the caller puts them there.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        """The model file."""
        self.sha256 = hashlib.sha256(content).hexdigest()
        """Identifies the tokenizer: the SHA-256 of the model file."""
        self._processor, self._proto = load_model(content, path)
        self.vocab_size: int = len(self._proto.pieces)
        self.bos_id = _id_or_none(self._processor.bos_id())
        self.eos_id = _id_or_none(self._processor.eos_id())
        self.pad_id = _id_or_none(self._processor.pad_id())

    @classmethod
    def open(cls, path: Path) -> "Tokenizer":
        """Open a folder that holds `tokenizer.model`, or such a file.

        Raises DataError if nothing is there, it is damaged, or it is another kind of tokenizer.
        """
        model_file = find_model_file(Path(path))
        try:
            content = model_file.read_bytes()
        except OSError as error:
            raise DataError(f"{model_file} cannot be read: {error.strerror}") from error
        return cls(model_file, content)

    @property
    def proto(self) -> Any:
        """The model as SentencePiece's ModelProto; read it, do not change it."""
        return self._proto

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS and EOS.

        With byte fallback and without a dummy prefix, decoding gives the same text back,
        whatever it is.
        """
        if self._keeps_space_mark and SPACE in text:
            return self._encode_around_space_marks(text)
        ids: list[int] = []
        for number, chunk in enumerate(self._chunks(text)):
            part: list[int] = self._processor.encode(chunk)
            # The prefix is put before every chunk, but belongs only before the text.
            ids += part[1:] if number > 0 and self._has_prefix else part
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; BOS, EOS and other control ids give no text.

        Bytes that are not UTF-8 become U+FFFD. Raises DataError for an id out of range.
        """
        listed = [int(index) for index in ids]
        if listed and not 0 <= min(listed) <= max(listed) < self.vocab_size:
            wrong = next(index for index in listed if not 0 <= index < self.vocab_size)
            raise DataError(
                f"id {wrong} is not in the vocabulary of {self.path} ({self.vocab_size} pieces)"
            )
        text: str = self._processor.decode(listed)
        return text

    def token_bytes(self, index: int) -> bytes:
        """Return the UTF-8 bytes that one id stands for; none for BOS, EOS, unknown and control.

        Without a dummy prefix the bytes of the ids of a text are the bytes of the text.
        """
        if not 0 <= index < self.vocab_size:
            raise DataError(f"id {index} is not in the vocabulary of {self.path}")
        piece = self._proto.pieces[index]
        if piece.type in (UNKNOWN, CONTROL):
            return b""
        if piece.type == BYTE:
            return bytes([int(piece.piece[1:-1], 16)])
        text: str = piece.piece
        return text.replace(SPACE, " ").encode("utf-8")

    def _encode_around_space_marks(self, text: str) -> list[int]:
        """Spell U+2581 in bytes: as a piece it would come back as a space."""
        first, *others = text.split(SPACE)
        ids = self.encode(first)
        for part in others:
            ids += self._space_mark_bytes
            ids += self.encode(part)
        return ids

    @property
    def _has_prefix(self) -> bool:
        return bool(self._proto.normalizer_spec.add_dummy_prefix)

    @property
    def _is_verbatim(self) -> bool:
        """Whether text is split as it stands, but for the space mark and the prefix."""
        spec = self._proto.normalizer_spec
        return not spec.precompiled_charsmap and not spec.remove_extra_whitespaces

    @functools.cached_property
    def _keeps_space_mark(self) -> bool:
        has_bytes = len(self._space_mark_bytes) == len(SPACE.encode("utf-8"))
        return self._is_verbatim and not self._has_prefix and has_bytes

    @functools.cached_property
    def _space_mark_bytes(self) -> list[int]:
        names = {f"<0x{byte:02X}>": byte for byte in SPACE.encode("utf-8")}
        found = {
            names[piece.piece]: index
            for index, piece in enumerate(self._proto.pieces)
            if piece.type == BYTE and piece.piece in names
        }
        return [found[byte] for byte in SPACE.encode("utf-8") if byte in found]

    @functools.cached_property
    def _newline_stands_alone(self) -> bool:
        """Whether no piece joins a line end with anything, so that a cut there changes nothing."""
        pieces = {piece.piece for piece in self._proto.pieces}
        has_lone_prefix = not self._has_prefix or SPACE in pieces
        joins = any("\n" in piece for piece in pieces - {"\n"})
        return self._is_verbatim and has_lone_prefix and not joins

    def _chunks(self, text: str) -> Iterator[str]:
        """Cut a long text before line ends where that cannot change its ids."""
        start = 0
        while len(text) - start > _CHUNK_CHARACTERS and self._newline_stands_alone:
            cut = text.rfind("\n", start + 1, start + _CHUNK_CHARACTERS)
            if cut < 0:
                cut = text.find("\n", start + _CHUNK_CHARACTERS)
            if cut < 0:
                break
            yield text[start:cut]
            start = cut
        yield text[start:]


def _id_or_none(index: int) -> int | None:
    return index if index >= 0 else None
