import json
import random
import shutil
from pathlib import Path

import pytest

from edgetiny.errors import DataError
from edgetiny.tokenizer import Tokenizer, sentencepiece_tokenizer

ODD_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\n  x\t\t\r\n",
    "a \u2581 b\u2581\u2581c",
    "\u2581",
    "\0 nul \0",
    "1234567890",
    "日本語、中文。",
    "👍🏽 e\u0301 \ufeff \u200b \ufffd",
    "<s> </s> <unk> <0x0A>",
    "x" * 50 + " " * 50 + "y",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Path) -> Tokenizer:
    return Tokenizer.open(tiny_tokenizer)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_decode_inverts_encode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_token_bytes_spell_the_text(tokenizer: Tokenizer, text: str) -> None:
    spelled = b"".join(tokenizer.token_bytes(index) for index in tokenizer.encode(text))
    assert spelled == text.encode("utf-8")


def test_decode_inverts_encode_on_random_characters(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    alphabet = "ab  \n\t\u2581\0é中👍" + "".join(
        chr(rng.randrange(0xE000, 0xFFFF)) for _ in range(20)
    )
    for _ in range(300):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(40)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_ids_are_those_of_llama(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert tokenizer.vocab_size == 512
    assert tokenizer.token_bytes(1) == b""
    assert tokenizer.decode([1, *tokenizer.encode("word"), 2]) == "word"


def test_text_cannot_smuggle_in_special_ids(tokenizer: Tokenizer) -> None:
    assert not {0, 1, 2} & set(tokenizer.encode("<s>a</s><unk>"))


def test_folder_and_file_open_alike(tiny_tokenizer: Path) -> None:
    from_file = Tokenizer.open(tiny_tokenizer / "tokenizer.model")
    assert from_file.sha256 == Tokenizer.open(tiny_tokenizer).sha256


@pytest.mark.parametrize("name", [None, "mistral_v1_32k", "internlm_v7_sft", "sp_test_unigram1k"])
def test_cutting_a_long_text_changes_no_id(
    request: pytest.FixtureRequest,
    tokenizer: Tokenizer,
    tiny_text: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
) -> None:
    if name is not None:
        shared: Path = request.getfixturevalue("shared_data")
        tokenizer = Tokenizer.open(shared / "tokenizers" / f"{name}.model")
    text = tiny_text.read_text(encoding="utf-8")[:60_000] + "\n" * 500 + " " * 300 + "x" * 3000
    whole = tokenizer.encode(text)
    monkeypatch.setattr(sentencepiece_tokenizer, "CHUNK_CHARACTERS", 700)
    assert tokenizer.encode(text) == whole


def test_half_a_surrogate_pair_is_one_clear_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="not valid Unicode: surrogates not allowed at character 1"):
        tokenizer.encode("a\ud800b")


def test_an_id_out_of_range_is_an_error(tokenizer: Tokenizer) -> None:
    for wrong in (-1, 512):
        with pytest.raises(DataError, match=f"id {wrong} is not in the vocabulary"):
            tokenizer.decode([5, wrong])
        with pytest.raises(DataError, match=f"id {wrong} is not in the vocabulary"):
            tokenizer.token_bytes(wrong)


def test_what_is_not_a_tokenizer_is_named(tmp_path: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Tokenizer.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no tokenizer"):
        Tokenizer.open(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]")
    with pytest.raises(DataError, match=r"a WordPiece vocab\.txt; supported are SentencePiece"):
        Tokenizer.open(tmp_path)
    content = (tiny_tokenizer / "tokenizer.model").read_bytes()
    for damaged in (b"", b"not a model", content[: len(content) // 2]):
        (tmp_path / "bad.model").write_bytes(damaged)
        with pytest.raises(DataError, match="damaged or not a SentencePiece model"):
            Tokenizer.open(tmp_path / "bad.model")


def test_pieces_declared_beside_a_model_are_part_of_what_identifies_it(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """An id that is another token in each of two folders must not pass for the same."""
    hashes = set()
    for name in ("<code>", "<math>", None):
        folder = shutil.copytree(tiny_tokenizer, tmp_path / str(name))
        if name is not None:
            (folder / "added_tokens.json").write_text(json.dumps({name: 512}), encoding="utf-8")
        tokenizer = Tokenizer.open(folder)
        assert tokenizer.sha256 == Tokenizer.open(folder).sha256
        hashes.add(tokenizer.sha256)
    assert len(hashes) == 3
    assert Tokenizer.open(tiny_tokenizer).sha256 in hashes
