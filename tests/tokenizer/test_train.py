import io
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.errors import ConfigError, DataError
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.train import TokenizerTrainResult, cut_line, run


def _train(text: Path, out: Path, **settings: Any) -> TokenizerTrainResult:
    return run(TokenizerTrainConfig(text=(text,), out=out, **({"vocab_size": 400} | settings)))


@pytest.mark.parametrize("vocab_size", [400, 777, 2000])
def test_size_is_exact(tmp_path: Path, tiny_text: Path, vocab_size: int) -> None:
    result = _train(tiny_text, tmp_path / "out", vocab_size=vocab_size)
    assert result.vocab_size == Tokenizer.open(tmp_path / "out").vocab_size == vocab_size
    assert result.bytes == tiny_text.stat().st_size
    assert result.summary()["bytes_per_token"] > 1


def test_a_larger_tokenizer_packs_more(tmp_path: Path, tiny_text: Path) -> None:
    small = _train(tiny_text, tmp_path / "small", vocab_size=400)
    large = _train(tiny_text, tmp_path / "large", vocab_size=2000)
    assert large.bytes_per_token > 1.2 * small.bytes_per_token


def test_the_same_settings_give_the_same_files(tmp_path: Path, tiny_text: Path) -> None:
    for name in "ab":
        _train(tiny_text, tmp_path / name, max_sentences=300, seed=5)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_sample_depends_on_seed_and_size(tmp_path: Path, tiny_text: Path) -> None:
    hashes = {
        _train(tiny_text, tmp_path / f"{count}-{seed}", max_sentences=count, seed=seed).sha256
        for count, seed in ((300, 0), (300, 1), (600, 0))
    }
    assert len(hashes) == 3


def test_character_coverage_decides_which_characters_get_pieces(tmp_path: Path) -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E40)))
    (tmp_path / "a.txt").write_text("common words again\n" * 500 + rare, encoding="utf-8")
    without = _train(tmp_path / "a.txt", tmp_path / "o", vocab_size=300, character_coverage=0.99)
    assert len(Tokenizer.open(without.path).encode(rare)) == len(rare.encode())
    with_all = _train(tmp_path / "a.txt", tmp_path / "p", vocab_size=350, character_coverage=1.0)
    assert len(Tokenizer.open(with_all.path).encode(rare)) == len(rare)


def test_digits_stand_alone_and_runs_of_spaces_are_pieces(tmp_path: Path) -> None:
    text = "counts = 2024\n        return counts + 2024 * numbers\n" * 300
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    tokenizer = Tokenizer.open(_train(tmp_path / "a.txt", tmp_path / "out", vocab_size=300).path)
    assert [tokenizer.decode([index]) for index in tokenizer.encode("2024")] == list("2024")
    assert b"        " in {tokenizer.token_bytes(index) for index in range(300)}


def test_words_of_long_lines_are_learnt(tmp_path: Path) -> None:
    line = " ".join(["extraordinary", "circumstances"] * 20_000)
    (tmp_path / "a.txt").write_text(line, encoding="utf-8")
    tokenizer = Tokenizer.open(_train(tmp_path / "a.txt", tmp_path / "out", vocab_size=300).path)
    assert len(tokenizer.encode(" extraordinary circumstances")) == 2


@pytest.mark.parametrize(
    "line",
    [
        "",
        "short line ",
        " word" * 20_000 + "  ",
        "x" * 100_000,
        "中" * 30_000,
        " " * 50_000,
        f"a {'x' * 20_000} b  {'中文 ' * 9_000}",
    ],
)
def test_parts_of_a_line_join_to_it_and_are_short(line: str) -> None:
    parts = list(cut_line(line))
    assert "".join(parts) == line
    assert all(0 < len(part.encode("utf-8")) <= 16_384 for part in parts)


def test_lines_are_cut_between_words() -> None:
    words = [f"word{number}" for number in range(10_000)]
    parts = list(cut_line(" ".join(words)))
    assert len(parts) > 1
    assert " ".join(parts).split() == words


def test_too_small_a_text_names_the_largest_size(tmp_path: Path, tiny_text: Path) -> None:
    with pytest.raises(ConfigError, match="the largest possible is") as caught:
        _train(tiny_text, tmp_path / "out", vocab_size=1_000_000)
    assert not (tmp_path / "out").exists()
    largest = int(str(caught.value).split("largest possible is ")[1].split(":")[0])
    assert _train(tiny_text, tmp_path / "out", vocab_size=largest).vocab_size == largest


def test_too_many_characters_name_the_size_they_need(tmp_path: Path) -> None:
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 500)]
    random.Random(0).shuffle(characters)
    (tmp_path / "a.txt").write_text("".join(characters) * 3, encoding="utf-8")
    with pytest.raises(ConfigError, match="no room for the characters of this text; give more"):
        _train(tmp_path / "a.txt", tmp_path / "out", vocab_size=400, character_coverage=1.0)


def test_bad_text_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"good\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        _train(tmp_path / "bad.txt", tmp_path / "out")
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(DataError, match="holds no text"):
        _train(tmp_path / "empty.txt", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.txt", "empty.txt"}


def test_an_existing_folder_is_kept_unless_given_up(tmp_path: Path, tiny_text: Path) -> None:
    out = tmp_path / "out"
    first = _train(tiny_text, out)
    with pytest.raises(ConfigError, match="exists"):
        _train(tiny_text, out, vocab_size=500)
    assert Tokenizer.open(out).sha256 == first.sha256
    assert _train(tiny_text, out, vocab_size=500, overwrite=True).vocab_size == 500


def test_text_may_come_from_a_pipe(
    tmp_path: Path, tiny_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TokenizerTrainConfig(text=(tiny_text,), out=tmp_path / "file", vocab_size=400))
    piped = io.TextIOWrapper(io.BytesIO(tiny_text.read_bytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    run(TokenizerTrainConfig(text=(Path("-"),), out=tmp_path / "pipe", vocab_size=400))
    model = (tmp_path / "file" / "tokenizer.model").read_bytes()
    assert (tmp_path / "pipe" / "tokenizer.model").read_bytes() == model
