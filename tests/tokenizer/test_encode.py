"""Encode, as the command does it: every byte is accounted for, and decode gives the text back."""

import io
import sys
from pathlib import Path

import pytest

from edgetiny.config.tokens import TokenizerDecodeConfig, TokenizerEncodeConfig
from edgetiny.errors import DataError
from edgetiny.tokenizer.decode import run as decode
from edgetiny.tokenizer.encode import run as encode

TEXTS = ["The object of it.", "  two  spaces\n\ttab ", "\u5c0f\u6a21\u578b \U0001f600", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_decode_gives_back_what_encode_split(tiny_tokenizer: Path, text: str) -> None:
    result = encode(TokenizerEncodeConfig(source=tiny_tokenizer, prompt=text))
    assert b"".join(result.pieces).decode() == text
    back = decode(TokenizerDecodeConfig(source=tiny_tokenizer, ids=tuple(result.ids)))
    assert back.summary() == {"text": text}


def test_the_summary_has_a_row_for_each_token(tiny_tokenizer: Path) -> None:
    result = encode(TokenizerEncodeConfig(source=tiny_tokenizer, prompt="\u5c0f is"))
    summary = result.summary()
    assert summary["bytes"] == 6
    assert [row["id"] for row in summary["pieces"]] == result.ids
    assert summary["tokens"] == len(result.ids)


def test_a_dash_reads_standard_input(tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TokenizerEncodeConfig(source=tiny_tokenizer, prompt="-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a line\n")))
    assert encode(config).text == "a line\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(DataError, match="not valid UTF-8"):
        encode(config)


def test_what_is_not_there_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        encode(TokenizerEncodeConfig(source=tmp_path / "none", prompt="a"))
    with pytest.raises(DataError, match="99999"):
        decode(TokenizerDecodeConfig(source=tiny_tokenizer, ids=(5, 99999)))
