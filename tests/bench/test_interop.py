"""What bench/interop calls the same text, and what it calls explained."""

import json
from typing import Any

import numpy as np
import pytest
import sentencepiece
from interop.command import joined
from interop.compare import compared, first_difference, first_unsaid, until_end, verdict
from interop.loaders import Loader, Prompt
from interop.measure import measured
from interop.models import head_of, models
from interop.page import loader_line

from edgetiny.errors import ConfigError


def test_a_text_is_cut_behind_the_id_that_ends_it() -> None:
    assert until_end([5, 6, 2, 7, 2], {2}) == [5, 6, 2]
    assert until_end([5, 6], {2}) == [5, 6]


def test_a_text_that_goes_on_or_stops_early_is_another() -> None:
    assert first_difference([5, 6, 2], [5, 6, 2]) is None
    assert first_difference([5, 6, 2], [5, 7, 2]) == 1
    assert first_difference([5, 6, 2], [5, 6]) == 2
    assert first_difference([5, 6], [5, 6, 9]) == 2


def test_ids_are_found_in_a_text_without_ids(tmp_path) -> None:
    words = iter(["the old town", "the new town"] * 50)
    prefix = str(tmp_path / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words, model_prefix=prefix, vocab_size=12, minloglevel=2
    )
    ids = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model").encode("the old town")
    end = 2
    assert first_unsaid([*ids, end], "the old town", tmp_path, {end}) is None
    # "the " is still the text of the wanted ids, what follows is not.
    said = first_unsaid(ids, "the new town", tmp_path, {end})
    assert said is not None
    assert 0 < said < len(ids)
    assert first_unsaid(ids, "the old town the", tmp_path, {end}) is not None


def test_bytes_are_in_a_text_as_the_runner_writes_them(tmp_path) -> None:
    prefix = str(tmp_path / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the old town"] * 50), model_prefix=prefix, vocab_size=268,
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    ids = processor.piece_to_id(["t", "<0x0A>", "o", "<0xE7>", "o"])
    assert first_unsaid(ids, "t\no<0xE7>o", tmp_path, set()) is None
    assert first_unsaid(ids, "t\nt", tmp_path, set()) == 2


def test_only_a_gap_below_twice_the_error_is_explained() -> None:
    logits = np.array([[0.0, 3.0, 2.9], [0.0, 1.0, 5.0]])
    assert verdict(logits, 0, 0.06) == {
        "first_difference": 0,
        "gap": pytest.approx(0.1),
        "explained": True,
    }
    assert not verdict(logits, 0, 0.04)["explained"]
    assert not verdict(logits, 1, 0.06)["explained"]
    # Loaders of one quantized file, and a text that did not end where it should.
    assert not verdict(logits, 0, None)["explained"]
    assert not verdict(logits, 2, 1.0)["explained"]
    assert verdict(logits, None, None)["explained"]


def test_a_constant_on_all_logits_is_no_difference() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 7))
    same = compared(logits, logits + 3)
    assert same["max_abs_error"] < 1e-12
    assert same["kl_nats"] == pytest.approx(0, abs=1e-12)
    other = compared(logits, -logits)
    assert other["kl_nats"] > 0
    assert other["top1_agreement"] == 0


def test_copies_have_what_their_names_say(make_checkpoint, tmp_path) -> None:
    source = make_checkpoint(num_key_value_heads=4, num_attention_heads=4)
    made = dict(models(source, tmp_path))
    heads = {name: each.config.num_key_value_heads for name, each in made.items()}
    assert heads == {"MHA, tied": 4, "GQA, tied": 2, "MHA, untied": 4, "GQA, untied": 2}
    for name, each in made.items():
        tensors = each.state_dict()
        if name.endswith("untied"):
            table = tensors["model.embed_tokens.weight"]
            assert (tensors["lm_head.weight"] - table).std() > 0.05 * table.std()
        else:
            assert "lm_head.weight" not in tensors
    assert len({each.sha256 for each in made.values()}) == 4
    with pytest.raises(ConfigError, match="tied"):
        dict(models(made["GQA, untied"], tmp_path))


def test_the_head_is_the_same_each_time(make_checkpoint) -> None:
    table = make_checkpoint().state_dict()["model.embed_tokens.weight"]
    assert (head_of(table) == head_of(table)).all()


def test_a_line_names_what_is_not_explained() -> None:
    row: dict[str, Any] = {"model": "MHA", "precision": "fp32", "loader": "it", "prompt": "en"}
    figures = {"max_abs_error": 1e-3, "kl_nats": 1e-8, "top1_agreement": 1.0}
    same = row | figures | {"from_first_loader": 0.0} | verdict(np.zeros((1, 2)), None, 1e-3)
    apart = same | verdict(np.array([[0.0, 1.0]]), 0, 1e-3)
    line = loader_line([same, apart])
    assert line["texts"].startswith("1 of 2 the checkpoint's; en parts at 0")
    assert "NOT EXPLAINED" in line["texts"]
    other = same | {"diverges": True, "explained": False}
    assert "ANOTHER MODEL'S LOGITS" in loader_line([same, other])["texts"]


@pytest.mark.parametrize(("precision", "is_fine"), [("fp32", False), ("int4", True)])
def test_no_text_explains_another_models_logits(monkeypatch, tmp_path, precision, is_fine) -> None:
    """A loader that gives the right text from logits that are off by 0.3 of their deviation."""
    random = np.random.default_rng(0)
    wanted = random.normal(size=(3, 50))
    off = wanted + 0.3 * random.normal(size=wanted.shape)
    loader = Loader("it", "gguf", lambda *_: [5, 6, 7], lambda *_: off)
    monkeypatch.setattr("interop.measure.LOADERS", (loader,))
    monkeypatch.setattr("interop.measure.promised_loaders", lambda folder: set())
    prompt = Prompt(name="en", text="", ids=[1], wanted=[5, 6, 7], logits=wanted)
    [row], _ = measured({"gguf": tmp_path}, prompt, precision, set())
    assert row["first_difference"] is None
    assert row["explained"] == is_fine
    nothing = Loader("it", "gguf", lambda *_: [5, 6, 7], lambda *_: off * np.nan)
    monkeypatch.setattr("interop.measure.LOADERS", (nothing,))
    with np.errstate(invalid="ignore"):
        [row], _ = measured({"gguf": tmp_path}, prompt, precision, set())
    assert not row["explained"]


def test_only_results_of_the_same_models_are_joined(tmp_path) -> None:
    same = {"checkpoint": "a", "models": [], "versions": {"onnxruntime": "1"}, "pairs": []}
    paths = [tmp_path / f"{n}.json" for n in range(3)]
    for path, result in zip(paths, (same, same, same | {"checkpoint": "b"}), strict=True):
        path.write_text(json.dumps(result | {"rows": [path.name]}))
    assert joined(paths[:2])["rows"] == ["0.json", "1.json"]
    with pytest.raises(ConfigError, match=r"2\.json has other checkpoint"):
        joined(paths)
