"""`tokenizer.json` as a tokenizer: the library's ids, exact bytes, clear errors."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from edgetiny.errors import DataError
from edgetiny.tokenizer import Tokenizer, json_cut, json_tokenizer
from edgetiny.tokenizer.huggingface import tokenizer_json
from edgetiny.tokenizer.json_tokenizer import JsonTokenizer

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
QWEN2 = LLAMA3.replace("{1,3}", "")

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def neox_file(shared_data: Path) -> Path:
    return shared_data / "tokenizers" / "gpt_neox_20B_tokenizer.json"


@pytest.fixture(scope="module")
def neox(neox_file: Path) -> Tokenizer:
    return Tokenizer.open(neox_file)


@pytest.fixture(scope="module")
def mistral_file(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    proto = Tokenizer.open(shared_data / "tokenizers" / "mistral_v1_32k.model").proto
    path = tmp_path_factory.mktemp("mistral") / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json(proto)))
    return path


def _split(*patterns: str) -> dict[str, Any]:
    splits = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*splits, byte_level | {"trim_offsets": True}]}


def _changed(source: Path, out: Path, change: Change) -> Path:
    payload = json.loads(source.read_text(encoding="utf-8"))
    change(payload)
    out.write_text(json.dumps(payload))
    return out


def test_ids_are_those_of_the_library(
    neox: Tokenizer, neox_file: Path, real_text: dict[str, list[str]]
) -> None:
    library = tokenizers.Tokenizer.from_file(str(neox_file))
    for text in [text[:5_000] for texts in real_text.values() for text in texts]:
        assert neox.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_what_it_says_of_itself(neox: Tokenizer, mistral_file: Path) -> None:
    assert neox.kind == "byte-level BPE"
    assert neox.vocab_size == 50277
    assert (neox.bos_id, neox.eos_id, neox.pad_id) == (None, None, None)
    mistral = Tokenizer.open(mistral_file)
    assert (mistral.kind, mistral.vocab_size) == ("SentencePiece-like BPE", 32000)


def test_byte_level_gives_back_any_text(neox: Tokenizer, random_texts: list[str]) -> None:
    for text in random_texts:
        ids = neox.encode(text)
        wanted = unicodedata.normalize("NFC", text)
        assert neox.decode(ids) == wanted
        assert b"".join(map(neox.token_bytes, ids)) == wanted.encode("utf-8")


def test_byte_fallback_gives_back_any_text_but_for_the_space_mark(
    mistral_file: Path, random_texts: list[str]
) -> None:
    mistral = Tokenizer.open(mistral_file)
    for text in random_texts:
        ids = mistral.encode(text)
        wanted = text.replace("\u2581", " ")
        assert mistral.decode(ids) == wanted
        spelled = b"".join(map(mistral.token_bytes, ids)).decode("utf-8")
        assert spelled == (f" {wanted}" if text else "")


def test_special_tokens_are_not_matched_in_text_but_others_are(
    neox: Tokenizer, mistral_file: Path
) -> None:
    ids = neox.encode("<|endoftext|>a      b")
    assert 0 not in ids
    assert 50272 in ids, "six spaces are an added token"
    assert neox.decode([0, *ids]) == "<|endoftext|>a      b"
    mistral = Tokenizer.open(mistral_file)
    assert not {0, 1, 2} & set(mistral.encode("<s>a</s><unk>"))


def test_merges_that_build_special_tokens_are_left_out(mistral_file: Path, tmp_path: Path) -> None:
    def add_merges(payload: dict[str, Any]) -> None:
        payload["model"]["vocab"]["s>"] = 32_000
        payload["model"]["merges"][:0] = [["<", "/"], ["s", ">"], ["</", "s>"]]

    tokenizer = Tokenizer.open(_changed(mistral_file, tmp_path / "a.json", add_merges))
    assert 2 not in tokenizer.encode("a</s>")


def test_roles_come_from_the_files_beside(neox_file: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(neox_file.read_bytes())
    roles = {"bos_token": "<|endoftext|>", "eos_token": "the", "pad_token": "nowhere"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    config = {"eos_token": {"content": "<|padding|>"}, "unk_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.open(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, None)


@pytest.mark.parametrize(
    "name", ["neox", "gpt2", "llama3", "qwen2", "deepseek", "mistral", "metaspace"]
)
def test_cutting_a_long_text_changes_no_id(
    neox_file: Path,
    mistral_file: Path,
    tmp_path: Path,
    real_text: dict[str, list[str]],
    random_texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    changes: dict[str, Change] = {
        "neox": lambda payload: None,
        "gpt2": lambda payload: payload.update(pre_tokenizer=_split(GPT2), normalizer=None),
        "llama3": lambda payload: payload.update(pre_tokenizer=_split(LLAMA3), normalizer=None),
        "qwen2": lambda payload: payload.update(pre_tokenizer=_split(QWEN2)),
        "deepseek": lambda payload: payload.update(pre_tokenizer=_split(*DEEPSEEK)),
        "mistral": lambda payload: None,
        "metaspace": lambda payload: payload.update(
            normalizer=None, pre_tokenizer=metaspace | {"split": False}
        ),
    }
    source = mistral_file if name in ("mistral", "metaspace") else neox_file
    tokenizer = Tokenizer.open(_changed(source, tmp_path / "a.json", changes[name]))
    odd = (
        "\u1112\u1161\u11ab e\u0301\u0323" * 50 + "12345678 " * 60 + " \n \r\n\t" * 70 + "it's" * 90
    )
    parts = [text[:4_000] for texts in real_text.values() for text in texts[:8]]
    text = odd.join([*parts, *random_texts[:60], "x" * 2_000, ""])
    whole = tokenizer.encode(text)
    n_calls = 0
    encode = JsonTokenizer._encoding

    def counted(self: JsonTokenizer, part: str) -> tokenizers.Encoding:
        nonlocal n_calls
        n_calls += 1
        return encode(self, part)

    monkeypatch.setattr(JsonTokenizer, "_encoding", counted)
    for characters in (701, 997, 3001):
        n_calls = 0
        monkeypatch.setattr(json_tokenizer, "CHUNK_CHARACTERS", characters)
        monkeypatch.setattr(json_cut, "_MARGIN_CHARACTERS", 100)
        assert tokenizer.encode(text) == whole
        assert n_calls > len(text) / characters / 2


def test_a_text_that_looks_back_is_not_cut(neox_file: Path, tmp_path: Path) -> None:
    back = (r"(?<=a)b|\s+", r"\bx|\s+", r"^a|\s+", r"\[^]x|\s+")
    for pattern in (*back, r"[^a]\^|[\]^_]|\\b|\[|(?!a)(?:a)|\s+"):
        change: Change = lambda payload, p=pattern: payload.update(pre_tokenizer=_split(p))  # noqa: E731
        tokenizer = Tokenizer.open(_changed(neox_file, tmp_path / "a.json", change))
        assert isinstance(tokenizer, JsonTokenizer)
        assert json_cut.cuts_between_words(tokenizer.file) == (pattern not in back)


def test_half_a_surrogate_pair_is_one_clear_error(neox: Tokenizer) -> None:
    with pytest.raises(DataError, match="not valid Unicode: surrogates not allowed at character 1"):
        neox.encode("a\ud800b")


def test_an_id_out_of_range_is_an_error(neox: Tokenizer) -> None:
    for wrong in (-1, 50277):
        with pytest.raises(DataError, match=f"id {wrong} is not in the vocabulary"):
            neox.decode([5, wrong])
        with pytest.raises(DataError, match=f"id {wrong} is not in the vocabulary"):
            neox.token_bytes(wrong)


def test_damaged_files_are_one_clear_error(neox_file: Path, tmp_path: Path) -> None:
    content = neox_file.read_bytes()
    path = tmp_path / "tokenizer.json"
    for damaged in (b"", content[: len(content) // 2], b"\xff\xfe", b"[]", b'{"model": 1}', b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"is damaged or truncated|is no tokenizer\.json"):
            Tokenizer.open(tmp_path)

    def share_an_id(payload: dict[str, Any]) -> None:
        payload["model"]["vocab"]["the"] = 7

    changes: tuple[Change, ...] = (
        lambda payload: payload["model"].pop("vocab"),
        lambda payload: payload["model"].update(merges=[["a"]]),
        lambda payload: payload["model"].update(merges=["the no-such-piece"]),
        lambda payload: payload.update(added_tokens=[{"content": "x"}]),
        lambda payload: payload.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": 3}),
        share_an_id,
    )
    for change in changes:
        _changed(neox_file, path, change)
        with pytest.raises(DataError, match="is damaged"):
            Tokenizer.open(tmp_path)


def test_an_added_token_that_the_library_gives_another_id_is_refused(
    neox_file: Path, tmp_path: Path
) -> None:
    change: Change = lambda payload: payload["added_tokens"][-1].update(id=60_000)  # noqa: E731
    with pytest.raises(DataError, match="is id 60000, but the tokenizers library gives it 50276"):
        Tokenizer.open(_changed(neox_file, tmp_path / "a.json", change))


def test_other_kinds_are_refused_by_name(neox_file: Path, tmp_path: Path) -> None:
    for kind in ("WordPiece", "WordLevel", "Unigram"):
        path = _changed(neox_file, tmp_path / "a.json", lambda p, k=kind: p["model"].update(type=k))
        with pytest.raises(DataError, match=f"is a {kind} tokenizer.json; supported is BPE"):
            Tokenizer.open(path)
    changes: tuple[tuple[Change, str], ...] = (
        (lambda payload: payload["model"].update(dropout=0.1), "at random"),
        (lambda payload: payload["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda payload: payload.update(pre_tokenizer={"type": "Whitespace"}), "neither a byte"),
        (lambda payload: payload.update(normalizer={"type": "ByteLevel"}), "by its normalizer"),
    )
    for change, message in changes:
        with pytest.raises(DataError, match=message):
            Tokenizer.open(_changed(neox_file, tmp_path / "a.json", change))
