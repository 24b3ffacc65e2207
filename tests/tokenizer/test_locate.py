from pathlib import Path

import pytest

from edgetiny.errors import DataError
from edgetiny.tokenizer.locate import copy_tokenizer, find_model_file, has_tokenizer


def _write(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_a_sentencepiece_model_goes_before_a_tokenizer_json(tmp_path: Path) -> None:
    both = _write(tmp_path / "both", "tokenizer.model", "tokenizer.json")
    alone = _write(tmp_path / "alone", "tokenizer.json")
    assert find_model_file(both).name == "tokenizer.model"
    assert find_model_file(alone).name == "tokenizer.json"
    assert find_model_file(both / "tokenizer.json") == both / "tokenizer.json"
    assert has_tokenizer(both)
    assert has_tokenizer(alone)
    assert not has_tokenizer(tmp_path)


def test_ranks_beside_a_tokenizer_json_are_no_model(tmp_path: Path) -> None:
    folder = _write(tmp_path / "llama3", "tokenizer.model", "tokenizer.json")
    (folder / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    assert find_model_file(folder).name == "tokenizer.json"
    (folder / "tokenizer.json").unlink()
    assert find_model_file(folder).name == "tokenizer.model"


def test_what_is_missing_or_of_another_kind_is_named(tmp_path: Path) -> None:
    for name, message in (("vocab.json", "a BPE vocab.json without"), ("vocab.txt", "WordPiece")):
        with pytest.raises(DataError, match=message):
            find_model_file(_write(tmp_path / name, name))
    with pytest.raises(DataError, match="holds no tokenizer"):
        find_model_file(_write(tmp_path / "empty"))
    with pytest.raises(DataError, match="does not exist"):
        find_model_file(tmp_path / "nowhere")


def test_a_copy_has_the_usual_name_and_what_stands_beside(tmp_path: Path) -> None:
    names = ("tokenizer.model", "tokenizer.json", "added_tokens.json", "config.json")
    source = _write(tmp_path / "source", *names)
    copy_tokenizer(source / "tokenizer.model", _write(tmp_path / "a"))
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(names) - {"config.json"}
    copy_tokenizer(source / "tokenizer.json", _write(tmp_path / "b"))
    assert {path.name for path in (tmp_path / "b").iterdir()} == set(names[1:3])
    strange = _write(tmp_path / "strange", "my_tokenizer.json", "added_tokens.json")
    copy_tokenizer(strange / "my_tokenizer.json", _write(tmp_path / "c"))
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["tokenizer.json"]
