import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edgetiny.config.data import DataBuildConfig
from edgetiny.data import Shards
from edgetiny.data.build import run
from edgetiny.errors import ConfigError, DataError
from edgetiny.files import read_json, sha256_file
from edgetiny.tokenizer import Tokenizer

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "shards_meta.schema.json"


def _build(text: list[Path], tokenizer: Path, out: Path, **settings: Any) -> Shards:
    defaults: dict[str, Any] = {"valid_fraction": 0.2, "processes": 1}
    config = DataBuildConfig(text=tuple(text), tokenizer=tokenizer, out=out, **defaults | settings)
    return run(config)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_text: Path) -> list[Path]:
    """Return two groups: 40 works of two parts each, and one text file."""
    folder = tmp_path_factory.mktemp("corpus")
    text = tiny_text.read_text(encoding="utf-8")
    with (folder / "parts.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(80):
            part = text[number * 1000 : (number + 1) * 1000] + " \u2581 中文\n"
            stream.write(
                json.dumps({"text": part, "source": f"work {number % 40}#{number}"}) + "\n"
            )
    (folder / "book.txt").write_text(text[100_000:160_000], encoding="utf-8")
    return [folder / "parts.jsonl", folder / "book.txt"]


@pytest.fixture(scope="module")
def shards(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[Path], tiny_tokenizer: Path
) -> Shards:
    return _build(corpus, tiny_tokenizer, tmp_path_factory.mktemp("shards") / "out")


def _texts(shards: Shards, split: str) -> list[tuple[str, str]]:
    """Return (group, decoded text) of every document of a split, checking its BOS and bytes."""
    assert shards.tokenizer_path is not None
    tokenizer, part = Tokenizer.open(shards.tokenizer_path), getattr(shards, split)
    texts = []
    for index in range(part.n_documents):
        start, end = part.document_offsets[index : index + 2]
        ids = part.tokens[start:end].tolist()
        assert ids[0] == tokenizer.bos_id
        assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids[1:])
        text = tokenizer.decode(ids)
        assert len(text.encode("utf-8")) == part.document_bytes[index]
        texts.append((part.groups[part.document_group[index]], text))
    return texts


def test_every_document_comes_back(shards: Shards, corpus: list[Path]) -> None:
    train, valid = _texts(shards, "train"), _texts(shards, "valid")
    lines = corpus[0].read_text(encoding="utf-8").splitlines()
    parts = [json.loads(line)["text"] for line in lines]
    found = {
        split: [text for group, text in texts if group == "parts"]
        for split, texts in (("train", train), ("valid", valid))
    }
    assert sorted(found["train"] + found["valid"]) == sorted(parts)
    assert found["train"] == [part for part in parts if part in set(found["train"])]
    [book_head] = [text for group, text in train if group == "book"]
    [book_tail] = [text for group, text in valid if group == "book"]
    assert book_head + book_tail == corpus[1].read_text(encoding="utf-8")
    assert 0.15 < len(book_tail) / len(book_head + book_tail) < 0.25


def test_parts_of_a_work_stay_together(shards: Shards, corpus: list[Path]) -> None:
    records = [json.loads(line) for line in corpus[0].read_text(encoding="utf-8").splitlines()]
    work = {record["text"]: record["source"].split("#")[0] for record in records}
    train = {work[text] for group, text in _texts(shards, "train") if group == "parts"}
    valid = {work[text] for group, text in _texts(shards, "valid") if group == "parts"}
    assert not train & valid
    assert valid


def test_output_does_not_depend_on_processes_or_batches(
    tmp_path: Path,
    corpus: list[Path],
    tiny_tokenizer: Path,
    shards: Shards,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _build(corpus, tiny_tokenizer, tmp_path / "three", processes=3)
    monkeypatch.setattr("edgetiny.tokenizer.parallel.batches.__defaults__", (2000,))
    _build(corpus, tiny_tokenizer, tmp_path / "two", processes=2)
    for name in ("train.bin", "train.idx", "valid.bin", "valid.idx", "meta.json"):
        for other in ("two", "three"):
            assert (tmp_path / other / name).read_bytes() == (shards.path / name).read_bytes()


def test_meta_follows_its_schema_and_counts_are_true(shards: Shards, tiny_tokenizer: Path) -> None:
    meta = read_json(shards.path / "meta.json", schema_version=1)
    jsonschema.validate(meta, read_json(SCHEMA))
    assert meta["tokenizer"]["sha256"] == Tokenizer.open(tiny_tokenizer).sha256
    assert meta["held_out"]["rules"] == {"parts": "works", "book": "tail"}
    for name, split in (("train", shards.train), ("valid", shards.valid)):
        counts = meta["splits"][name]
        assert counts["tokens"] == len(split.tokens) == split.document_offsets[-1]
        assert counts["documents"] == split.n_documents
        assert counts["bytes"] == split.document_bytes.sum()
        for fact in ("tokens", "documents", "bytes"):
            assert sum(group[fact] for group in counts["groups"].values()) == counts[fact]
    for name, sha256 in meta["files"].items():
        assert sha256_file(shards.path / name) == sha256


def test_seed_and_fraction_change_the_split(
    tmp_path: Path, corpus: list[Path], tiny_tokenizer: Path, shards: Shards
) -> None:
    other = _build(corpus, tiny_tokenizer, tmp_path / "seed", seed=1)
    assert other.sha256 != shards.sha256
    none = _build(corpus, tiny_tokenizer, tmp_path / "none", valid_fraction=0.0)
    assert len(none.valid.tokens) == 0
    assert none.valid.n_documents == 0
    assert len(none.train.tokens) > len(shards.train.tokens)


def test_more_ids_than_uint16_holds_take_uint32(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "a.txt").write_text("天地玄黄宇宙洪荒\n" * 50, encoding="utf-8")
    model = shared_data / "tokenizers" / "internlm_v7_sft.model"
    shards = _build([tmp_path / "a.txt"], model, tmp_path / "out")
    assert shards.train.tokens.dtype == np.uint32
    assert shards.vocab_size == 103_168
    assert _texts(shards, "train")[0][1].startswith("天地玄黄")
    assert shards.train.tokens.max() > 65_535


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xff"}\n')
    (tmp_path / "empty.txt").write_bytes(b"")
    for name, message in (("bad.jsonl", r"bad\.jsonl:2: not UTF-8"), ("empty.txt", "no text")):
        with pytest.raises(DataError, match=message):
            _build([tmp_path / name], tiny_tokenizer, tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        _build([tiny_text], tmp_path / "nowhere", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.jsonl", "empty.txt"}


def test_bad_text_in_a_process_leaves_nothing(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    text = tiny_text.read_text(encoding="utf-8")
    lines = [json.dumps({"text": text[start : start + 5000]}) for start in range(0, 150_000, 5000)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"no": 1}']))
    with pytest.raises(DataError, match=r"a\.jsonl:31: no field `text`"):
        _build([tmp_path / "a.jsonl"], tiny_tokenizer, tmp_path / "out", processes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_existing_folder_is_kept_unless_given_up(
    tmp_path: Path, tiny_tokenizer: Path, tiny_text: Path
) -> None:
    first = _build([tiny_text], tiny_tokenizer, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists"):
        _build([tiny_text], tiny_tokenizer, tmp_path / "out", valid_fraction=0.5)
    assert Shards.open(tmp_path / "out").sha256 == first.sha256
    again = _build(
        [tiny_text], tiny_tokenizer, tmp_path / "out", valid_fraction=0.5, overwrite=True
    )
    assert len(again.train.tokens) < len(first.train.tokens)
