from pathlib import Path

import numpy as np
import pytest

from edgetiny.data import Shards
from edgetiny.errors import DataError

TOKENS = np.array([50256, 7, 1, 2, 65535, 0, 3], dtype="<u2")


def _llmc(tokens: np.ndarray, version: int = 1, count: int | None = None) -> bytes:
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, version, len(tokens) if count is None else count
    return header.tobytes() + tokens.tobytes()


def _write(folder: Path, train: bytes, valid: bytes, valid_name: str = "val.bin") -> Path:
    (folder / "train.bin").write_bytes(train)
    (folder / valid_name).write_bytes(valid)
    return folder


@pytest.mark.parametrize("valid_name", ["val.bin", "valid.bin"])
def test_nanogpt_and_llmc_give_the_same_tokens(tmp_path: Path, valid_name: str) -> None:
    for name, train, valid in (
        ("nanogpt", TOKENS.tobytes(), TOKENS[:3].tobytes()),
        ("llmc", _llmc(TOKENS), _llmc(TOKENS[:3])),
    ):
        (tmp_path / name).mkdir()
        shards = Shards.open(_write(tmp_path / name, train, valid, valid_name))
        assert np.array_equal(shards.train.tokens, TOKENS)
        assert np.array_equal(shards.valid.tokens, TOKENS[:3])
        assert shards.train.document_offsets.tolist() == [0, len(TOKENS)]
        assert shards.vocab_size == 65_536
        assert (shards.meta, shards.tokenizer_sha256, shards.tokenizer_path) == ({}, None, None)
        assert shards.summary()["train_tokens"] == len(TOKENS)
        assert len(shards.sha256) == 64


def test_bytes_that_nobody_recorded_are_an_error(tmp_path: Path) -> None:
    shards = Shards.open(_write(tmp_path, TOKENS.tobytes(), b""))
    assert len(shards.valid.tokens) == 0
    with pytest.raises(DataError, match="does not say how many bytes of text"):
        _ = shards.train.document_bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TOKENS.tobytes() + b"x", "odd number of bytes"),
        (_llmc(TOKENS, version=7), "llm.c version 7; supported is version 1"),
        (_llmc(TOKENS, count=9), "tells of 9 tokens, the file has room for 7"),
        (_llmc(TOKENS)[:600], "is cut short"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Shards.open(_write(tmp_path, content, TOKENS.tobytes()))


def test_an_empty_llmc_file_has_no_tokens(tmp_path: Path) -> None:
    shards = Shards.open(_write(tmp_path, _llmc(TOKENS), _llmc(TOKENS[:0])))
    assert len(shards.valid.tokens) == 0


def test_train_without_validation_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(TOKENS.tobytes())
    with pytest.raises(DataError, match=r"neither meta\.json, nor train\.bin and val\.bin"):
        Shards.open(tmp_path)
