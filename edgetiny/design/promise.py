"""Backwards from a promise: the best shape inside a big model that keeps every limit.

All costs are linear in the depth, so each combination of vocabulary, width, key/value heads and
precision is weighed at two depths and solved for the rest.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.design import DesignConfig
from edgetiny.cost import Precision, StepCost, parameters
from edgetiny.design.candidate import DEFAULT_PRECISIONS, Candidate, Use
from edgetiny.design.family import DEFAULT_MAX_PEHF, ffn_width, target_depth
from edgetiny.errors import ConfigError

# Multiples of 64, to which compression rounds; below 4,800 text grows by a third and more.
_VOCABULARIES = (96_000, 72_000, 48_000, 32_000, 24_000, 16_000, 12_800, 8_000, 6_400, 4_800)
# What rounding costs as a share of the parameters: the bars of quantization (0.5% and 3% of the
# bits per byte) through Kaplan et al. 2020, where the loss falls with the 0.076th power of them.
WORTH: dict[Precision, float] = {"fp32": 1.0, "fp16": 1.0, "int8": 0.94, "int4": 0.68}
# A larger vocabulary may cost so much of the body; embedding and head are held under 20% anyway.
_VOCABULARY_COST = 0.2
# Designs this near to the best count as equal, and depth and heads decide.
_EQUAL = 0.05
_LEAST_WIDTH_PER_LAYER = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What has to hold; None holds always."""

    min_tok_s: float | None = None
    max_mb: float | None = None
    max_ram_mb: float | None = None
    max_pehf: float | None = DEFAULT_MAX_PEHF

    @classmethod
    def of_settings(cls, config: DesignConfig) -> "Limits":
        """Return the promises of a command line."""
        return cls(
            min_tok_s=config.min_tok_s,
            max_mb=config.max_mb,
            max_ram_mb=config.max_ram_mb,
            max_pehf=DEFAULT_MAX_PEHF if config.max_pehf is None else config.max_pehf,
        )

    def broken(self, candidate: Candidate) -> list[str]:
        """Return what a candidate does not keep, in a few words each."""
        found = []
        speed = candidate.tokens_per_s
        if self.min_tok_s is not None and speed is not None and speed < self.min_tok_s:
            found.append(f"{speed:.3g} tok/s")
        if self.max_mb is not None and candidate.file_bytes > 1e6 * self.max_mb:
            found.append(f"{candidate.file_bytes / 1e6:.4g} MB")
        if self.max_ram_mb is not None and candidate.ram_bytes > 1e6 * self.max_ram_mb:
            found.append(f"{candidate.ram_bytes / 1e6:.4g} MB of RAM")
        return found


