import json
import shutil
from pathlib import Path

import pytest

from edgetiny.config.data import DataBuildConfig
from edgetiny.data import Shards
from edgetiny.data.build import run as build
from edgetiny.errors import DataError
from edgetiny.evaluate.compatible import check_same_tokenizer


@pytest.fixture
def padded(tmp_path: Path, tiny_tokenizer: Path) -> Path:
    """A tokenizer of 512 pieces with a padding token declared behind them."""
    folder = tmp_path / "padded"
    shutil.copytree(tiny_tokenizer, folder)
    (folder / "added_tokens.json").write_text('{"[PAD]": 512}', encoding="utf-8")
    config = json.dumps({"pad_token": "[PAD]"})
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
    return folder


def shards_of(tokenizer: Path, text: Path, out: Path) -> Shards:
    return build(DataBuildConfig(text=(text,), tokenizer=tokenizer, out=out, processes=1))


def test_a_padding_token_beyond_the_rows_is_in_no_text(
    padded: Path, tiny_text: Path, tmp_path: Path
) -> None:
    shards = shards_of(padded, tiny_text, tmp_path / "shards")
    assert shards.vocab_size == 513
    check_same_tokenizer(padded, 512, shards)


def test_ids_of_another_tokenizer_beyond_the_rows_are_refused(
    padded: Path, tiny_text: Path, tmp_path: Path
) -> None:
    shards = shards_of(padded, tiny_text, tmp_path / "shards")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with pytest.raises(DataError, match=r"ids up to 512, but the model in .* vocabulary of 512"):
        check_same_tokenizer(nothing, 512, shards)
