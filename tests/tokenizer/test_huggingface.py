import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgetiny.errors import DataError
from edgetiny.tokenizer import Tokenizer, write_tokenizer
from edgetiny.tokenizer.huggingface import carried_settings, merges, tokenizer_json
from edgetiny.tokenizer.model_file import UNUSED, load_model, protobuf

tokenizers = pytest.importorskip("tokenizers")

MakeTokenizer = Callable[..., Tokenizer]

REAL_MODELS = ["mistral_v1_32k", "internlm_v7_sft"]
ODD_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\n  x\t\t\r\n\r\n{\r\n}",
    "\0 nul \0\0",
    "x <eoh> y<eoa>\n<eoh>  <eoa>",
    "=========" * 9 + "-" * 77,
    "日本語 👍🏽 e\u0301 \ufeff",
    *(" " * count for count in range(1, 70)),
    *(f"a{' ' * count}b" for count in range(1, 40)),
    *("ab" * count for count in range(1, 30)),
    *("a" * count for count in range(1, 70)),
]


def _hugging_face(tokenizer: Tokenizer) -> "tokenizers.Tokenizer":
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokenizer.proto)))


def _assert_same_ids(tokenizer: Tokenizer, texts: list[str]) -> int:
    """Compare ids and decoded text of both libraries; return the number of ids compared."""
    other = _hugging_face(tokenizer)
    n_ids = 0
    for text in texts:
        ids = tokenizer.encode(text)
        assert other.encode(text, add_special_tokens=False).ids == ids, text[:80]
        assert other.decode(ids) == text, text[:80]
        n_ids += len(ids)
    return n_ids


def test_trained_tokenizer_gives_the_same_ids(tiny_tokenizer: Path, tiny_text: Path) -> None:
    text = tiny_text.read_text(encoding="utf-8")
    lines = text.split("\n")
    n_ids = _assert_same_ids(Tokenizer.open(tiny_tokenizer), [*ODD_TEXTS, text[:30_000], *lines])
    assert n_ids > 50_000


@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_tokenizers_give_the_same_ids(
    shared_data: Path, real_text: dict[str, list[str]], name: str
) -> None:
    tokenizer = Tokenizer.open(shared_data / "tokenizers" / f"{name}.model")
    texts = [text[:8_000] for texts in real_text.values() for text in texts]
    assert _assert_same_ids(tokenizer, [*ODD_TEXTS, *texts]) > 100_000


def test_random_tokenizers_give_the_same_ids(make_tokenizer: MakeTokenizer) -> None:
    rng = random.Random(0)
    for _ in range(40):
        pieces = ["a", "b", "\u2581", *_random_pieces(rng, 25)]
        rng.shuffle(pieces)
        tokenizer = make_tokenizer(pieces)
        texts = ["".join(rng.choices("ab ", k=rng.randrange(30))) for _ in range(50)]
        _assert_same_ids(tokenizer, texts)


def _random_pieces(rng: random.Random, count: int) -> list[str]:
    """Return joins of letters or of earlier ones, so that most can be built by merging."""
    pieces = ["a", "b", "\u2581"]
    while len(pieces) < count:
        join = rng.choice(pieces) + rng.choice(pieces)
        if join not in pieces:
            pieces.append(join)
    return pieces[3:]


@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_dummy_prefix_is_kept(make_tokenizer: MakeTokenizer, dummy_prefix: bool) -> None:
    tokenizer = make_tokenizer(["\u2581a", "ab", "a", "b", "\u2581"], dummy_prefix=dummy_prefix)
    _assert_same_ids(tokenizer, ["a", " a", "ab ab", "  ", "b a\n"])


