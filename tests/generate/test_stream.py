import shutil
from dataclasses import replace

import numpy as np
import pytest
import sentencepiece
import torch

from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.generate import Reply, Sampling, prompt_ids, sample_next, stream
from edgetiny.generate.stream import end_ids, new_tokens
from edgetiny.model import load_model
from edgetiny.runtimes import Capabilities, open_runtime
from edgetiny.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return Tokenizer.open(tiny_tokenizer)


@pytest.fixture(scope="module")
def runtime(tiny_checkpoint):
    return open_runtime(tiny_checkpoint.path, threads=1)


class Script:
    """A runtime that finds one id after the other likeliest, whatever it is given."""

    def __init__(self, config, ids, max_context=1000):
        self.config = config
        self.capabilities = Capabilities(
            max_batch=1, max_context=max_context, max_step=1, scoring="stepping"
        )
        self._ids = iter(ids)

    def prefill(self, tokens, lengths):
        logits = np.zeros((1, self.config.vocab_size), np.float32)
        logits[0, next(self._ids)] = 50
        return logits

    def step(self, tokens):
        return self.prefill(tokens, None)[None]


def reply_of(runtime, tokenizer, prompt, **sampling):
    reply = Reply()
    pieces = list(stream(runtime, tokenizer, prompt, Sampling(**sampling), reply))
    assert "".join(pieces) == reply.text
    assert "" not in pieces
    return reply


@torch.no_grad()
def test_greedy_ids_are_those_of_the_model_without_a_cache(runtime, tiny_checkpoint, tokenizer):
    model = load_model(tiny_checkpoint)
    prompt = [1, *tokenizer.encode("The assert statement")]
    reply = reply_of(runtime, tokenizer, prompt, max_new_tokens=20)
    ids = list(prompt)
    for chosen in reply.new_ids:
        assert chosen == model(torch.tensor([ids]))[0, -1].argmax()
        ids.append(chosen)
    assert len(reply.new_ids) == 20 or ids[-1] in end_ids(tokenizer, runtime.config)


def test_seed_decides(runtime, tokenizer):
    replies = [
        reply_of(runtime, tokenizer, [1], max_new_tokens=30, temperature=1.5, seed=seed).new_ids
        for seed in (0, 0, 1)
    ]
    assert replies[0] == replies[1] != replies[2]


def test_summary_tells_of_every_token(runtime, tokenizer):
    reply = reply_of(runtime, tokenizer, [1, 300, 301], max_new_tokens=5, temperature=1.0)
    summary = reply.summary()
    assert (summary["prompt_tokens"], summary["new_tokens"]) == (3, len(reply.new_ids))
    assert summary["ttft_ms"] > 0
    assert summary["decode_tok_s"] > 0
    alone = reply_of(runtime, tokenizer, [1], max_new_tokens=1).summary()
    assert alone["decode_tok_s"] is None


@pytest.mark.parametrize("end", [1, 2])
def test_eos_and_the_next_document_end_the_text(tiny_config, tokenizer, end):
    ids = tokenizer.encode("some text")
    reply = reply_of(Script(tiny_config, [*ids, end]), tokenizer, [1])
    assert (reply.text, reply.stop_reason, reply.new_ids) == ("some text", "eos", ids)


def test_a_stop_string_across_tokens_is_not_given(tiny_config, tokenizer):
    ids = tokenizer.encode("keep this. STOP and not this")
    reply = reply_of(Script(tiny_config, ids), tokenizer, [1], stop=("zzz", "STOP and"))
    assert (reply.text, reply.stop_reason) == ("keep this. ", "stop")
    assert len(reply.new_ids) < len(ids)


def test_half_a_stop_string_is_given_at_the_end(tiny_config, tokenizer):
    ids = tokenizer.encode("keep this. STO")
    reply = reply_of(Script(tiny_config, [*ids, 2]), tokenizer, [1], stop=("STOP",))
    assert (reply.text, reply.stop_reason) == ("keep this. STO", "eos")


