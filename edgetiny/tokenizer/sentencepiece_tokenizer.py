"""SentencePiece as a tokenizer: BPE and unigram models."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetiny.tokenizer.added_pieces import with_added_pieces
from edgetiny.tokenizer.cut import CHUNK_CHARACTERS, chunks, neighbours
from edgetiny.tokenizer.model_file import (
    BYTE,
    CONTROL,
    SPACE,
    UNIGRAM,
    UNKNOWN,
    load_model,
    require_supported,
)
from edgetiny.tokenizer.tokenizer import Tokenizer, require_unicode
from edgetiny.tokenizer.unigram import unigram_vocabulary
from edgetiny.tokenizer.vocabulary import Vocabulary, sentencepiece_bpe_vocabulary


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece `.model` file, encoded by the sentencepiece library.

    Tokens that the files beside declare beyond its pieces are pieces too.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(path, content)
        self._processor, proto = load_model(content, path)
        require_supported(proto, path)
        self._proto = with_added_pieces(proto, path)
        if self._proto is not proto:
            extended = self._proto.SerializeToString(deterministic=True)
            self._processor, _ = load_model(extended, path)
            self.sha256 = hashlib.sha256(extended).hexdigest()
        self._is_unigram = self._proto.trainer_spec.model_type == UNIGRAM
        self.kind = f"SentencePiece {'unigram' if self._is_unigram else 'BPE'}"
        self.vocab_size = len(self._proto.pieces)
        self.bos_id = _id_or_none(self._processor.bos_id())
        self.eos_id = _id_or_none(self._processor.eos_id())
        self.pad_id = _id_or_none(self._processor.pad_id())

    @property
    def proto(self) -> Any:
        """The model as SentencePiece's ModelProto; read it, do not change it."""
        return self._proto

    @functools.cached_property
    def neighbours(self) -> frozenset[tuple[str, str]]:
        """Every two characters that stand side by side in a piece."""
        return neighbours(piece.piece for piece in self._proto.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS and EOS."""
        try:
            if self._keeps_space_mark and SPACE in text:
                return self._encode_around_space_marks(text)
            if len(text) <= CHUNK_CHARACTERS or not self._is_local:
                ids: list[int] = self._processor.encode(text)
                return ids
            return self._encode_in_chunks(text)
        except RuntimeError:
            require_unicode(text)
            raise

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        text: str = self._processor.decode(self._checked(ids))
        return text

    def token_bytes(self, index: int) -> bytes:
        """Return the UTF-8 bytes that one id stands for."""
        self._checked([index])
        piece = self._proto.pieces[index]
        if piece.type in (UNKNOWN, CONTROL):
            return b""
        if piece.type == BYTE:
            return bytes([int(piece.piece[1:-1], 16)])
        text: str = piece.piece
        return text.replace(SPACE, " ").encode("utf-8")

    def vocabulary(self) -> Vocabulary:
        """Return its pieces with what each is built from."""
        if not self._is_unigram:
            return sentencepiece_bpe_vocabulary(self._proto)
        return unigram_vocabulary(self._proto)

    def _encode_around_space_marks(self, text: str) -> list[int]:
        """Spell U+2581 in bytes: as a piece it would come back as a space."""
        first, *others = text.split(SPACE)
        ids = self.encode(first)
        for part in others:
            ids += self._space_mark_bytes
            ids += self.encode(part)
        return ids

    def _encode_in_chunks(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, chunk in enumerate(chunks(text, self._is_safe_cut, CHUNK_CHARACTERS)):
            part: list[int] = self._processor.encode(chunk)
            # The prefix is put before every chunk, but belongs only before the text.
            ids += part[1:] if number > 0 and self._has_prefix else part
        return ids

    @functools.cached_property
    def _has_prefix(self) -> bool:
        return bool(self._proto.normalizer_spec.add_dummy_prefix)

    @functools.cached_property
    def _is_verbatim(self) -> bool:
        """Whether text is split as it stands, but for the space mark and the prefix."""
        spec = self._proto.normalizer_spec
        return not spec.precompiled_charsmap and not spec.remove_extra_whitespaces

    @functools.cached_property
    def _is_local(self) -> bool:
        """Whether pieces depend on nothing beyond the nearest place that no piece spans.

        Unigram sums scores in single precision, so that its choices depend on the whole text.
        """
        has_lone_prefix = not self._has_prefix or any(p.piece == SPACE for p in self._proto.pieces)
        return self._is_verbatim and not self._is_unigram and has_lone_prefix

    @functools.cached_property
    def _characters(self) -> frozenset[str]:
        return frozenset(piece.piece for piece in self._proto.pieces if len(piece.piece) == 1)

    def _is_safe_cut(self, left: str, right: str) -> bool:
        left, right = left.replace(" ", SPACE), right.replace(" ", SPACE)
        if (left, right) in self.neighbours:
            return False
        if self._has_prefix and (SPACE, right) in self.neighbours:
            return False
        # Neighbouring unknown characters become one unknown token.
        return left in self._characters or bool(self._space_mark_bytes)

    @functools.cached_property
    def _keeps_space_mark(self) -> bool:
        return self._is_verbatim and not self._has_prefix and bool(self._space_mark_bytes)

    @functools.cached_property
    def _space_mark_bytes(self) -> list[int]:
        """The byte pieces that spell U+2581; none without byte fallback."""
        ids = {piece.piece: i for i, piece in enumerate(self._proto.pieces) if piece.type == BYTE}
        names = [f"<0x{byte:02X}>" for byte in SPACE.encode("utf-8")]
        return [ids[name] for name in names] if all(name in ids for name in names) else []


def _id_or_none(index: int) -> int | None:
    return index if index >= 0 else None
