"""`tokenizer.json` of the tokenizers library: reading it, and refusing what is not BPE."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgetiny.errors import DataError
from edgetiny.tokenizer.model_file import SPACE

_PARTS = ("normalizers", "pretokenizers", "processors", "decoders")


@dataclass(frozen=True)
class JsonFile:
    """A BPE `tokenizer.json`. The payload is read, never changed."""

    payload: dict[str, Any]

    @property
    def model(self) -> dict[str, Any]:
        """The section `model`: vocabulary and merges."""
        section: dict[str, Any] = self.payload["model"]
        return section

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Piece to id, without the added tokens that the model itself does not hold."""
        pieces: dict[str, int] = self.model["vocab"]
        return pieces

    @cached_property
    def added(self) -> dict[int, dict[str, Any]]:
        """The declared added tokens by id: content, special, ..."""
        return {token["id"]: token for token in self.payload.get("added_tokens") or []}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The added tokens that are never matched in a text."""
        return frozenset(index for index, token in self.added.items() if token.get("special"))

    @cached_property
    def pieces(self) -> list[str]:
        """Piece by id; an empty string for an id without one."""
        ids = {index: piece for piece, index in self.vocab.items()}
        ids |= {index: token["content"] for index, token in self.added.items()}
        return [ids.get(index, "") for index in range(max(ids, default=-1) + 1)]

    @cached_property
    def byte_ids(self) -> dict[int, int]:
        """The byte that each piece such as <0x0A> stands for, by id; none without byte fallback."""
        names = {f"<0x{byte:02X}>": byte for byte in range(256 if self.has_byte_fallback else 0)}
        return {self.vocab[name]: byte for name, byte in names.items() if name in self.vocab}

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """The (left, right) of every merge, best first."""
        return [split_merge(merge) for merge in self.model["merges"]]

    @cached_property
    def text_merges(self) -> list[tuple[str, str]]:
        """The merges without those that would build a special token out of text.

        Converters write such merges for LLaMA's `</s>`, since its parts are pieces too.
        """
        specials = {self.pieces[index] for index in self.special_ids}
        return [(left, right) for left, right in self.merges if left + right not in specials]

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether pieces are of bytes, each written as a printable character."""
        return any(part["type"] == "ByteLevel" for part in self.pre_tokenizers)

    @property
    def has_byte_fallback(self) -> bool:
        """Whether characters without a piece are spelled in pieces such as <0x0A>."""
        return bool(self.model.get("byte_fallback"))

    @property
    def ignores_merges(self) -> bool:
        """Whether a word that is a piece becomes it even if merging would not build it."""
        return bool(self.model.get("ignore_merges"))

    @cached_property
    def has_prefix(self) -> bool:
        """Whether a space mark is put before a text."""
        steps = (*self.normalizers, *self.pre_tokenizers)
        metaspaces = [step for step in steps if step["type"] == "Metaspace"]
        return any(step["type"] == "Prepend" for step in steps) or any(
            step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True)
            for step in metaspaces
        )

    @cached_property
    def normalizers(self) -> list[dict[str, Any]]:
        """The steps by which a text is rewritten, sequences laid out flat."""
        return list(flat(self.payload.get("normalizer")))

    @cached_property
    def pre_tokenizers(self) -> list[dict[str, Any]]:
        """The steps by which a text is split into words, sequences laid out flat."""
        return list(flat(self.payload.get("pre_tokenizer")))


def read_tokenizer_json(content: bytes, where: object) -> JsonFile:
    """Return the parsed file. Raises DataError if it is damaged or another kind of tokenizer."""
    try:
        payload = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is damaged or truncated: {error}") from None
    model = payload.get("model") if isinstance(payload, dict) else None
    if not isinstance(model, dict):
        raise DataError(f"{where} is no tokenizer.json: it has no section `model`")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise DataError(f"{where} is a {kind} tokenizer.json; supported is BPE")
    file = JsonFile(payload)
    try:
        _require_supported(file, where)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{where} is damaged: its sections are not those of a BPE") from None
    return file


def split_merge(merge: str | list[str]) -> tuple[str, str]:
    """Return the two parts of a merge, which is written "a b" or ["a", "b"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def flat(component: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the steps of a component, sequences laid out flat."""
    if component is None:
        return
    nested = [part for key in _PARTS for part in component.get(key) or []]
    if component["type"] != "Sequence":
        yield component
    for part in nested:
        yield from flat(part)


def _require_supported(file: JsonFile, where: object) -> None:
    if file.model.get("dropout"):
        raise DataError(f"{where} splits text at random (dropout); supported is BPE without")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if file.model.get(key):
            raise DataError(f"{where} marks the pieces of words ({key}); supported is BPE without")
    steps = (*file.normalizers, *file.pre_tokenizers)
    if any(step["type"] == "ByteLevel" for step in file.normalizers):
        raise DataError(f"{where} is byte-level by its normalizer; supported is by pre_tokenizer")
    is_marked = any(SPACE in (step.get("content"), step.get("replacement")) for step in steps)
    if not file.is_byte_level and not is_marked:
        raise DataError(
            f"{where} is neither a byte-level BPE nor one that marks spaces as SentencePiece does"
        )
    ids = list(file.vocab.values())
    taken = dict(zip(ids, file.vocab, strict=True))
    is_clash = any(taken.get(i, t["content"]) != t["content"] for i, t in file.added.items())
    if len(taken) < len(ids) or is_clash or min((*ids, *file.added), default=0) < 0:
        raise DataError(f"{where} is damaged: two pieces share an id, or one is negative")
    if not file.pieces or not file.merges:
        raise DataError(f"{where} has no pieces or no merges; supported is BPE")