def test_a_full_context_ends_the_text(tiny_config, tokenizer, tiny_checkpoint):
    # The last token needs no room: nothing is decoded after it.
    short = open_runtime(tiny_checkpoint.path, context=8, threads=1)
    rng_ids = reply_of(short, tokenizer, [1, 300, 301], temperature=1.0, seed=3)
    assert rng_ids.stop_reason == "context"
    assert len(rng_ids.new_ids) == 8 - 3 + 1
    full = reply_of(short, tokenizer, list(range(300, 308)), temperature=1.0, seed=3)
    assert (len(full.new_ids), full.stop_reason) == (1, "context")
    with pytest.raises(ConfigError, match="9 tokens"):
        reply_of(short, tokenizer, list(range(300, 309)))


def test_rows_without_a_piece_are_never_chosen(tiny_config, tokenizer):
    wide = replace(tiny_config, vocab_size=tokenizer.vocab_size + 64)
    script = Script(wide, [tokenizer.vocab_size + 5] * 3)
    assert max(new_tokens(script, tokenizer, [1], Sampling(max_new_tokens=3), Reply())) < 512


def test_prompt_starts_with_bos(tokenizer, tiny_config):
    assert prompt_ids(tokenizer, tiny_config, "") == [1]
    assert prompt_ids(tokenizer, tiny_config, "a b") == [1, *tokenizer.encode("a b")]


def without_bos(text, path, eos_id):
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(path.with_suffix("")),
        vocab_size=300,
        model_type="bpe",
        bos_id=-1,
        eos_id=eos_id,
        minloglevel=2,
    )
    return Tokenizer.open(path)


def test_without_bos_a_prompt_starts_as_documents_did(tiny_text, tiny_config, tmp_path):
    nothing = replace(tiny_config, bos_token_id=None)
    tokenizer = without_bos(tiny_text, tmp_path / "eos.model", eos_id=2)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, 2)
    assert prompt_ids(tokenizer, nothing, "") == [2]
    assert prompt_ids(tokenizer, nothing, "a") == [2, *tokenizer.encode("a")]
    assert prompt_ids(tokenizer, tiny_config, "a") == [1, *tokenizer.encode("a")]
    tokenizer = without_bos(tiny_text, tmp_path / "none.model", eos_id=-1)
    assert prompt_ids(tokenizer, nothing, "a") == tokenizer.encode("a")
    with pytest.raises(ConfigError, match="no BOS or EOS"):
        prompt_ids(tokenizer, nothing, "")


def test_an_end_that_only_the_generation_config_names_ends_the_text(
    tiny_checkpoint, tokenizer, tmp_path
):
    folder = shutil.copytree(tiny_checkpoint.path, tmp_path / "instruct")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 300]}')
    opened = open_runtime(folder, threads=1)
    assert end_ids(tokenizer, opened.config) == {1, 2, 300}


def frequencies(logits, temperature, top_p, n=4000):
    rng = np.random.default_rng(0)
    drawn = [sample_next(logits, temperature, top_p, rng) for _ in range(n)]
    return np.bincount(drawn, minlength=len(logits)) / n


def test_samples_follow_the_softmax():
    logits = np.array([0.5, 2.0, -1.0, 1.0], np.float32)
    for temperature in (0.5, 1.0, 2.0):
        wanted = torch.softmax(torch.tensor(logits) / temperature, 0).numpy()
        found = frequencies(logits, temperature, 1.0)
        # Four standard deviations of a share at this number of draws.
        assert np.abs(found - wanted).max() < 4 * 0.5 / 4000**0.5


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = np.log(np.array([0.15, 0.5, 0.05, 0.3], np.float32))
    for top_p, kept in (
        (0.0, {1}),
        (0.45, {1}),
        (0.6, {1, 3}),
        (0.9, {1, 3, 0}),
        (1.0, {0, 1, 2, 3}),
    ):
        assert set(np.flatnonzero(frequencies(logits, 1.0, top_p, n=500))) == kept


def test_no_temperature_takes_the_likeliest_and_draws_nothing():
    rng = np.random.default_rng(0)
    assert sample_next(np.array([1, 3, 3, 2], np.float32), 0.0, 1.0, rng) == 1
    assert sample_next(np.array([1, 3, 3.1, 2], np.float32), 1e-320, 1.0, rng) == 2
    assert rng.random() != np.random.default_rng(0).random(), "a temperature draws once"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad, temperature):
    with pytest.raises(CheckpointError, match="not finite"):
        sample_next(np.array([0, bad, 1], np.float32), temperature, 1.0, np.random.default_rng(0))
