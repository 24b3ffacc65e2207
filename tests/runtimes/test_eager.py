import numpy as np
import pytest
import torch

from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.runtimes import EagerRuntime, open_runtime
from edgetiny.runtimes.protocol import LOGIT_BYTES, row_groups


@pytest.fixture
def runtime(make_checkpoint):
    return EagerRuntime.load(make_checkpoint(num_key_value_heads=2), threads=1)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 97, (3, 12))


def test_prefill_gives_the_model_s_logits_after_each_row_s_last_token(runtime, tokens):
    lengths = np.array([12, 5, 9])
    with torch.no_grad():
        expected = runtime.model(torch.from_numpy(tokens)).numpy()[np.arange(3), lengths - 1]
    np.testing.assert_allclose(runtime.prefill(tokens, lengths), expected, atol=1e-4)


def test_steps_after_a_prefill_equal_one_prefill(runtime, tokens):
    whole = runtime.prefill(tokens, np.full(3, 12))
    runtime.prefill(tokens[:, :7], np.full(3, 7))
    runtime.step(tokens[:, 7:8])
    stepped = runtime.step(tokens[:, 8:])[:, -1]
    np.testing.assert_allclose(stepped, whole, atol=1e-4)


def test_unequal_prompts_continue_as_each_alone(runtime, tokens):
    lengths = np.array([12, 3, 7])
    batch = [runtime.prefill(tokens, lengths)]
    new = np.random.default_rng(1).integers(0, 97, (3, 4))
    batch += [runtime.step(new[:, i : i + 1])[:, 0] for i in range(4)]
    for row in range(3):
        alone = [runtime.prefill(tokens[row : row + 1, : lengths[row]], lengths[row : row + 1])]
        alone += [runtime.step(new[row : row + 1, i : i + 1])[:, 0] for i in range(4)]
        np.testing.assert_allclose(np.stack(batch)[:, row], np.stack(alone)[:, 0], atol=1e-4)


def test_score_is_the_log_probability_of_the_next_token(runtime, tokens):
    lengths = np.array([12, 5, 9])
    scores = runtime.score(tokens, lengths)
    assert scores.shape == (3, 11)
    assert not scores[1, 4:].any()
    logits = runtime.prefill(tokens[:, :4], np.full(3, 4))
    expected = torch.from_numpy(logits).log_softmax(-1).numpy()[np.arange(3), tokens[:, 4]]
    np.testing.assert_allclose(scores[:, 3], expected, atol=1e-4)


def test_one_token_has_nothing_to_score(runtime, tokens):
    assert runtime.score(tokens[:, :1], np.ones(3, np.int64)).shape == (3, 0)


def test_scoring_leaves_the_sequences_in_progress_alone(runtime, tokens):
    runtime.prefill(tokens, np.full(3, 12))
    expected = runtime.step(tokens[:, :1])
    runtime.rewind(12)
    runtime.score(tokens[:2], np.full(2, 12))
    np.testing.assert_array_equal(runtime.step(tokens[:, :1]), expected)


def test_rewind_forgets_what_came_after(runtime, tokens):
    runtime.prefill(tokens, np.full(3, 12))
    expected = runtime.step(tokens[:, :1])
    runtime.step(tokens[:, 1:5])
    runtime.rewind(12)
    np.testing.assert_array_equal(runtime.step(tokens[:, :1]), expected)


def test_logits_in_groups_of_rows_are_the_same(runtime, tokens, monkeypatch):
    whole = runtime.score(tokens, np.full(3, 12))
    monkeypatch.setattr("edgetiny.runtimes.protocol.LOGIT_BYTES", 1)
    np.testing.assert_allclose(runtime.score(tokens, np.full(3, 12)), whole, atol=1e-5)


def test_row_groups_cover_every_row_once_within_the_limit():
    groups = row_groups(1000, 512, 48_000)
    rows = [row for group in groups for row in range(1000)[group]]
    assert rows == list(range(1000))
    assert all(len(range(1000)[group]) * 512 * 48_000 * 4 <= LOGIT_BYTES for group in groups)


def test_threads_and_types_are_as_asked(make_checkpoint):
    runtime = EagerRuntime.load(make_checkpoint(), threads=2, dtype=torch.bfloat16, context=16)
    assert torch.get_num_threads() == 2
    assert (runtime.engine.threads, runtime.engine.precision) == (2, "bf16")
    assert runtime.capabilities.max_context == 16
    assert runtime.prefill(np.array([[1, 2]]), np.array([2])).dtype == np.float32


def test_open_runtime_takes_a_checkpoint_folder(make_checkpoint):
    runtime = open_runtime(make_checkpoint().path, context=8, threads=1)
    assert runtime.engine.name == "eager"
    assert runtime.engine.precision == "fp32"


def test_open_runtime_refuses_a_folder_that_is_neither(tmp_path):
    with pytest.raises(CheckpointError, match="has no config"):
        open_runtime(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ([[1, 97]], [2], "token id 97 is outside the vocabulary of 97"),
        ([[1, -3]], [2], "token id -3"),
        ([[1, 2]], [3], "lengths must be 1 to 2"),
        ([[1, 2]], [0], "lengths must be 1 to 2"),
        ([[1, 2]], [2, 2], "tokens"),
        ([[1] * 65], [65], "beyond the context of 64"),
    ],
)
def test_impossible_prompts_are_refused(runtime, tokens, lengths, message):
    with pytest.raises(ConfigError, match=message):
        runtime.prefill(np.array(tokens), np.array(lengths))
    with pytest.raises(ConfigError, match=message):
        runtime.score(np.array(tokens), np.array(lengths))


def test_steps_that_do_not_fit_are_refused(runtime, tokens):
    with pytest.raises(ConfigError, match="prefill first"):
        runtime.step(tokens[:, :1])
    runtime.prefill(tokens, np.full(3, 12))
    with pytest.raises(ConfigError, match="53 more"):
        runtime.step(np.ones((3, 53), np.int64))
    runtime.reset()
    with pytest.raises(ConfigError, match="prefill first"):
        runtime.step(tokens[:, :1])


def test_a_context_beyond_the_model_is_refused(make_checkpoint):
    with pytest.raises(ConfigError, match="beyond the model's 64"):
        EagerRuntime.load(make_checkpoint(), context=65)
