"""How far an artefact's answers are from the checkpoint's, and how far they may be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgetiny.evaluate.bits import Scores
from edgetiny.export.probe import Answers, Continuation, Questions
from edgetiny.runtimes import Floats

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a precision may change.

    logit_error: root mean square error over the spread of the checkpoint's logits.
    kl_nats: mean divergence of the next-token distribution.
    decided_agreement: least share of equal likeliest tokens where the checkpoint's first two are
    further apart than rounding explains.
    loss_percent: change of the mean loss, which is the change of bits per byte too.
    """

    logit_error: float
    kl_nats: float
    decided_agreement: float
    loss_percent: float


# Measured with onnxruntime 1.32 on random models (weights of deviation 0.02 to 0.3) and one trained
# for four minutes; relative error, divergence, change of loss:
# fp32 1e-6, 1e-12, 1e-7 %; fp16 1e-4 to 2e-3, 1e-7 to 8e-6, 0.002 %;
# int8 0.003 (trained) to 0.06 (deviation 0.3), 3e-5 to 6e-3, 0.05 %.
# About a hundred answers are asked for, so one that differs is already 1%: a trained model of 1.3M
# parameters differed in 1 of 93 at int8, its loss by 0.0003 %.
# int4, plainly rounded in blocks of 32 to 128, random models: 0.48 to 0.56, which is what the limit
# is for. A model of real text (docs/results/engine_quality.md), its cache in 8 bits: int4 by GPTQ
# 0.09 to 0.11, 0.009 to 0.010, 0.05 to 0.25 %; int8 blocks 0.04, 7e-4, 0.01 %; int8 channels 0.07,
# 2e-3, 0.07 %; every decided token equal in all four. What four bits cost a trained model shows in
# its loss, whose limit is 20 times that.
LIMITS: dict[str, Limits] = {
    "fp32": Limits(logit_error=1e-4, kl_nats=1e-6, decided_agreement=1.0, loss_percent=0.01),
    "fp16": Limits(logit_error=1e-2, kl_nats=1e-4, decided_agreement=1.0, loss_percent=0.1),
    "int8": Limits(logit_error=1e-1, kl_nats=2e-2, decided_agreement=0.97, loss_percent=1.0),
    "int4": Limits(logit_error=7e-1, kl_nats=2e-1, decided_agreement=0.9, loss_percent=5.0),
}

# What a narrow cache may change on top. An fp32 cache changes nothing. What 8 bits change alone was
# measured with fp32 weights in onnxruntime, against a cache of 32 bits over the same tokens, at
# positions 8 to 64, 64 to 128, 128 to 256 and 256 to 512. Two models of real text (192 wide; 8
# layers after about 4M tokens, and 4 of them trained on), held-out text and docstrings: relative
# error 0.0035 to 0.006 up to 256, 0.005 to 0.0072 behind it; divergence 3e-5 to 1.3e-4; at worst
# one decided token in 860 another; loss at most 0.04 %. Chinese in byte pieces: the same, loss
# 0.12 %. Random models of deviation 0.02 and 0.1: 0.002 to 0.017, at most 1e-4, 0.01 %.
# The limits are seven times the worst error and divergence of real text and four times its loss;
# of the hundred tokens that are asked one may be another.
KV_LIMITS: dict[str, Limits] = {
    "fp32": Limits(logit_error=0.0, kl_nats=0.0, decided_agreement=1.0, loss_percent=0.0),
    "fp16": Limits(logit_error=1e-2, kl_nats=1e-4, decided_agreement=1.0, loss_percent=0.1),
    "int8": Limits(logit_error=5e-2, kl_nats=1e-3, decided_agreement=0.98, loss_percent=0.5),
}


# Of logits that are compared at a time: about ten arrays of doubles.
_LOGITS_AT_A_TIME = 2**21
_TOKENS_OF_A_TEXT = 200
_LEAST_LOSS = 0.01  # nats a token
_TOGETHER = "all but the first"


