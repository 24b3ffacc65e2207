import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers

from edgetiny.errors import DataError
from edgetiny.tokenizer import Tokenizer, write_tokenizer
from edgetiny.tokenizer.as_json import merges, tokenizer_json
from edgetiny.tokenizer.huggingface import carried_settings
from edgetiny.tokenizer.model_file import UNUSED, load_model, protobuf

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


def train_model(path: Path, lines: list[str], **settings: Any) -> Path:
    """Train a SentencePiece model of 700 pieces."""
    model = io.BytesIO()
    defaults = {
        "model_type": "bpe",
        "vocab_size": 700,
        "character_coverage": 1.0,
        "hard_vocab_limit": False,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": settings.get("normalization_rule_name", "identity")
        != "identity",
        "minloglevel": 4,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, **defaults | settings
    )
    path.write_bytes(model.getvalue())
    return path


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
    roles = {"pad_token": "<unk>", "eos_token": "nowhere", "additional_special_tokens": ["</s>"]}
    write_tokenizer(tmp_path, model, carried | roles | {"unrelated": 1})
    found = carried_settings(tmp_path / "tokenizer.model")
    assert {key: found[key] for key in carried} == carried
    assert (found["pad_token"], found["eos_token"]) == ("<unk>", "</s>")
    assert found["additional_special_tokens"] == ["</s>"]
    assert "unrelated" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    around = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a").ids
    assert around == [*Tokenizer.open(tmp_path).encode("a"), 2]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc_cf"])
def test_normalizing_models_give_the_same_ids(
    tmp_path: Path,
    tiny_text: Path,
    real_text: dict[str, list[str]],
    model_type: str,
    byte_fallback: bool,
    rule: str,
) -> None:
    lines = [*tiny_text.read_text(encoding="utf-8").split("\n"), real_text["zh"][0][:5_000]]
    path = train_model(
        tmp_path / "a.model",
        lines,
        model_type=model_type,
        byte_fallback=byte_fallback,
        normalization_rule_name=rule,
        add_dummy_prefix=model_type == "bpe" or rule == "identity",
    )
    tokenizer = Tokenizer.open(path)
    other = _hugging_face(tokenizer)
    odd = [text for text in ODD_TEXTS if "\0" not in text and not text.isspace()]
    odd += ["  \u00c9\u00e9 \ufb01 \u2460  \u3000x\t y \n", "\u3000", "x \u2581 y", "\uff21\uff22"]
    texts = [*odd, *lines, *(text[:3_000] for texts in real_text.values() for text in texts[:30])]
    for text in texts:
        # How a run of one character is cut can be a tie, which rounding decides.
        if model_type == "bpe" or not re.search(r"(.)\1{5}", text):
            ids = other.encode(text, add_special_tokens=False).ids
            assert ids == tokenizer.encode(text), text[:80]


def test_spaces_alone_may_come_to_nothing(tmp_path: Path, tiny_text: Path) -> None:
    lines = tiny_text.read_text(encoding="utf-8").split("\n")
    path = train_model(tmp_path / "a.model", lines, normalization_rule_name="nmt_nfkc")
    tokenizer = Tokenizer.open(path)
    for text in ("", " ", "    ", " a ", "a  b"):
        ids = _hugging_face(tokenizer).encode(text, add_special_tokens=False).ids
        assert ids == tokenizer.encode(text)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_user_defined_pieces_and_a_dummy_prefix_go_together(
    tmp_path: Path, tiny_text: Path, model_type: str, rule: str
) -> None:
    lines = tiny_text.read_text(encoding="utf-8").split("\n")
    marks = ["<turn>", "<turn>x", "th", "$(.*)^[]\\"] + ["a\u2581b"] * (rule == "identity")
    path = train_model(
        tmp_path / "tokenizer.model",
        lines,
        model_type=model_type,
        byte_fallback=True,
        normalization_rule_name=rule,
        user_defined_symbols=marks,
    )
    tokenizer = Tokenizer.open(path)
    rng = random.Random(0)
    texts = [*lines[:500], "<turn>", "<turn>xy", "x<turn> y", " <turn>", "a b", "<turn><turn>th"]
    alphabet = ["<turn>", "x", " ", "a b", "the", "th", "$(.*)^[]\\", "e", "\n", "\u4e2d"]
    texts += ["".join(rng.choices(alphabet, k=rng.randrange(12))) for _ in range(2_000)]
    # How a run of one character is cut can be a tie, which rounding decides.
    texts = [text for text in texts if model_type == "bpe" or not re.search(r"(.)\1{5}", text)]
    other = _hugging_face(tokenizer)
    for text in texts:
        assert other.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
    transformers = pytest.importorskip("transformers")
    assert write_tokenizer(tmp_path, path.read_bytes()) is None
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        assert auto.encode(text, add_special_tokens=False) == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"normalization_rule_name": "nfkc_cf"}, "its normalizer may rewrite its user-defined"),
        ({"remove_extra_whitespaces": True}, "it drops repeated spaces, but has user-defined"),
    ],
)
def test_what_no_json_can_give_is_written_without(
    tmp_path: Path, tiny_text: Path, settings: dict[str, Any], reason: str
) -> None:
    lines = tiny_text.read_text(encoding="utf-8").split("\n")
    marks = ["<a\u2581turn>"]
    path = train_model(tmp_path / "tokenizer.model", lines, user_defined_symbols=marks, **settings)
    with pytest.raises(DataError, match=f"cannot give the ids of the tokenizer: {reason}"):
        tokenizer_json(Tokenizer.open(path).proto)
    why = write_tokenizer(tmp_path, path.read_bytes())
    assert why is not None
    assert why.startswith(reason)
    assert not (tmp_path / "tokenizer.json").exists()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["bos_token"] == "<s>"


def test_models_that_other_loaders_cannot_follow_are_refused(
    make_tokenizer: MakeTokenizer, tmp_path: Path
) -> None:
    for change, message in (
        (lambda proto: setattr(proto.pieces[-1], "type", UNUSED), "type UNUSED"),
        (lambda proto: setattr(proto.trainer_spec, "treat_whitespace_as_suffix", True), "end of"),
        (lambda proto: setattr(proto.trainer_spec, "model_type", 3), "a SentencePiece word model"),
        (lambda proto: setattr(proto.trainer_spec, "model_type", 4), "a SentencePiece char model"),
    ):
        proto = protobuf.ModelProto()
        proto.CopyFrom(make_tokenizer(["a", "b", "ab"]).proto)
        change(proto)
        (tmp_path / "b.model").write_bytes(proto.SerializeToString())
        with pytest.raises(DataError, match=message):
            Tokenizer.open(tmp_path / "b.model")
    assert load_model(make_tokenizer(["a"]).path.read_bytes(), "made")
