from dataclasses import replace

import numpy as np
import pytest

from edgetiny.evaluate import GroupScore
from edgetiny.export.parity import LIMITS, compare, failures, limits_of
from edgetiny.export.probe import Answers, Continuation, Probe, Questions

VOCAB = 50


@pytest.fixture
def asked():
    probe = Probe("one", np.zeros((2, 3), int), np.array([3, 1]), np.zeros((2, 4), int), (1,) * 4)
    return Questions(probes=[probe], prompts=[], documents=[], text="", context=8)


@pytest.fixture
def wanted():
    logits = np.random.default_rng(0).normal(size=(2, 5, VOCAB)).astype(np.float32)
    rows = logits[0]
    return Answers([logits], [Continuation(rows.argmax(-1), rows)], [score(100.0)])


def score(nats):
    return GroupScore(group="text", nats=nats, tokens=50, text_bytes=200.0)


def failed(asked, wanted, given, precision="int8"):
    return [
        line.split(" is ")[0]
        for line in failures(compare(asked, wanted, given, limits_of(precision, "fp32")).checks)
    ]


@pytest.mark.parametrize("precision", LIMITS)
def test_equal_answers_pass(asked, wanted, precision):
    assert failed(asked, wanted, wanted, precision) == []


def test_a_constant_on_every_logit_means_nothing(asked, wanted):
    shifted = replace(wanted, logits=[wanted.logits[0] + 3])
    assert failed(asked, wanted, shifted, "fp32") == []


def test_the_size_of_the_logits_means_nothing_to_the_relative_error(asked, wanted):
    noise = 0.05 * np.random.default_rng(1).normal(size=(2, 5, VOCAB))
    errors = [
        compare(
            asked,
            replace(wanted, logits=[size * wanted.logits[0]]),
            replace(wanted, logits=[size * (wanted.logits[0] + noise)]),
            limits_of("int8", "fp32"),
        ).logits["relative_error"]
        for size in (0.01, 1.0)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_noise_beyond_the_precision_fails(asked, wanted):
    noise = np.random.default_rng(1).normal(size=(2, 5, VOCAB))
    given = replace(wanted, logits=[wanted.logits[0] + 0.02 * noise])
    assert failed(asked, wanted, given, "int8") == []
    assert failed(asked, wanted, given, "fp16") == [
        "relative logit error",
        "mean KL divergence (nats)",
    ]
    assert failed(asked, wanted, replace(wanted, logits=[wanted.logits[0] + noise]), "int8")


def test_one_wrong_row_among_many_fails(asked, wanted):
    logits = wanted.logits[0].copy()
    logits[1, 3] = logits[1, 3, ::-1]
    assert "relative logit error" in failed(asked, wanted, replace(wanted, logits=[logits]))


def test_answers_that_are_not_numbers_fail(asked, wanted):
    nan = replace(wanted, logits=[np.full_like(wanted.logits[0], np.nan)], scores=[score(np.nan)])
    parity = compare(asked, wanted, nan, limits_of("int8", "fp32"))
    assert len(failures(parity.checks)) >= 3
    assert all(
        row.as_json()["measured"] is None for row in parity.checks if row.measured != row.measured
    )


@pytest.mark.parametrize(("size", "passes"), [(0.03, True), (0.07, False)])
def test_a_narrow_cache_may_change_less_than_narrow_weights(asked, wanted, size, passes):
    noise = np.random.default_rng(1).normal(size=(2, 5, VOCAB))
    noise *= size * wanted.logits[0].std() / noise.std()
    given = replace(wanted, logits=[wanted.logits[0] + noise])
    checks = compare(asked, wanted, given, limits_of("fp32", "int8")).checks
    assert next(each for each in checks if each.check == "relative logit error").passed is passes
    assert failed(asked, wanted, given, "int8") == []


def test_a_loss_that_changed_by_more_than_a_percent_fails(asked, wanted):
    assert failed(asked, wanted, replace(wanted, scores=[score(100.9)])) == []
    assert failed(asked, wanted, replace(wanted, scores=[score(101.1)])) == ["change of loss (%)"]
    # Better than the checkpoint by so much is no artefact of the checkpoint either.
    assert failed(asked, wanted, replace(wanted, scores=[score(98.0)])) == ["change of loss (%)"]


def test_greedy_texts_may_part_where_the_first_two_are_close(asked, wanted):
    [text] = wanted.continuations
    logits = text.logits.copy()
    first, second = np.argsort(-logits[2])[:2]
    ids = text.ids.copy()
    ids[2:] = second
    noise = 0.02 * np.random.default_rng(1).normal(size=(2, 5, VOCAB))
    given = Answers([wanted.logits[0] + noise], [Continuation(ids, logits)], wanted.scores)
    for gap, explained in ((0.001, True), (1.0, False)):
        logits[2] = -9
        logits[2, [first, second]] = 0, -gap
        near = replace(wanted, continuations=[Continuation(text.ids, logits)])
        parity = compare(asked, near, given, limits_of("int8", "fp32"))
        [row] = parity.greedy
        assert (row["equal"], row["first_difference"], row["explained"]) == (False, 2, explained)
        assert row["top2_gap"] == pytest.approx(gap, abs=1e-5)
        assert ("greedy texts explained" in failed(asked, near, given)) is not explained


def test_logits_that_are_all_alike_are_compared(asked, wanted):
    flat = replace(wanted, logits=[np.zeros_like(wanted.logits[0])])
    assert failed(asked, flat, flat, "fp32") == []
    assert "relative logit error" in failed(asked, flat, wanted, "int8")


def test_rows_are_compared_some_at_a_time(asked, wanted, monkeypatch):
    noise = 0.05 * np.random.default_rng(1).normal(size=(2, 5, VOCAB))
    given = replace(wanted, logits=[wanted.logits[0] + noise.astype(np.float32)])
    whole = compare(asked, wanted, given, limits_of("int8", "fp32"))
    monkeypatch.setattr("edgetiny.export.parity._LOGITS_AT_A_TIME", 3 * VOCAB)
    parts = compare(asked, wanted, given, limits_of("int8", "fp32"))
    assert parts.logits == pytest.approx(whole.logits, rel=1e-12)


def test_a_text_known_by_heart_and_a_short_one_do_not_fail_an_export(asked, wanted):
    def texts(*nats):
        groups = [GroupScore(group="English", nats=nats[0], tokens=1000, text_bytes=4000.0)]
        return replace(wanted, scores=[*groups, score(nats[1]), score(nats[2])])

    assert failed(asked, texts(2000.0, 100.0, 100.0), texts(2000.0, 104.0, 100.0)) == []
    assert failed(asked, texts(2000.0, 100.0, 100.0), texts(2030.0, 100.0, 100.0)) == [
        "change of loss (%)"
    ]
    assert failed(asked, texts(0.01, 0.0, 0.0), texts(0.0101, 0.0, 0.0)) == []
    found = compare(
        asked, texts(1.0, 2.0, 4.0), texts(1.0, 2.0, 4.0), limits_of("int8", "fp32")
    ).scores
    assert found[-1]["text"] == "all but the first"
    assert found[-1]["tokens"] == 100