class Line:
    """One combination at any depth."""

    def __init__(self, shallow: ModelConfig, precision: Precision, use: Use) -> None:
        self.shape, self.precision, self.use = shallow, precision, use
        one, two = (
            Candidate(
                config=replace(shallow, num_hidden_layers=depth), precision=precision, use=use
            )
            for depth in (1, 2)
        )
        counts = parameters(one.config)
        self.tables = counts.embedding + counts.head
        self.layer = two.n_parameters - one.n_parameters
        self._rest = one.n_parameters - self.tables - self.layer
        self._values = [_values(one), _values(two)]

    def at(self, depth: int) -> Candidate:
        """Return the whole candidate of a depth."""
        shape = replace(self.shape, num_hidden_layers=depth)
        return Candidate(config=shape, precision=self.precision, use=self.use)

    def body(self, depth: int) -> int:
        """Return the parameters besides embedding and head."""
        return self._rest + depth * self.layer

    def score(self, depth: int) -> float:
        """Return what the design is worth: its body, less what rounding costs."""
        return WORTH[self.precision] * self.body(depth)

    def value(self, limit: str, depth: int) -> float:
        """Return what a limit is about, in its unit."""
        one, two = self._values
        files, ram, read, cache, flops = (
            first + (depth - 1) * (second - first) for first, second in zip(one, two, strict=True)
        )
        if limit == "max_mb":
            return files / 1e6
        if limit == "max_ram_mb":
            return ram / 1e6
        if limit == "max_pehf":
            return self.tables / (self.tables + self.body(depth))
        step = StepCost(
            batch=self.use.batch,
            context=self.use.context,
            weight_bytes=read,
            kv_bytes=cache,
            flops=flops,
        )
        n_heads = self.shape.num_attention_heads
        return self.use.tokens_per_s(step, self.precision, depth, n_heads)

    def depths(self, limits: Limits, deepest: int) -> tuple[int, int]:
        """Return the least and the most layers that keep the limits; least > most if none do."""
        deepest = min(deepest, max(1, self.shape.hidden_size // _LEAST_WIDTH_PER_LAYER))
        least = 1
        if limits.max_pehf is not None:
            while least <= deepest and self.value("max_pehf", least) > limits.max_pehf:
                least += 1
        most = deepest
        while most >= least and not self._keeps(limits, most):
            most -= 1
        return least, most

    def _keeps(self, limits: Limits, depth: int) -> bool:
        for name in ("max_mb", "max_ram_mb"):
            bound = getattr(limits, name)
            if bound is not None and self.value(name, depth) > bound:
                return False
        bound = limits.min_tok_s
        return bound is None or self.value("min_tok_s", depth) >= bound


def _values(candidate: Candidate) -> tuple[float, ...]:
    step = candidate.step
    return (
        candidate.file_bytes,
        candidate.ram_bytes,
        step.weight_bytes,
        step.kv_bytes,
        step.flops,
    )


def best_design(
    source: ModelConfig,
    limits: Limits,
    use: Use,
    precisions: Sequence[Precision],
    vocab: int | None,
) -> list[Candidate]:
    """Return the best design that can be cut out of `source`, then the best of other precisions.

    The largest vocabulary whose best design is worth at least 80% of the best at any; there, among
    the designs within 5% of the best, the depth nearest to the recommended one and the most
    key/value heads. Raises ConfigError in one line that says which limit binds.
    """
    if vocab is not None and vocab > source.vocab_size:
        raise ConfigError(
            f"--vocab {vocab} is more than the {source.vocab_size} rows that the source has"
        )
    lines = [
        Line(shape, precision, use)
        for shape in _shapes(source, vocab)
        for precision in precisions or DEFAULT_PRECISIONS
    ]
    deepest = source.num_hidden_layers
    found = [
        (line, most)
        for line in lines
        for least, most in [line.depths(limits, deepest)]
        if least <= most
    ]
    if not found:
        raise ConfigError(_what_binds(lines, limits, deepest))
    overall = max(line.score(depth) for line, depth in found)
    floor = (1 - _VOCABULARY_COST) * overall
    rows = max(line.shape.vocab_size for line, depth in found if line.score(depth) >= floor)
    there = [(line, depth) for line, depth in found if line.shape.vocab_size == rows]
    best = _preferred(there)
    others = [
        _preferred([pair for pair in there if pair[0].precision == precision])
        for precision in dict.fromkeys(line.precision for line, _ in there)
        if precision != best[0].precision
    ]
    return [line.at(depth) for line, depth in (best, *others)]


def _preferred(found: Sequence[tuple[Line, int]]) -> tuple[Line, int]:
    most = max(line.score(depth) for line, depth in found)

    def order(pair: tuple[Line, int]) -> tuple[float, int, float]:
        line, depth = pair
        total = line.tables + line.body(depth)
        miss = abs(math.log(depth / target_depth(total)))
        return round(miss, 2), line.shape.group_size, -line.score(depth)

    return min((pair for pair in found if pair[0].score(pair[1]) >= (1 - _EQUAL) * most), key=order)


def _shapes(source: ModelConfig, vocab: int | None) -> Iterator[ModelConfig]:
    """Yield every shape of one layer that removing from the source can reach."""
    smaller = [rows for rows in _VOCABULARIES if rows < source.vocab_size]
    heads_per_width = source.num_attention_heads / source.hidden_size
    for rows in [vocab] if vocab is not None else [source.vocab_size, *smaller]:
        for width in range(source.head_dim, source.hidden_size + 1, source.head_dim):
            n_heads = round(width * heads_per_width)
            for more in (1, 2, 4, 8):
                group_size = source.group_size * more
                if not n_heads or n_heads % group_size:
                    continue
                yield replace(
                    source,
                    vocab_size=rows,
                    hidden_size=width,
                    intermediate_size=min(ffn_width(width), source.intermediate_size),
                    num_hidden_layers=1,
                    num_attention_heads=n_heads,
                    num_key_value_heads=n_heads // group_size,
                )


_NAMES = {
    "min_tok_s": ("--min-tok-s", "the fastest has", "tok/s"),
    "max_mb": ("--max-mb", "the smallest has", "MB"),
    "max_ram_mb": ("--max-ram-mb", "the smallest needs", "MB"),
    "max_pehf": ("--max-pehf", "the least is", "of embedding and head"),
}


def _what_binds(lines: Sequence[Line], limits: Limits, deepest: int) -> str:
    """Return which limit has to give way, and how far, if all others are kept."""
    given = [spec.name for spec in fields(limits) if getattr(limits, spec.name) is not None]
    alone, together = [], []
    for name in given:
        reach = _reach(lines, name, replace(limits, **{name: None}), deepest)
        if reach is not None:
            together.append(_bound(name, limits, reach))
        without = Limits(min_tok_s=None, max_mb=None, max_ram_mb=None, max_pehf=None)
        reach = _reach(lines, name, without, deepest)
        if reach is not None and not _holds(name, limits, reach):
            alone.append(_bound(name, limits, reach))
    if alone and not together:
        return f"no design keeps this promise, whatever else gives way: {'; '.join(alone)}"
    if together:
        return f"no design keeps this promise; with the rest kept, {'; or '.join(together)}"
    return (
        "no design keeps this promise, and no single limit is to blame:"
        f" {', '.join(_NAMES[name][0] for name in given)} have to give way together"
    )


def _reach(lines: Sequence[Line], name: str, others: Limits, deepest: int) -> float | None:
    """Return the best that a limit's figure can come to where the other limits hold."""
    values = []
    for line in lines:
        least, most = line.depths(others, deepest)
        if least <= most:
            values.append(line.value(name, most if name == "max_pehf" else least))
    if not values:
        return None
    return max(values) if name == "min_tok_s" else min(values)


def _holds(name: str, limits: Limits, value: float) -> bool:
    bound: float = getattr(limits, name)
    return value >= bound if name == "min_tok_s" else value <= bound


def _bound(name: str, limits: Limits, reach: float) -> str:
    flag, words, unit = _NAMES[name]
    return f"{flag} {getattr(limits, name):g} binds: {words} {reach:.3g} {unit}"