@dataclass(frozen=True, slots=True)
class Check:
    """One figure beside its limit."""

    check: str
    measured: float
    limit: float
    kind: Literal["at most", "at least"]

    @property
    def passed(self) -> bool:
        """Whether the figure keeps the limit; a figure that is not a number never does."""
        if self.kind == "at most":
            return self.measured <= self.limit
        return self.measured >= self.limit

    def as_json(self) -> dict[str, Any]:
        """Return one row of the report; figures that are not finite become null."""
        figure = self.measured if np.isfinite(self.measured) else None
        return {
            "check": self.check,
            "measured": figure,
            self.kind.replace(" ", "_"): self.limit,
            "passed": self.passed,
        }


@dataclass(frozen=True, slots=True)
class Parity:
    """What was measured, and the checks that follow from it."""

    logits: dict[str, float]
    probes: list[dict[str, Any]]
    greedy: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    checks: list[Check]


def limits_of(precision: str, kv_dtype: str) -> Limits:
    """Return what weights and cache of these types may change together."""
    weights, cache = LIMITS[precision], KV_LIMITS[kv_dtype]
    return Limits(
        logit_error=weights.logit_error + cache.logit_error,
        kl_nats=weights.kl_nats + cache.kl_nats,
        decided_agreement=min(weights.decided_agreement, cache.decided_agreement),
        loss_percent=weights.loss_percent + cache.loss_percent,
    )


def compare(asked: Questions, wanted: Answers, given: Answers, limits: Limits) -> Parity:
    """Measure `given` against `wanted`, the checkpoint's answers to the same questions."""
    probes = [_compare_rows(a, b) for a, b in zip(wanted.logits, given.logits, strict=True)]
    measured = [each.facts() for each in probes]
    whole = RowErrors.joined(probes).facts()
    greedy = [
        _greedy_facts(a, b, whole["max_abs_error"])
        for a, b in zip(wanted.continuations, given.continuations, strict=True)
    ]
    scores = _score_facts(wanted, given)
    # A few tokens say little of a text: they count in the whole.
    judged = [row for row in scores if row["tokens"] >= _TOKENS_OF_A_TEXT] or scores
    worst = max((abs(row["loss_change_percent"]) for row in judged), key=_nan_last)
    checks = [
        Check("relative logit error", whole["relative_error"], limits.logit_error, "at most"),
        Check("mean KL divergence (nats)", whole["mean_kl_nats"], limits.kl_nats, "at most"),
        Check(
            "likeliest token where it is decided",
            whole["decided_agreement"],
            limits.decided_agreement,
            "at least",
        ),
        Check(
            "greedy texts explained", sum(r["explained"] for r in greedy), len(greedy), "at least"
        ),
        Check("change of loss (%)", worst, limits.loss_percent, "at most"),
    ]
    named = [
        {"probe": probe.name, "prompt_tokens": probe.lengths.tolist()} | facts
        for probe, facts in zip(asked.probes, measured, strict=True)
    ]
    return Parity(whole, named, greedy, scores, checks)


@dataclass(frozen=True, slots=True)
class RowErrors:
    """What rows of logits (n, V) differ by, a figure a row: never two copies of all of them.

    A constant that is added to a row means nothing and is left out. width: V.
    square, absolute: sums over V of the errors; largest: of them; spread: sum of the squares of the
    wanted logits; kl_nats: divergence; agrees: of the likeliest tokens; gap: from the wanted
    likeliest to the second.
    """

    width: int
    square: Doubles
    absolute: Doubles
    largest: Doubles
    spread: Doubles
    kl_nats: Doubles
    agrees: NDArray[np.bool_]
    gap: Doubles

    @classmethod
    def of(cls, wanted: Doubles, given: Doubles) -> "RowErrors":
        """Compare rows (n, V)."""
        wanted = wanted - wanted.mean(axis=1, keepdims=True)
        given = given - given.mean(axis=1, keepdims=True)
        errors = np.abs(given - wanted)
        log_p, log_q = _log_softmax(wanted), _log_softmax(given)
        second, first = np.partition(wanted, -2, axis=1)[:, -2:].T
        return cls(
            width=wanted.shape[1],
            square=(errors**2).sum(axis=1),
            absolute=errors.sum(axis=1),
            largest=errors.max(axis=1),
            spread=(wanted**2).sum(axis=1),
            kl_nats=np.sum(np.exp(log_p) * (log_p - log_q), axis=1),
            agrees=wanted.argmax(axis=1) == given.argmax(axis=1),
            gap=first - second,
        )

    @classmethod
    def joined(cls, parts: "Sequence[RowErrors]") -> "RowErrors":
        """Return all rows of several."""
        arrays = {
            each.name: np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(cls)
            if each.name != "width"
        }
        return cls(width=parts[0].width, **arrays)

    def facts(self) -> dict[str, float]:
        """Return what the rows come to together."""
        n_logits = len(self.square) * self.width
        rms = math.sqrt(self.square.sum() / n_logits)
        # Three standard deviations for each of the two logits.
        decided = self.gap > 6 * rms
        return {
            "max_abs_error": float(self.largest.max()),
            "mean_abs_error": float(self.absolute.sum() / n_logits),
            "relative_error": _over(rms, math.sqrt(self.spread.sum() / n_logits)),
            "mean_kl_nats": float(self.kl_nats.mean()),
            "top1_agreement": float(self.agrees.mean()),
            "decided_agreement": float(self.agrees[decided].mean()) if decided.any() else 1.0,
            "decided_share": float(decided.mean()),
        }


