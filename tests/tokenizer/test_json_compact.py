"""What of a `tokenizer.json` names an id, in new ids; on a file small enough to read."""

from typing import Any

import pytest
import tokenizers

from edgetiny.files import write_json
from edgetiny.tokenizer.json_compact import keep_tokens, post_processor_ids
from edgetiny.tokenizer.json_file import JsonFile

PIECES = ["<s>", "</s>", "a", "b", "c", "ab", "abc", "bc", "<pad>"]
SPECIALS = ("<s>", "</s>", "<pad>")


def _file(**sections: Any) -> JsonFile:
    vocab = {piece: index for index, piece in enumerate(PIECES[:-1])}
    model = {"type": "BPE", "vocab": vocab, "merges": ["a b", "ab c", "b c"]}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        flags | {"id": PIECES.index(name), "content": name, "special": True} for name in SPECIALS
    ]
    splitter = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    payload = {"version": "1.0", "model": model, "added_tokens": added, "pre_tokenizer": splitter}
    return JsonFile(payload | sections)


def test_a_merge_stays_with_its_parts_and_their_join() -> None:
    small = keep_tokens(_file(), [0, 1, 2, 3, 4, 6, 7, 8])
    assert small["model"]["merges"] == ["b c"]
    assert small["model"]["vocab"] == {
        piece: index for index, piece in enumerate(["<s>", "</s>", "a", "b", "c", "abc", "bc"])
    }
    assert [token["id"] for token in small["added_tokens"]] == [0, 1, 7]


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing"])
def test_processors_with_pairs_are_renumbered(kind: str) -> None:
    processor = {"type": kind, "sep": ["bc", 7], "cls": ["<s>", 0], "trim_offsets": True}
    file = _file(post_processor={"type": "Sequence", "processors": [processor]})
    assert post_processor_ids(file.payload) == {0, 7}
    small = keep_tokens(file, [0, 1, 3, 4, 7, 8])
    changed = small["post_processor"]["processors"][0]
    assert changed == processor | {"sep": ["bc", 4], "cls": ["<s>", 0]}


def test_padding_is_renumbered() -> None:
    file = _file(padding={"strategy": "BatchLongest", "pad_id": 8, "pad_token": "<pad>"})
    assert post_processor_ids(file.payload) == {8}
    assert keep_tokens(file, [0, 1, 2, 8])["padding"]["pad_id"] == 3


def test_ids_without_pieces_leave_every_id_as_it_was_given(tmp_path: Any) -> None:
    file = _file()
    del file.vocab["b"]
    file.model["merges"].clear()
    small = keep_tokens(file, [0, 1, 2, 3, 4, 8])
    assert small["model"]["vocab"]["<pad>"] == 5, "or the library would number it 4"
    write_json(tmp_path / "tokenizer.json", small)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.token_to_id("<pad>") == 5


def test_the_source_is_not_changed() -> None:
    file, again = _file(padding={"pad_id": 8}), _file(padding={"pad_id": 8})
    keep_tokens(file, [0, 1, 2, 8])
    assert file.payload == again.payload