def test_without_byte_fallback_unknown_characters_are_unk(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(["a", "b", "ab"], has_bytes=False)
    other = _hugging_face(tokenizer)
    for text in ("abxxab", "x", "axbxyab"):
        assert other.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_user_defined_pieces_are_matched_whole(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(["a", "b", "ab", "aba"], user_defined=["ba", "<turn>", "a\u2581a"])
    _assert_same_ids(tokenizer, ["ababab", "a<turn>b", "a aa a", "<turn><turn>ab"])


def test_merges_are_all_splits_of_normal_pieces_best_first(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(["bc", "a", "b", "c", "ab", "abc"], user_defined=["ac"])
    assert merges(tokenizer.proto) == [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]


@pytest.mark.parametrize("use_fast", [True, False])
def test_transformers_gives_the_same_ids(
    tiny_tokenizer: Path, tiny_text: Path, use_fast: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.open(tiny_tokenizer)
    auto = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer, use_fast=use_fast)
    for text in ["", "two  spaces", "\n x", *tiny_text.read_text(encoding="utf-8").split("\n\n")]:
        ids = tokenizer.encode(text)
        assert auto.encode(text, add_special_tokens=False) == ids
        assert auto.encode(text) == [1, *ids]
        assert auto.decode([1, *ids, 2], skip_special_tokens=True) == text
    assert (auto.unk_token_id, auto.bos_token_id, auto.eos_token_id) == (0, 1, 2)
    assert len(auto) == tokenizer.vocab_size


def test_transformers_puts_the_dummy_prefix_too(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = make_tokenizer(["\u2581a", "ab", "a", "b", "\u2581"], dummy_prefix=True)
    write_tokenizer(tmp_path, tokenizer.path.read_bytes())
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("a", " a", "ab ab", "b  a"):
        assert auto.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert len(auto) == tokenizer.vocab_size


def test_settings_beside_the_model_are_carried(tmp_path: Path, tiny_tokenizer: Path) -> None:
    model = (tiny_tokenizer / "tokenizer.model").read_bytes()
    carried = {"chat_template": "{{ messages }}", "add_bos_token": False, "add_eos_token": True}
    write_tokenizer(tmp_path, model, carried | {"unrelated": 1})
    found = carried_settings(tmp_path / "tokenizer.model", 512)
    assert {key: found[key] for key in carried} == carried
    assert "unrelated" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    around = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a").ids
    assert around == [*Tokenizer.open(tmp_path).encode("a"), 2]


def test_tokens_added_from_outside_are_refused(tmp_path: Path, tiny_tokenizer: Path) -> None:
    model = (tiny_tokenizer / "tokenizer.model").read_bytes()
    write_tokenizer(tmp_path, model)
    assert carried_settings(tmp_path / "tokenizer.model", 512)["add_bos_token"] is True
    (tmp_path / "added_tokens.json").write_text('{"<turn>": 512}')
    with pytest.raises(DataError, match=r"adds tokens that are not in tokenizer\.model .<turn>."):
        carried_settings(tmp_path / "tokenizer.model", 512)


def test_models_that_merges_do_not_describe_are_refused(
    make_tokenizer: MakeTokenizer, tmp_path: Path, shared_data: Path
) -> None:
    with pytest.raises(DataError, match="user-defined pieces and a dummy prefix"):
        tokenizer_json(make_tokenizer(["a"], user_defined=["b"], dummy_prefix=True).proto)
    unigram = (shared_data / "tokenizers" / "sp_test_unigram1k.model").read_bytes()
    with pytest.raises(DataError, match="is SentencePiece unigram; supported is SentencePiece BPE"):
        write_tokenizer(tmp_path, unigram)
    for change, message in (
        (lambda proto: setattr(proto.pieces[-1], "type", UNUSED), "type UNUSED"),
        (lambda proto: setattr(proto.normalizer_spec, "remove_extra_whitespaces", True), "spaces"),
        (lambda proto: setattr(proto.trainer_spec, "treat_whitespace_as_suffix", True), "end of"),
        (lambda proto: setattr(proto.normalizer_spec, "precompiled_charsmap", b"x"), "rewrites"),
    ):
        proto = protobuf.ModelProto()
        proto.CopyFrom(make_tokenizer(["a", "b", "ab"]).proto)
        change(proto)
        with pytest.raises(DataError, match=message):
            tokenizer_json(proto)
    assert load_model(make_tokenizer(["a"]).path.read_bytes(), "made")
