import json
from pathlib import Path
from typing import Any

import pytest

from edgetiny.errors import DataError
from edgetiny.tokenizer.companions import (
    AddedToken,
    additional_specials,
    chat_templates,
    declared_tokens,
    role_tokens,
)


def _model(folder: Path, **companions: Any) -> Path:
    for name, payload in companions.items():
        (folder / f"{name}.json").write_text(json.dumps(payload))
    model = folder / "tokenizer.model"
    model.touch()
    return model


def test_the_settings_go_before_the_map(tmp_path: Path) -> None:
    model = _model(
        tmp_path,
        special_tokens_map={"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "p"},
        tokenizer_config={"bos_token": {"content": "<b>"}, "pad_token": None, "use_fast": True},
    )
    assert role_tokens(model) == {"bos_token": "<b>", "eos_token": "</s>"}


def test_declared_tokens_are_special_if_any_file_says_so(tmp_path: Path) -> None:
    model = _model(
        tmp_path,
        added_tokens={"<turn>": 12, "<end>": 11, "<tool>": 13},
        special_tokens_map={"eos_token": "<end>", "additional_special_tokens": ["<turn>"]},
        tokenizer_config={"added_tokens_decoder": {"10": {"content": "<x>", "special": True}}},
    )
    assert additional_specials(model) == ["<turn>"]
    declared = declared_tokens(model)
    assert list(declared) == [10, 11, 12, 13]
    assert [token.is_special for token in declared.values()] == [True, True, True, False]
    assert declared[13] == AddedToken("<tool>", False)


def test_templates_are_found_in_every_place(tmp_path: Path) -> None:
    model = _model(tmp_path, tokenizer_config={"chat_template": [{"name": "a", "template": "A"}]})
    (tmp_path / "chat_template.jinja").write_text("B")
    assert list(chat_templates(model)) == ["B", "A"]
    assert list(chat_templates(_model(tmp_path, tokenizer_config={"chat_template": "C"}))) == [
        "B",
        "C",
    ]


def test_a_template_that_is_no_text_is_one_clear_error(tmp_path: Path) -> None:
    model = _model(tmp_path, tokenizer_config={"chat_template": [7], "added_tokens_decoder": None})
    assert list(chat_templates(model)) == []
    assert declared_tokens(model) == {}
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"chat_template\.jinja cannot be read as UTF-8"):
        list(chat_templates(model))


def test_a_file_of_another_name_has_no_companions(tmp_path: Path) -> None:
    _model(tmp_path, special_tokens_map={"bos_token": "<s>"})
    assert role_tokens(tmp_path / "other.model") == {}


@pytest.mark.parametrize(
    "companion",
    [
        {"added_tokens": {"<turn>": "x"}},
        {"tokenizer_config": {"added_tokens_decoder": ["<turn>"]}},
        {"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "<turn>"}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"3": "<turn>"}}},
    ],
)
def test_damaged_declarations_are_one_clear_error(tmp_path: Path, companion: Any) -> None:
    with pytest.raises(DataError, match="does not list tokens with their ids"):
        declared_tokens(_model(tmp_path, **companion))
