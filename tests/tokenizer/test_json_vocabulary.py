"""What pieces of a `tokenizer.json` are built from."""

from typing import Any

import numpy as np

from edgetiny.tokenizer.json_file import JsonFile
from edgetiny.tokenizer.json_vocabulary import json_vocabulary, merged
from edgetiny.tokenizer.merge import NEVER


def _file(pieces: list[str], merges: list[Any], **model: Any) -> JsonFile:
    vocab = {piece: index for index, piece in enumerate(pieces)}
    mark = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never"}
    section = {"type": "BPE", "vocab": vocab, "merges": merges, **model}
    return JsonFile({"model": section, "added_tokens": [], "pre_tokenizer": mark})


def test_the_first_merge_is_the_best_however_it_is_written() -> None:
    pieces = ["a", "b", "c", "bc", "ab", "abc"]
    for merges in (["b c", "a b", "a bc"], [["b", "c"], ["a", "b"], ["a", "bc"]]):
        vocabulary = json_vocabulary(_file(pieces, merges))
        assert vocabulary.closure(5) == {0, 1, 2, 3, 5}
        assert vocabulary.closure(4) == {0, 1, 4}
    assert json_vocabulary(_file(pieces, ["a b", "b c", "a bc"])).parts == {3: (1, 2), 4: (0, 1)}


def test_without_bytes_every_character_stays() -> None:
    pieces = ["<unk>", "a", "b", "ab", "<0x41>"]
    plain = json_vocabulary(_file(pieces, ["a b"], unk_token="<unk>"))
    assert plain.mandatory == {0, 1, 2}
    with_bytes = json_vocabulary(_file(pieces, ["a b"], unk_token="<unk>", byte_fallback=True))
    assert with_bytes.mandatory == {0, 4}


def test_of_bytes_every_symbol_stays() -> None:
    file = _file(["a", "\u0120", "\u0120a", "\u4e2d"], ["\u0120 a"])
    file.payload["pre_tokenizer"] = {"type": "ByteLevel"}
    assert json_vocabulary(file).mandatory == {0, 1}


def test_whole_words_are_reached_and_worth_what_they_save() -> None:
    pieces = ["a", "b", "ab", "abba", ""]
    vocabulary = json_vocabulary(_file(pieces, ["a b"], ignore_merges=True))
    assert vocabulary.is_reachable(3)
    assert not vocabulary.is_reachable(4)
    gains = vocabulary.gains(np.array([0, 0, 5, 7, 0]))
    assert gains[3] == 7 * 2, "ab, b, a instead of one"
    assert not json_vocabulary(_file(pieces, ["a b"])).is_reachable(3)


def test_merging_a_word_by_hand() -> None:
    ranks = {("a", "b"): 1, ("b", "b"): 0, ("a", "bb"): 2}
    assert merged("abbab", lambda left, right: ranks.get((left, right), NEVER)) == ["abb", "ab"]
    assert merged("", lambda left, right: NEVER) == []
