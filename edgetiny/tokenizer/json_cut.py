"""Where a long text can be cut for a `tokenizer.json`, judged by its normalizer and splitter."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from edgetiny.tokenizer.json_file import JsonFile
from edgetiny.tokenizer.model_file import SPACE

Form: TypeAlias = Literal["NFC", "NFD", "NFKC", "NFKD"]

_FORMS: tuple[Form, ...] = ("NFC", "NFD", "NFKC", "NFKD")
_SPLITTERS = ("ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit")
_CLASS = r"\[(?:\\.|[^\]\\])+\]"
_REGEX_PART = re.compile(rf"{_CLASS}|\\.|\(\?<[=!]|\^")
# Looking behind, or for the start of a line or word: then a word depends on the text before it.
_LOOKS_BACK = ("(?<=", "(?<!", "^", r"\b", r"\B", r"\A", r"\G", r"\K", r"\y", r"\Y")
# The last words of a window may go on behind it, and a splitter may look a little further.
_MARGIN_CHARACTERS = 1 << 10


def cuts_between_words(file: JsonFile) -> bool:
    """Whether words follow from the text behind the last word alone.

    So it is for the splitters of GPT-2, LLaMA 3 and Qwen: they go through a text from left to
    right by regular expressions that look one character ahead, never back.
    """
    return (
        file.is_byte_level
        and all(step["type"] in _FORMS for step in file.normalizers)
        and all(_is_forward(step) for step in file.pre_tokenizers)
    )


def cuts_between_pieces(file: JsonFile) -> bool:
    """Whether merges alone decide the pieces, as words do not end before merging."""
    marks = all(_is_mark(step) for step in (*file.normalizers, *file.pre_tokenizers))
    return not file.is_byte_level and marks and (not file.has_prefix or SPACE in file.vocab)


def last_word_starts(
    window: str,
    word_ids: Sequence[int | None],
    offsets: Sequence[tuple[int, int]],
    file: JsonFile,
) -> Iterator[tuple[int, int]]:
    """Yield the tokens and the characters before each word at which the text can be cut.

    The last word comes first. word_ids, offsets: of the tokens of the window.
    """
    for token in range(len(word_ids) - 1, 0, -1):
        place = offsets[token][0]
        if word_ids[token] == word_ids[token - 1] or place > len(window) - _MARGIN_CHARACTERS:
            continue
        if place > 0 and _is_word_start(window[place - 1], window[place], file):
            yield token, place


def _is_word_start(left: str, right: str, file: JsonFile) -> bool:
    # Digits may be grouped from the right, that is, looking far ahead.
    if left.isnumeric() or right.isnumeric():
        return False
    if right != " " and any(step.get("add_prefix_space") for step in file.pre_tokenizers):
        return False
    forms: list[Form] = [step["type"] for step in file.normalizers]
    return not unicodedata.combining(right) and all(
        unicodedata.normalize(form, left + right)
        == unicodedata.normalize(form, left) + unicodedata.normalize(form, right)
        for form in forms
    )


def _is_forward(step: dict[str, Any]) -> bool:
    pattern = (step.get("pattern") or {}).get("Regex", "")
    parts = _REGEX_PART.findall(pattern)
    return step["type"] in _SPLITTERS and not any(part in _LOOKS_BACK for part in parts)


def _is_mark(step: dict[str, Any]) -> bool:
    """Whether a step only turns spaces into marks, or splits at them."""
    if step["type"] == "Split":
        return step.get("pattern") == {"String": " "}
    if step["type"] == "Replace":
        return step.get("pattern") == {"String": " "} and step.get("content") == SPACE
    return step["type"] == "Metaspace" or step == {"type": "Prepend", "prepend": SPACE}
