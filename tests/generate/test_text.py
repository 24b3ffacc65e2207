import io
import random

import pytest
import sentencepiece

from edgetiny.generate.text import StopStrings, TextDecoder
from edgetiny.tokenizer import Tokenizer

TEXTS = ["def f(x):\n    return 1", "日本語、中文。", "👍🏽 e\u0301 x", " two  spaces ", "é\ufffd"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return Tokenizer.open(tiny_tokenizer)


@pytest.fixture(scope="module")
def tokenizer_with_prefix(tmp_path_factory, tiny_text):
    """Return a tokenizer that, like LLaMA's, puts a space before every text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_text.read_text(encoding="utf-8").split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return Tokenizer.open(path)


def decoded_after(tokenizer, prompt, new):
    decoder = TextDecoder(tokenizer, follows_text=bool(tokenizer.decode(prompt)))
    return [decoder.push(index) for index in new] + [decoder.finish()]


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_with_prefix"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_wherever_the_prompt_ends(request, name, text):
    tokenizer = request.getfixturevalue(name)
    prompt = [tokenizer.bos_id, *tokenizer.encode("The word")]
    ids = tokenizer.encode(text)
    assert "".join(decoded_after(tokenizer, [tokenizer.bos_id], ids)) == text
    pieces = decoded_after(tokenizer, prompt, ids)
    assert "".join(pieces) == tokenizer.decode(prompt + ids).removeprefix("The word")
    assert pieces[-1] == ""


def test_a_character_comes_out_with_its_last_byte(tokenizer):
    ids = tokenizer.encode("中")
    assert len(ids) == 3, "spelled in bytes, or this test tests nothing"
    assert decoded_after(tokenizer, [], ids) == ["", "", "中", ""]
    assert decoded_after(tokenizer, [], ids[:2]) == ["", "", "\ufffd"]
    assert "".join(decoded_after(tokenizer, [], ids[:2] + tokenizer.encode("ab"))) == "\ufffdab"


def test_special_ids_give_no_text(tokenizer):
    assert decoded_after(tokenizer, [], [tokenizer.bos_id, tokenizer.eos_id]) == ["", "", ""]


def cut_at_stop(text, stops):
    """Return the text up to the stop string that is complete first, letter by letter."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def test_stop_strings_are_found_however_the_text_is_cut():
    rng = random.Random(0)
    n_found = 0
    for _ in range(2000):
        stops = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 3))]
        text = "".join(rng.choices("abc", k=rng.randint(0, 12)))
        filtered, given, start = StopStrings(stops), "", 0
        while start < len(text):
            end = start + rng.randint(1, 4)
            given += filtered.push(text[start:end])
            wanted, found = cut_at_stop(text, stops)
            assert wanted.startswith(given), "nothing of a stop string may be given away"
            start = end
        assert (given + filtered.finish(), filtered.found) == (
            wanted if text else "",
            found and bool(text),
        )
        n_found += filtered.found
    assert n_found > 500


def test_text_is_held_back_no_longer_than_needed():
    stops = StopStrings(["</end>"])
    assert [stops.push(part) for part in ("a <", "/e", "x <", "b")] == ["a ", "", "</ex ", "<b"]
