"""`tokenizer.json` as a tokenizer: BPE of bytes, or of characters as SentencePiece has it."""

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import tokenizers

from edgetiny.errors import DataError
from edgetiny.tokenizer.byte_level import piece_bytes
from edgetiny.tokenizer.companions import role_tokens
from edgetiny.tokenizer.cut import CHUNK_CHARACTERS, chunks, neighbours
from edgetiny.tokenizer.json_cut import cuts_between_pieces, cuts_between_words, last_word_starts
from edgetiny.tokenizer.json_file import JsonFile, read_tokenizer_json
from edgetiny.tokenizer.json_vocabulary import json_vocabulary
from edgetiny.tokenizer.model_file import SPACE
from edgetiny.tokenizer.tokenizer import Tokenizer, require_unicode
from edgetiny.tokenizer.vocabulary import Vocabulary

_MOST_TRIES = 16


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json`, encoded by the tokenizers library.

    Its added tokens are matched in a text unless they are special. BOS, EOS and padding are those
    that `tokenizer_config.json` or `special_tokens_map.json` beside it name.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(path, content)
        self.file = read_tokenizer_json(content, path)
        self._tokenizer = _load(content, self.file, path)
        self.kind = f"{'byte-level' if self.file.is_byte_level else 'SentencePiece-like'} BPE"
        self.vocab_size = len(self.file.pieces)
        ids = {piece: index for index, piece in enumerate(self.file.pieces)}
        roles = {role: ids.get(token) for role, token in role_tokens(path).items()}
        self.bos_id = roles.get("bos_token")
        self.eos_id = roles.get("eos_token")
        self.pad_id = roles.get("pad_token")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS and EOS."""
        if len(text) <= CHUNK_CHARACTERS:
            return self._encode_whole(text)
        if cuts_between_words(self.file):
            return self._encode_by_words(text)
        if cuts_between_pieces(self.file):
            return self._encode_by_pieces(text)
        return self._encode_whole(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        listed = self._checked(ids)
        if self.file.is_byte_level:
            return b"".join(self._bytes[index] for index in listed).decode("utf-8", "replace")
        text: str = self._tokenizer.decode(listed, skip_special_tokens=True)
        return text

    def token_bytes(self, index: int) -> bytes:
        """Return the UTF-8 bytes that one id stands for."""
        self._checked([index])
        return self._bytes[index]

    def vocabulary(self) -> Vocabulary:
        """Return its pieces with what each is built from."""
        return json_vocabulary(self.file)

    @cached_property
    def _bytes(self) -> list[bytes]:
        return [self._bytes_of(index, piece) for index, piece in enumerate(self.file.pieces)]

    def _bytes_of(self, index: int, piece: str) -> bytes:
        if index in self.file.special_ids or piece == self.file.model.get("unk_token"):
            return b""
        if self.file.is_byte_level:
            return piece.encode("utf-8") if index in self.file.added else piece_bytes(piece)
        if index in self.file.byte_ids:
            return bytes([self.file.byte_ids[index]])
        return piece.replace(SPACE, " ").encode("utf-8")

    def _encode_whole(self, text: str) -> list[int]:
        ids: list[int] = self._encoding(text).ids
        return ids

    def _encoding(self, text: str) -> tokenizers.Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except TypeError:
            require_unicode(text)
            raise

    def _encode_by_words(self, text: str) -> list[int]:
        """Encode window after window, each up to the last word that is surely whole."""
        ids: list[int] = []
        start = 0
        while len(text) - start > CHUNK_CHARACTERS:
            window = text[start : start + CHUNK_CHARACTERS]
            window_ids, n_characters = self._up_to_a_word(window)
            if not n_characters:
                break
            ids += window_ids
            start += n_characters
        return ids + self._encode_whole(text[start:])

    def _up_to_a_word(self, window: str) -> tuple[list[int], int]:
        """Return the ids of a part of the window, and its length; 0 if it cannot be cut."""
        encoding = self._encoding(window)
        ids: list[int] = encoding.ids
        places = last_word_starts(window, encoding.word_ids, encoding.offsets, self.file)
        for n_ids, n_characters in islice(places, _MOST_TRIES):
            # Several splitters may follow each other: the rest must come out as it did.
            if self._encode_whole(window[n_characters:]) == ids[n_ids:]:
                return ids[:n_ids], n_characters
        return [], 0

    def _encode_by_pieces(self, text: str) -> list[int]:
        """Encode parts between which no piece spans; later ones lose the prefix again."""
        mark = self._tokenizer.token_to_id(SPACE)
        ids: list[int] = []
        for number, chunk in enumerate(chunks(text, self._is_safe_cut, CHUNK_CHARACTERS)):
            part = self._encode_whole(chunk)
            is_prefixed = number > 0 and self.file.has_prefix and part[0] == mark
            ids += part[1:] if is_prefixed else part
        return ids

    @cached_property
    def _neighbours(self) -> frozenset[tuple[str, str]]:
        return neighbours(piece.replace(" ", SPACE) for piece in self.file.pieces)

    def _is_safe_cut(self, left: str, right: str) -> bool:
        left, right = left.replace(" ", SPACE), right.replace(" ", SPACE)
        if (left, right) in self._neighbours:
            return False
        if self.file.has_prefix and (right == SPACE or (SPACE, right) in self._neighbours):
            return False
        # Neighbouring unknown characters become one unknown token.
        return self.file.has_byte_fallback or left in self.file.vocab


def _load(content: bytes, file: JsonFile, where: Path) -> tokenizers.Tokenizer:
    """Return the library's tokenizer, which gives the ids of a text and nothing around them."""
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(_of_text(content, file))
    except ValueError as error:
        reason = str(error).removeprefix("Cannot instantiate Tokenizer from buffer: ")
        raise DataError(f"{where} is damaged: {reason}") from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.post_processor = None
    for index, token in file.added.items():
        given = tokenizer.token_to_id(token["content"])
        if given != index:
            raise DataError(
                f"{where} says that {token['content']!r} is id {index}, but the tokenizers library"
                f" gives it {given}; save the tokenizer again with that library"
            )
    return tokenizer


def _of_text(content: bytes, file: JsonFile) -> bytes:
    """Return the file without the merges that would build a special token out of text."""
    if len(file.text_merges) == len(file.merges):
        return content
    merges = [[left, right] for left, right in file.text_merges]
    return json.dumps(file.payload | {"model": file.model | {"merges": merges}}).encode("utf-8")
