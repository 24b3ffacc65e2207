import numpy as np
import pytest
import torch

from edgetiny.bench.protocol import (
    WARMUP_RUNS_AT_MOST,
    Protocol,
    check_capabilities,
    decode,
    measure,
)
from edgetiny.errors import ArtefactError, ConfigError
from edgetiny.runtimes import Capabilities, EagerRuntime

PROTOCOL = Protocol(batch=3, prompt_tokens=2, new_tokens=5, repeats=2)


@pytest.fixture
def open_eager(make_checkpoint):
    def open_(context=None, **settings):
        return EagerRuntime.load(make_checkpoint(**settings), context=context, threads=1)

    return open_


def test_every_counted_token_was_computed(open_eager):
    prompt = np.ones((3, 2), np.int64)
    seen = []
    # The last token is chosen and never fed back: 2 + 5 - 1 tokens have to fit, no fewer.
    run = decode(open_eager(context=6), prompt, 5, lambda: seen.append(1))
    assert len(run.step_ns) == 4
    assert len(seen) == 5
    assert run.total_ns == run.prefill_ns + sum(run.step_ns)
    with pytest.raises(ConfigError, match="context"):
        decode(open_eager(context=5, name="short"), prompt, 5, lambda: None)


def test_measure_repeats_after_a_warm_up(open_eager):
    events = []
    timings = measure(open_eager(), PROTOCOL, lambda phase, tokens: events.append((phase, tokens)))
    assert 2 <= timings.warmup_runs <= WARMUP_RUNS_AT_MOST
    assert timings.warmup_tokens == 5
    assert [len(run.step_ns) for run in timings.runs] == [4, 4]
    assert all(min(run.step_ns) > 0 for run in timings.runs)
    assert sum(tokens for _, tokens in events) == PROTOCOL.repeats * PROTOCOL.new_tokens
    assert events[0] == ("warm-up 1", 0)
    assert events[-1] == ("run 2 of 2", 1)


def test_a_filled_cache_is_gone_back_to_and_not_on_the_clock(open_eager):
    runtime = open_eager()
    deep = Protocol(batch=2, prompt_tokens=3, new_tokens=4, repeats=2, depth=20)
    phases = []
    timings = measure(runtime, deep, lambda phase, tokens: phases.append(phase))
    assert phases[0] == "filling the cache with 20 tokens"
    assert [len(run.step_ns) for run in timings.runs] == [3, 3]
    # Each run began again at 20: twelve runs of 7 tokens would not fit 64.
    runtime.rewind(20)
    runtime.step(np.ones((2, 44), np.int64))


def test_decoding_after_a_filled_cache_is_that_of_one_long_prompt(open_eager):
    class Told:
        """A runtime that keeps what it was fed."""

        def __init__(self, runtime):
            self.runtime, self.fed = runtime, []

        def greedy_step(self, tokens):
            self.fed.append(tokens)
            return self.runtime.greedy_step(tokens)

        def __getattr__(self, name):
            return getattr(self.runtime, name)

    past = np.arange(20)[None] % 97
    prompt = np.array([[5, 9, 3]])
    long, filled = Told(open_eager()), Told(open_eager(name="again"))
    decode(long, np.concatenate([past, prompt], axis=1), 5, lambda: None)
    filled.prefill(past, np.array([20]))
    decode(filled, prompt, 5, lambda: None, depth=20)
    assert np.array_equal(np.concatenate(long.fed), np.concatenate(filled.fed))


def test_a_sustained_part_runs_until_its_time_is_over(open_eager):
    protocol = Protocol(batch=1, prompt_tokens=2, new_tokens=4, repeats=1, sustained_minutes=0.002)
    timings = measure(open_eager(), protocol, lambda phase, tokens: None)
    assert timings.sustained[-1].at_s >= 0.11
    assert all(sample.tok_per_s_summed > 0 for sample in timings.sustained)
    assert measure(open_eager(name="b"), PROTOCOL, lambda phase, tokens: None).sustained == []


def test_no_token_ends_a_run(open_eager):
    def always_eos(tensors):
        tensors["lm_head.weight"].zero_()  # all logits equal: argmax is id 0

    runtime = open_eager(edit=always_eos, tie_word_embeddings=False, eos_token_ids=(0,))
    timings = measure(runtime, PROTOCOL, lambda phase, tokens: None)
    assert [len(run.step_ns) for run in timings.runs] == [4, 4]


def test_logits_that_are_not_finite_are_noticed(open_eager):
    def spoil(tensors):
        tensors["model.norm.weight"][0] = torch.inf

    spoilt = measure(open_eager(edit=spoil), PROTOCOL, lambda phase, tokens: None)
    whole = measure(open_eager(name="whole"), PROTOCOL, lambda phase, tokens: None)
    assert not any(run.is_finite for run in spoilt.runs)
    assert all(run.is_finite for run in whole.runs)


def test_a_batch_or_context_beyond_the_runtime_is_refused():
    small = Capabilities(max_batch=1, max_context=64, max_step=1, scoring="stepping")
    with pytest.raises(ArtefactError, match="at most 1 sequences together, not 3"):
        check_capabilities(small, PROTOCOL, "artefact")
    short = Capabilities(max_batch=None, max_context=6, max_step=1, scoring="graph")
    with pytest.raises(ArtefactError, match=r"holds 6 tokens, 2 \+ 5"):
        check_capabilities(short, PROTOCOL, "artefact")
    enough = Capabilities(max_batch=3, max_context=7, max_step=1, scoring="graph")
    check_capabilities(enough, PROTOCOL, "artefact")
