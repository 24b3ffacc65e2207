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
    import numpy as np

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
