import io
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from edgetiny.cli import main
from edgetiny.config.tokenizer import TokenizerCountConfig
from edgetiny.errors import CheckpointError, ConfigError, DataError
from edgetiny.files import read_json
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.count import count_tokens, run
from edgetiny.tokenizer.counts import read_counts

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "token_counts.schema.json"


def _works(path: Path, works: list[str]) -> Path:
    lines = [json.dumps({"text": f"text of {work}", "source": work}) for work in works]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_the_file_holds_what_was_counted(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    other = tmp_path / "zh.txt"
    other.write_text("\u4e2d\u6587, twice: \u4e2d\u6587", encoding="utf-8")
    out = tmp_path / "counts.json"
    config = TokenizerCountConfig(source=tiny_tokenizer, text=(tiny_text, other), out=out)
    result = run(config)
    jsonschema.validate(read_json(out), read_json(SCHEMA))
    file, tokenizer = read_counts(out), Tokenizer.open(tiny_tokenizer)
    assert file.tokenizer_sha256 == tokenizer.sha256
    assert file.counts.documents == 2
    for path in (tiny_text, other):
        text = path.read_text(encoding="utf-8")
        group = file.counts.groups[path.stem]
        expected = np.bincount(tokenizer.encode(text), minlength=tokenizer.vocab_size)
        assert np.array_equal(group.by_id, expected)
        assert group.bytes == len(text.encode())
    assert result.summary()["tokens"] == int(file.counts.by_id.sum())
    assert [row["group"] for row in result.summary()["groups"]] == [tiny_text.stem, "zh"]


def test_works_are_groups_where_asked_for(tmp_path: Path, tiny_tokenizer: Path) -> None:
    text = _works(tmp_path / "en.jsonl", ["a#1", "b", "a#2"])
    counts = count_tokens(Tokenizer.open(tiny_tokenizer), [text], by="work")
    assert {name: group.documents for name, group in counts.groups.items()} == {
        "en/a": 2,
        "en/b": 1,
    }
    [(name, one)] = count_tokens(Tokenizer.open(tiny_tokenizer), [text], by="all").groups.items()
    assert (name, one.documents) == ("all", 3)
    many = _works(tmp_path / "many.jsonl", [f"work{number}" for number in range(257)])
    with pytest.raises(
        DataError, match="more than 128 groups of text; count with --by file or --by all"
    ):
        count_tokens(Tokenizer.open(tiny_tokenizer), [many], by="work")


@pytest.mark.parametrize("form", ["txt", "jsonl"])
def test_standard_input_counts_as_a_file_does(
    tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    text = _works(tmp_path / "en.jsonl", ["a", "b"])
    if form == "txt":
        text = text.rename(tmp_path / "en.txt")
        text.write_text("a text\nin lines\n", encoding="utf-8")
    tokenizer = Tokenizer.open(tiny_tokenizer)
    expected = count_tokens(tokenizer, [text]).groups["en"]
    _pipe(monkeypatch, text.read_bytes())
    found = count_tokens(tokenizer, [Path("-")], stdin="auto").groups["stdin"]
    assert np.array_equal(found.by_id, expected.by_id)
    assert (found.documents, found.bytes) == (expected.documents, expected.bytes)


def test_text_of_any_length_is_piped_in(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    out, n_copies = tmp_path / "counts.json", 30
    words = [sys.executable, "-m", "edgetiny", "tokenizer", "count", str(tiny_tokenizer)]
    with subprocess.Popen(
        [*words, "--text", "-", "--processes", "2", "--out", str(out), "--quiet"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as running:
        assert running.stdin is not None
        for _ in range(n_copies):
            running.stdin.write(tiny_text.read_bytes() + b"\n")
        running.stdin.close()
        assert running.wait() == 0
    once = count_tokens(Tokenizer.open(tiny_tokenizer), [tiny_text])
    piped = read_counts(out).counts
    assert piped.bytes == n_copies * (once.bytes + 1)
    # Each copy ends in one line end more, and some tokens meet others at the seams.
    assert abs(piped.total - n_copies * (once.total + 1)) <= 4 * n_copies


def test_a_hub_reference_is_looked_up(tmp_path: Path, tiny_text: Path) -> None:
    config = TokenizerCountConfig(source=Path("hf:nobody"), text=(tiny_text,), out=tmp_path / "o")
    with pytest.raises(CheckpointError, match="not of the form hf:owner/name"):
        run(config)


def test_a_format_without_standard_input_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--text-format txt is for standard input"):
        TokenizerCountConfig(
            source=tmp_path, text=(tmp_path / "a.txt",), out=tmp_path / "o", text_format="txt"
        )


def test_counts_of_parts_add_up_to_counts_of_the_whole(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tiny_text.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "en.txt").write_text("".join(lines[:500]), encoding="utf-8")
    (tmp_path / "two" / "en.txt").write_text("".join(lines[500:]), encoding="utf-8")
    (tmp_path / "other.txt").write_text("another group", encoding="utf-8")
    texts = {"a": ["one/en.txt"], "b": ["two/en.txt", "other.txt"]}
    texts["whole"] = ["one/en.txt", "two/en.txt", "other.txt"]
    for name, paths in texts.items():
        words = [word for path in paths for word in ("--text", str(tmp_path / path))]
        out = str(tmp_path / f"{name}.json")
        assert main(["tokenizer", "count", str(tiny_tokenizer), *words, "--out", out]) == 0
    merged = tmp_path / "merged.json"
    parts = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(["tokenizer", "merge-counts", *parts, "--out", str(merged)]) == 0
    jsonschema.validate(read_json(merged), read_json(SCHEMA))
    of_parts, of_whole = read_counts(merged).counts, read_counts(tmp_path / "whole.json").counts
    assert of_parts.rows() == of_whole.rows()
    for name, group in of_whole.groups.items():
        assert np.array_equal(of_parts.groups[name].by_id, group.by_id)
    # en.txt is one work to the whole, and two to its parts, which are damped on their own.
    assert np.array_equal(of_parts.groups["other"].spread, of_whole.groups["other"].spread)
    split, joined = of_parts.groups["en"].spread, of_whole.groups["en"].spread
    assert (split >= joined - 1e-9).all()
    assert (split > joined + 0.1).sum() > 100


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("counts", [1]),
        ("ids", [5, 4]),
        ("ids", [3, 512]),
        ("tokens", 9),
        ("bytes", "many"),
        ("built", [3]),
        ("spread", [1.0, -1.0]),
    ],
)
def test_a_damaged_counts_file_is_one_line(
    tmp_path: Path, tiny_tokenizer: Path, key: str, value: object
) -> None:
    group = {"documents": 1, "bytes": 9, "tokens": 3, "ids": [3, 4], "counts": [1, 2]}
    group |= {"built": [3, 4], "spread": [1.0, 1.6245]}
    tokenizer = {"sha256": "0" * 64, "vocab_size": 512}
    payload = {"schema_version": 1, "tokenizer": tokenizer, "groups": {"en": group | {key: value}}}
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(payload), encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        read_counts(path)