def _compare_rows(wanted: Floats, given: Floats) -> RowErrors:
    """Compare logits (B, n, V), so many rows at a time as fit in some megabytes."""
    width = wanted.shape[-1]
    wanted, given = wanted.reshape(-1, width), given.reshape(-1, width)
    at_a_time = max(1, _LOGITS_AT_A_TIME // width)
    return RowErrors.joined(
        [
            RowErrors.of(
                wanted[start : start + at_a_time].astype(np.float64),
                given[start : start + at_a_time].astype(np.float64),
            )
            for start in range(0, len(wanted), at_a_time)
        ]
    )


def _over(part: float, whole: float) -> float:
    """Return a quotient; of nothing over nothing 0, as where a model's logits are all alike."""
    if whole == 0:
        return 0.0 if part == 0 else math.inf
    return part / whole


def _greedy_facts(wanted: Continuation, given: Continuation, max_error: float) -> dict[str, Any]:
    """Say where two greedy texts part, and whether the logit error explains it.

    It does if the checkpoint held its two likeliest tokens less than twice the error apart.
    """
    differ = np.flatnonzero(wanted.ids != given.ids)
    facts: dict[str, Any] = {"tokens": len(wanted.ids), "equal": len(differ) == 0}
    if facts["equal"]:
        return facts | {"first_difference": None, "top2_gap": None, "explained": True}
    at = int(differ[0])
    second, first = np.partition(wanted.logits[at], -2)[-2:]
    gap = float(first - second)
    return facts | {
        "first_difference": at,
        "top2_gap": gap,
        "explained": gap < 2 * max_error,
    }


def _score_facts(wanted: Answers, given: Answers) -> list[dict[str, Any]]:
    pairs = list(zip(wanted.scores, given.scores, strict=True))
    if len(pairs) > 2:
        # The first is a text that every verification has; what follows was given, in groups.
        first, second = (Scores(each.scores[1:]).total for each in (wanted, given))
        pairs.append((replace(first, group=_TOGETHER), replace(second, group=_TOGETHER)))
    rows = []
    for a, b in pairs:
        assert (a.group, a.tokens) == (b.group, b.tokens)
        # A text that is known by heart loses so little that rounding is most of it.
        change = _over(b.loss - a.loss, max(a.loss, _LEAST_LOSS))
        rows.append(
            {
                "text": a.group,
                "tokens": a.tokens,
                "bits_per_byte": b.bits_per_byte,
                "checkpoint_bits_per_byte": a.bits_per_byte,
                "loss_change_percent": 100 * change,
            }
        )
    return rows


def _log_softmax(x: Doubles) -> Doubles:
    shifted = x - x.max(axis=1, keepdims=True)
    log_p: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def _nan_last(figure: float) -> float:
    """Order a figure that is not a number after every other, so that it is not overlooked."""
    return float("inf") if np.isnan(figure) else figure


def failures(checks: Sequence[Check]) -> list[str]:
    """Return each failed check in words."""
    return [
        f"{each.check} is {each.measured:.3g}, {each.kind} {each.limit:.3g} is allowed"
        for each in checks
        if not each.passed
    ]
