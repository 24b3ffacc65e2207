import json
import shutil
from pathlib import Path

import pytest

from edgetiny.errors import CheckpointError, DataError
from edgetiny.tokenizer import checkpoint_tokenizer


def test_rows_may_be_spare_but_not_too_few(tiny_tokenizer: Path, tmp_path: Path) -> None:
    for rows in (512, 576, 1536):
        assert checkpoint_tokenizer(tiny_tokenizer, rows).vocab_size == 512
    for rows in (511, 1537):
        with pytest.raises(CheckpointError, match=f"512 pieces, but the model has a .* {rows};"):
            checkpoint_tokenizer(tiny_tokenizer, rows)
    with pytest.raises(DataError, match="holds no tokenizer"):
        checkpoint_tokenizer(tmp_path, 512)


def test_a_special_token_may_lie_beyond_the_rows(tiny_tokenizer: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_tokenizer, tmp_path / "in")
    (tmp_path / "in" / "added_tokens.json").write_text('{"[PAD]": 512}')
    with pytest.raises(CheckpointError, match="has 513 pieces"):
        checkpoint_tokenizer(tmp_path / "in", 512)
    config = {"pad_token": "[PAD]"}
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = checkpoint_tokenizer(tmp_path / "in", 512)
    assert (tokenizer.vocab_size, tokenizer.text_size) == (513, 512)
    assert max(tokenizer.encode("a [PAD]")) < 512
