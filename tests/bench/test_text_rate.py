import shutil

import pytest

from edgetiny.bench.text_rate import bytes_per_token
from edgetiny.errors import DataError


def test_no_tokenizer_has_no_rate(make_checkpoint):
    assert bytes_per_token(make_checkpoint().path) is None


def test_a_real_tokenizer_packs_several_bytes_of_english(shared_data, tmp_path):
    shutil.copy(shared_data / "tokenizers/mistral_v1_32k.model", tmp_path / "tokenizer.model")
    rate = bytes_per_token(tmp_path)
    assert rate is not None
    assert 2.5 < rate < 6


def test_a_damaged_tokenizer_is_an_error(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"not a tokenizer")
    with pytest.raises(DataError, match=r"tokenizer\.model"):
        bytes_per_token(tmp_path)
