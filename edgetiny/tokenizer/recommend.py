"""Which size of vocabulary to choose, and why: the rule of the paper's section 2.1, and growth."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgetiny.tokenizer.shape import Shape
from edgetiny.tokenizer.trial import Trial, Trials

MAX_GROWTH = 0.05
_COVERAGE = 0.90
_SHARE = 0.20
# Fewer tokens than this for each piece say little of which pieces are rare.
_TOKENS_A_PIECE = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """The size to choose, or None; what speaks for it, or what stands against every one."""

    size: int | None
    reasons: list[str]
    advice: list[str]
    """What to do; empty where there is a size and nothing to beware of."""

    def summary(self) -> dict[str, Any]:
        """Return the fields, for `console.show`."""
        return {
            "recommended_vocab_size": self.size,
            "reasons": self.reasons,
            "advice": self.advice,
        }


def recommend(trials: Trials, shape: Shape, max_growth: float = MAX_GROWTH) -> Recommendation:
    """Return the smallest size that covers 90% of the tokens and grows them little enough.

    It is recommended if embedding and head then are less than 20% of the parameters. Growth is that
    of the group of text that grows most. Raises ConfigError if no size is possible at all.
    """
    few = _too_little_text(trials)

    def holds(trial: Trial) -> bool:
        return trial.coverage >= _COVERAGE and trial.worst_growth <= max_growth

    size = _first(trials, holds)
    if size is None:
        last = trials.at(trials.sizes[-1])
        return Recommendation(
            size=None,
            reasons=[f"no size holds: at the most, {last.pieces:,}, {_measures(last, max_growth)}"],
            advice=["keep the tokenizer as it is, or allow more growth (--max-growth)", *few],
        )
    trial, share = trials.at(size), shape.share(size)
    taken = f"embedding and head are {share:.1%} of {shape.name}"
    reasons = [f"{size:,} is the smallest size that holds: {_measures(trial, max_growth)}"]
    if share < _SHARE:
        return Recommendation(
            size=size, reasons=[*reasons, f"{taken}, under {_SHARE:.0%}"], advice=few
        )
    return Recommendation(
        size=None,
        reasons=[*reasons, f"but {taken}, not under {_SHARE:.0%}"],
        advice=[*_ways_out(trials, shape, size), *few],
    )


def _first(trials: Trials, holds: Callable[[Trial], bool]) -> int | None:
    """Return the smallest size for which a condition holds that larger sizes meet as well."""
    sizes = trials.sizes
    if not holds(trials.at(sizes[-1])):
        return None
    low, high = 0, len(sizes) - 1
    # Within a hundredth the sizes differ by less than their texts do.
    while high - low > high // 100:
        middle = (low + high) // 2
        if holds(trials.at(sizes[middle])):
            high = middle
        else:
            low = middle + 1
    return sizes[high]


def _measures(trial: Trial, max_growth: float) -> str:
    worst = max(trial.growth, key=lambda group: trial.growth[group].share)
    return (
        f"coverage {trial.coverage:.1%} (90% wanted), {trial.worst_growth:.1%} more tokens on"
        f" {worst} (at most {max_growth:.1%})"
    )


def _ways_out(trials: Trials, shape: Shape, size: int) -> list[str]:
    """Return what would bring embedding and head under the bound."""
    ways = []
    tied = shape.share(size, tied=True)
    if not shape.tied:
        enough = "" if tied < _SHARE else ", still not under 20%"
        ways.append(f"tie the embeddings: one table is {tied:.1%} at {size:,}{enough}")
    tables = size * shape.hidden_size * (1 if shape.tied else 2)
    needed = round(tables / _SHARE)
    ways.append(f"take a larger model: 20% at {size:,} needs {needed / 1e6:,.1f}M parameters")
    small = [rows for rows in trials.sizes if shape.share(rows) < _SHARE]
    if small:
        trial = trials.at(small[-1])
        ways.append(
            f"accept more growth: {trial.pieces:,} pieces are under 20%, with coverage"
            f" {trial.coverage:.1%} and {trial.worst_growth:.1%} more tokens"
        )
    return ways


def _too_little_text(trials: Trials) -> list[str]:
    n_tokens = int(trials.counts.sum())
    wanted = _TOKENS_A_PIECE * len(trials.counts)
    if n_tokens >= wanted:
        return []
    return [f"give more text: {n_tokens:,} tokens say little of {len(trials.counts):,} pieces"]
