"""Compact tokenizers of every kind: where all tokens are kept, the ids are the mapped old ones."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from edgetiny.errors import DataError
from edgetiny.files import read_json
from edgetiny.tokenizer import Tokenizer
from edgetiny.tokenizer.always_kept import always_kept
from edgetiny.tokenizer.compact import write_compact
from edgetiny.tokenizer.select import select

ODD = ["", " ", "  two  spaces ", "\n\n x\t", "\u4e2d\U0001f44d e\u0301", "a" * 40]


def compact(source: Tokenizer, size: int, texts: Sequence[str], folder: Path) -> list[int]:
    """Write the compact tokenizer of a size into a new folder, and return what was kept."""
    counts = np.zeros(source.vocab_size, dtype=np.int64)
    for index, count in Counter(i for text in texts for i in source.encode(text)).items():
        counts[index] = count
    vocabulary = source.vocabulary()
    kept = select(vocabulary, vocabulary.gains(counts), size, always_kept(source))
    folder.mkdir()
    write_compact(folder, source, kept)
    return kept


def parts(texts: Sequence[str]) -> Iterator[str]:
    """Yield texts, their lines and their words."""
    for text in texts:
        yield text
        yield from text.split("\n")
        yield from text.split()


SIZES = {
    "sp_bytes": (2_000, 12_000),
    "neox": (2_000, 12_000),
    "byte_level": (600, 2_500),
    "json_bytes": (2_000, 12_000),
    "user_defined": (2_000, 30_000),
    "unigram": (400, 800),
    "normalizing": (4_500, 5_500),
    "json_plain": (4_500, 5_500),
}
WITH_UNKNOWN = ("unigram", "normalizing", "json_plain")
LARGE = ("sp_bytes", "json_bytes", "user_defined", "neox")
KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind in LARGE else ()) for kind in SIZES]


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_tokens_are_kept_the_ids_are_the_mapped_ones(
    kinds: dict[str, Path], tmp_path: Path, real_text: dict[str, list[str]], kind: str
) -> None:
    texts = [text[:2_000] for texts in real_text.values() for text in texts[:24]]
    source = Tokenizer.open(kinds[kind])
    for size in SIZES[kind]:
        kept = compact(source, size, texts[::2], tmp_path / str(size))
        new = {old: index for index, old in enumerate(kept)}
        small = Tokenizer.open(tmp_path / str(size))
        assert small.vocab_size == size
        n_compared = 0
        for text in parts(texts):
            ids = source.encode(text)
            if all(index in new for index in ids):
                assert small.encode(text) == [new[index] for index in ids]
                n_compared += 1
            # Without byte fallback: no unknown where there was none.
            assert small.decode(small.encode(text)) == source.decode(ids)
        assert n_compared > 1_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_are_those_that_were_kept(
    kinds: dict[str, Path], tmp_path: Path, real_text: dict[str, list[str]], kind: str
) -> None:
    source = Tokenizer.open(kinds[kind])
    size = SIZES[kind][0]
    kept = compact(source, size, real_text["en"][:3], tmp_path / "out")
    small = Tokenizer.open(tmp_path / "out")
    assert [small.token_bytes(new) for new in range(size)] == list(map(source.token_bytes, kept))
    mapping = read_json(tmp_path / "out" / "vocab_map.json", schema_version=1)
    assert mapping["new_to_old"] == kept
    assert set(always_kept(source)) <= set(kept)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in real_text["en"][:3] + real_text["zh"][:3]:
        ids = library.encode(text[:3_000], add_special_tokens=False).ids
        assert ids == small.encode(text[:3_000])


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_comes_back_as_from_the_original(
    kinds: dict[str, Path],
    tmp_path: Path,
    real_text: dict[str, list[str]],
    random_texts: list[str],
    kind: str,
) -> None:
    source = Tokenizer.open(kinds[kind])
    compact(source, SIZES[kind][0], real_text["en"][:3], tmp_path / "out")
    small = Tokenizer.open(tmp_path / "out")
    for text in random_texts:
        ids, before = small.encode(text), source.encode(text)
        back = small.decode(ids)
        assert back == source.decode(before)
        if kind in WITH_UNKNOWN:
            assert ids.count(0) == before.count(0)
        if kind == "user_defined":
            assert back == text


@pytest.mark.slow
def test_tokens_added_beside_a_model_become_pieces_of_it(
    kinds: dict[str, Path], tmp_path: Path, real_text: dict[str, list[str]]
) -> None:
    transformers = pytest.importorskip("transformers")
    shutil.copytree(kinds["sp_bytes"], tmp_path / "in")
    decoder = {
        "32001": {"content": "<|im_end|>", "special": True},
        "32003": {"content": "<tool>", "special": False},
    }
    config = {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|im_end|>"}
    config["added_tokens_decoder"] = decoder
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "in" / "added_tokens.json").write_text('{"<|im_end|>": 32001, "<tool>": 32003}')
    source, bare = Tokenizer.open(tmp_path / "in"), Tokenizer.open(kinds["sp_bytes"])
    assert source.vocab_size == 32_004
    assert source.decode([32001, *source.encode("a"), 32003]) == "a<tool>"
    for text in [*ODD, *(text[:3_000] for text in real_text["en"])]:
        assert source.encode(text) == bare.encode(text)
    assert source.encode("a<|im_end|>") == bare.encode("a<|im_end|>")
    assert source.encode("a<tool>")[-1] == 32003
    assert {32001, 32003} <= always_kept(source)
    kept = compact(source, 4_000, real_text["en"][:2], tmp_path / "out")
    assert kept[-2:] == [32001, 32003]
    small = Tokenizer.open(tmp_path / "out")
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert auto.convert_ids_to_tokens([3998, 3999]) == ["<|im_end|>", "<tool>"]
    assert (auto.eos_token_id, len(auto)) == (3998, 4_000)
    for text in [*ODD, "a<tool> b", "<tool>", *(text[:3_000] for text in real_text["en"][:5])]:
        assert auto.encode(text, add_special_tokens=False) == small.encode(text)


def test_an_added_token_that_is_a_piece_already_is_refused(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(kinds["sp_bytes"], tmp_path / "in")
    (tmp_path / "in" / "added_tokens.json").write_text('{"</s>": 32000}')
    with pytest.raises(DataError, match=r"declares '</s>' as id 32000, but tokenizer\.model has a"):
        Tokenizer.open(tmp_path / "in")


def test_all_else_of_a_tokenizer_json_stands_as_it_was(
    kinds: dict[str, Path], tmp_path: Path, real_text: dict[str, list[str]]
) -> None:
    shutil.copytree(kinds["neox"], tmp_path / "in")
    path = tmp_path / "in" / "tokenizer.json"
    payload = read_json(path)
    ends = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    payload["post_processor"] = {
        "type": "Sequence",
        "processors": [
            payload["post_processor"],
            {
                "type": "TemplateProcessing",
                "single": [
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "the", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {
                    "<|endoftext|>": ends,
                    "the": {"id": "the", "ids": [783], "tokens": ["the"]},
                },
            },
        ],
    }
    payload["model"]["merges"] = [merge.split(" ") for merge in payload["model"]["merges"]]
    path.write_text(json.dumps(payload))
    decoder = {str(token["id"]): {"content": token["content"]} for token in payload["added_tokens"]}
    config = {"eos_token": "Ġrare", "added_tokens_decoder": decoder, "chat_template": "x"}
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "in" / "special_tokens_map.json").write_text('{"bos_token": "<|endoftext|>"}')
    (tmp_path / "in" / "added_tokens.json").write_text('{"<|padding|>": 1}')
    (tmp_path / "in" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "in" / "merges.txt").write_text("a b")
    source = Tokenizer.open(tmp_path / "in")
    kept = compact(source, 1_000, real_text["en"][:1], tmp_path / "out")
    new = {old: index for index, old in enumerate(kept)}
    assert source.eos_id in new
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in (tmp_path / "in").iterdir()} - {"merges.txt"} | {
        "vocab_map.json"
    }
    small = read_json(tmp_path / "out" / "tokenizer.json")
    for key in ("normalizer", "pre_tokenizer", "decoder", "truncation", "padding", "version"):
        assert small[key] == payload[key]
    template = small["post_processor"]["processors"][1]
    assert template["special_tokens"]["the"]["ids"] == [new[783]]
    merges = small["model"]["merges"]
    assert all(isinstance(merge, list) for merge in merges)
    assert [merge for merge in payload["model"]["merges"] if merge in merges] == merges
    declared = read_json(tmp_path / "out" / "tokenizer_config.json")["added_tokens_decoder"]
    assert {int(index): token["content"] for index, token in declared.items()} == {
        token["id"]: token["content"] for token in small["added_tokens"]
    }
    assert read_json(tmp_path / "out" / "added_tokens.json") == {"<|padding|>": new[1]}
    reopened = Tokenizer.open(tmp_path / "out")
    assert (reopened.bos_id, reopened.eos_id) == (new[0], new[source.eos_id])
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_an_id_without_a_piece_does_not_move_the_added_tokens(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    payload = read_json(kinds["neox"] / "tokenizer.json")
    gap = payload["model"]["vocab"].pop("Ġthe")
    payload["model"]["merges"] = [m for m in payload["model"]["merges"] if "Ġthe" not in _join(m)]
    # The library numbers added tokens from the number of pieces on, which is now one less.
    for token in payload["added_tokens"]:
        payload["model"]["vocab"].setdefault(token["content"], token["id"])
    (tmp_path / "in" / "tokenizer.json").write_text(json.dumps(payload))
    source = Tokenizer.open(tmp_path / "in")
    kept = sorted({*source.vocabulary().mandatory, gap, *range(500)})
    (tmp_path / "out").mkdir()
    write_compact(tmp_path / "out", source, kept)
    small = Tokenizer.open(tmp_path / "out")
    assert small.token_bytes(kept.index(gap)) == b""
    assert [small.token_bytes(new) for new in range(len(kept))] == [
        source.token_bytes(old) for old in kept
    ]


def _join(merge: str | list[str]) -> str:
    return merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)


@pytest.mark.slow
def test_words_that_are_pieces_need_no_merges_where_merges_are_ignored(
    kinds: dict[str, Path], tmp_path: Path, real_text: dict[str, list[str]]
) -> None:
    (tmp_path / "in").mkdir()
    payload = read_json(kinds["neox"] / "tokenizer.json")
    payload["model"]["ignore_merges"] = True
    # Now merging builds neither these words nor what is made of them.
    payload["model"]["merges"] = [
        merge for merge in payload["model"]["merges"] if "Ġth" not in _join(merge)
    ]
    (tmp_path / "in" / "tokenizer.json").write_text(json.dumps(payload))
    source = Tokenizer.open(tmp_path / "in")
    vocabulary = source.vocabulary()
    the = payload["model"]["vocab"]["Ġthe"]
    assert vocabulary.is_reachable(the)
    assert vocabulary.closure(the) == {the}
    texts = [text[:3_000] for text in real_text["en"]]
    kept = compact(source, 3_000, texts, tmp_path / "out")
    assert the in kept, "a word that would take several tokens is worth a row"
    small = Tokenizer.open(tmp_path / "out")
    new = {old: index for index, old in enumerate(kept)}
    for text in parts(texts):
        ids = source.encode(text)
        if all(index in new for index in ids):
            assert small.encode(text) == [new[index] for index in ids]


def test_tokens_that_only_a_file_beside_declares_are_refused(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(kinds["neox"], tmp_path / "in")
    (tmp_path / "in" / "added_tokens.json").write_text('{"<turn>": 50277}')
    source = Tokenizer.open(tmp_path / "in")
    with pytest.raises(DataError, match=r"declares '<turn>' as id 50277, which tokenizer\.json"):
        write_compact(tmp_path, source, range(1000))
    (tmp_path / "in" / "added_tokens.json").write_text('["<turn>"]')
    with pytest.raises(DataError, match="not a JSON object"):
        always_kept(source)


TEMPLATE = """{% for message in messages %}
    {%- if message.role == "system" %}{{ raise_exception("no system") }}{% endif -%}
    {{ "<|mark|>" + message.role + "zygote\n" + message.content + eos_token }}
{%- endfor %}
{%- if tools %}Quixotic tools{% endif %}
{%- if add_generation_prompt %}{% generation %}<|mark|>assistant:{% endgeneration %}{% endif %}
"""


@pytest.mark.parametrize("kind", ["sp_bytes", "byte_level"])
def test_what_the_chat_template_emits_always_stays(
    kinds: dict[str, Path], tmp_path: Path, real_text: dict[str, list[str]], kind: str
) -> None:
    shutil.copytree(kinds[kind], tmp_path / "in")
    mark = "<|end|>" if kind == "byte_level" else "</s>"
    config = {"chat_template": TEMPLATE.replace("<|mark|>", mark), "eos_token": "<|endoftext|>"}
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config))
    source = Tokenizer.open(tmp_path / "in")
    stays = always_kept(source)
    for text in ("userzygote\n", "Quixotic tools", "assistant:", "userzygote\nHello"):
        assert set(source.encode(text)) <= stays, text
    plain = always_kept(Tokenizer.open(kinds[kind]))
    assert 0 < len(stays - plain) < 60
    kept = compact(source, 2_000, real_text["zh"][:2], tmp_path / "out")
    assert stays <= set(kept)


def test_a_template_that_cannot_be_parsed_asks_for_nothing(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(kinds["neox"], tmp_path / "in")
    (tmp_path / "in" / "chat_template.jinja").write_text("{% for %}")
    plain = always_kept(Tokenizer.open(kinds["neox"]))
    assert always_kept(Tokenizer.open(tmp_path / "in")) == plain


@pytest.mark.slow
def test_a_bare_file_says_whether_a_space_goes_before_a_text(
    kinds: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    payload = read_json(kinds["json_bytes"] / "tokenizer.json")
    payload["normalizer"]["normalizers"].pop(0)
    (tmp_path / "in" / "tokenizer.json").write_text(json.dumps(payload))
    for folder, says in ((kinds["json_bytes"], None), (tmp_path / "in", False)):
        source = Tokenizer.open(folder)
        out = tmp_path / str(says)
        out.mkdir()
        write_compact(out, source, sorted({*always_kept(source), *range(2_000)}))
        config = read_json(out / "tokenizer_config.json")
        assert config.get("add_prefix_space") is says
        transformers = pytest.importorskip("transformers")
        auto = transformers.AutoTokenizer.from_pretrained(out)
        assert auto.encode(" a  b") == Tokenizer.open(out).encode(" a  b")
