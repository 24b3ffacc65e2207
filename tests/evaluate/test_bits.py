import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgetiny.checkpoint import Checkpoint
from edgetiny.errors import ConfigError, DataError
from edgetiny.evaluate import ScoredDocument, bits_per_byte
from edgetiny.evaluate.bits import model_log_probs
from edgetiny.model import Transformer, load_model
from edgetiny.runtimes import EagerRuntime

VOCAB = 97


def zero_all(tensors: dict[str, torch.Tensor]) -> None:
    for tensor in tensors.values():
        tensor.zero_()


@pytest.fixture
def model(make_checkpoint: Callable[..., Checkpoint]) -> Transformer:
    return load_model(make_checkpoint(vocab_size=VOCAB))


def random_documents(has_start: bool = True) -> list[ScoredDocument]:
    rng = np.random.default_rng(0)
    return [
        ScoredDocument(
            tokens=rng.integers(0, VOCAB, length),
            has_start=has_start,
            text_bytes=3.0 * length,
            group=group,
        )
        for length, group in zip((2, 40, 7, 16, 31, 17, 33), "aababba", strict=True)
    ]


@pytest.mark.parametrize("has_start", [True, False])
def test_a_uniform_model_pays_the_vocabulary_for_each_token(
    make_checkpoint: Callable[..., Checkpoint], has_start: bool
) -> None:
    uniform = load_model(make_checkpoint(vocab_size=VOCAB, edit=zero_all))
    documents = random_documents(has_start)
    scores = bits_per_byte(uniform, documents, context=16)
    for score in scores.groups:
        mine = [each for each in documents if each.group == score.group]
        n_tokens = sum(len(each.tokens) - has_start for each in mine)
        n_bytes = sum(each.text_bytes for each in mine)
        assert (score.tokens, score.text_bytes) == (n_tokens, n_bytes)
        assert score.bits_per_byte == pytest.approx(math.log2(VOCAB) * n_tokens / n_bytes)
        assert score.loss == pytest.approx(math.log(VOCAB))


def test_one_window_is_plain_cross_entropy(model: Transformer) -> None:
    [document] = [each for each in random_documents() if len(each.tokens) == 40]
    score = bits_per_byte(model, [document], context=64).total
    tokens = torch.from_numpy(document.tokens)
    expected = F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="sum")
    assert score.nats == pytest.approx(expected.item(), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(expected.item() / math.log(2) / 120, rel=1e-5)


def test_windows_share_one_token_and_nothing_else(model: Transformer) -> None:
    [document] = [each for each in random_documents() if len(each.tokens) == 40]
    score = bits_per_byte(model, [document], context=16).total
    assert score.tokens == 39
    total = 0.0
    for start, end in ((0, 16), (15, 31), (30, 40)):
        tokens = torch.from_numpy(document.tokens[start:end])
        total += F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="sum").item()
    assert score.nats == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
@pytest.mark.parametrize("context", [2, 16, 64])
def test_batching_changes_nothing(model: Transformer, batch_size: int, context: int) -> None:
    documents = random_documents()
    alone = bits_per_byte(model, documents, context=context, batch_size=3)
    batched = bits_per_byte(model, documents, context=context, batch_size=batch_size)
    assert [each.tokens for each in alone.groups] == [each.tokens for each in batched.groups]
    assert batched.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-6)


def test_a_runtime_gives_the_models_numbers(model: Transformer, tmp_path) -> None:
    runtime = EagerRuntime(model, tmp_path, threads=torch.get_num_threads())
    documents = random_documents()
    by_model = bits_per_byte(model, documents, context=16, batch_size=4)
    by_runtime = bits_per_byte(runtime, documents, context=16, batch_size=4)
    assert by_runtime.bits_per_byte == pytest.approx(by_model.bits_per_byte, rel=1e-6)
    assert by_runtime.total.tokens == by_model.total.tokens


def test_the_total_weighs_groups_by_their_bytes(model: Transformer) -> None:
    scores = bits_per_byte(model, random_documents(), context=16)
    a, b = scores.groups
    share = a.text_bytes / (a.text_bytes + b.text_bytes)
    expected = share * a.bits_per_byte + (1 - share) * b.bits_per_byte
    assert scores.total.bits_per_byte == pytest.approx(expected)
    assert scores.bits_per_byte.keys() == {"a", "b", "all"}
    assert [row["group"] for row in scores.summary()["scores"]] == ["a", "b", "all"]


def test_a_large_head_is_scored_in_parts(
    make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetiny.evaluate import bits

    model = load_model(make_checkpoint(vocab_size=VOCAB))
    tokens = np.random.default_rng(1).integers(0, VOCAB, (3, 20))
    whole = model_log_probs(model, tokens)
    assert whole.shape == (3, 19)
    monkeypatch.setattr(bits, "_LOGIT_BYTES", 7 * 4 * VOCAB)
    np.testing.assert_allclose(model_log_probs(model, tokens), whole, rtol=1e-5)


@pytest.mark.parametrize("context", [1, 65])
def test_a_window_that_does_not_fit_is_refused(model: Transformer, context: int) -> None:
    with pytest.raises(ConfigError, match="2 to 64"):
        bits_per_byte(model, random_documents(), context=context)


def test_nothing_to_score_is_refused(model: Transformer) -> None:
    with pytest.raises(DataError, match="no text"):
        bits_per_byte(model, [], context=8)
