"""Step times of base and head, interleaved: rounds of fresh processes, mirrored blocks in each.

Two processes of base and one of head wait side by side; only one works at a time. A block asks
base, base again, head, head, base again, base: what drifts over a block cancels, and base against
itself tells, over the very same moments, what this machine makes of no change. Rounds follow until
every row has a verdict or the budget is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetiny.bench.gate_sides import Side, Worker, workers
from edgetiny.bench.verdict import Block, Judgement, block_of, judge
from edgetiny.config.compare import GateConfig
from edgetiny.console import Reporter
from edgetiny.measure import median

_ORDER = ("base", "again", "head", "head", "again", "base")
_WARMUP_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """The blocks of one batch size by round, and the verdict over them."""

    batch: int
    rounds: list[list[Block]]
    judgement: Judgement

    @property
    def name(self) -> str:
        """The row for a table."""
        return f"decode, batch {self.batch}"

    @property
    def base_step_ms(self) -> float:
        """Median step of base, both of its processes."""
        blocks = [block for each in self.rounds for block in each]
        return median([value for block in blocks for value in (block.base, block.again)])

    @property
    def head_step_ms(self) -> float:
        """Median step of head."""
        return median([block.head for each in self.rounds for block in each])

    @property
    def n_samples(self) -> int:
        """Samples of each side: two a block."""
        return 2 * sum(len(each) for each in self.rounds)

    @property
    def head_tok_per_s(self) -> list[float]:
        """Tokens a second of head, summed over the batch, of each block."""
        return [1e3 * self.batch / block.head for each in self.rounds for block in each]

    def as_json(self) -> dict[str, Any]:
        """Return the row with its samples, a list per round."""
        found = self.judgement
        samples = {
            side: [[getattr(block, side) for block in each] for each in self.rounds]
            for side in ("base", "again", "head")
        }
        return {
            "row": self.name,
            "batch": self.batch,
            "base_step_ms": self.base_step_ms,
            "head_step_ms": self.head_step_ms,
            "ratio": found.change.ratio,
            "low": found.change.low,
            "high": found.change.high,
            "noise": found.noise,
            "threshold": found.threshold,
            "samples_a_side": self.n_samples,
            "samples_step_ms": samples,
            "verdict": found.verdict,
        }


def measure_speed(
    base: Side, head: Side, opening: Mapping[str, Any], config: GateConfig, reporter: Reporter
) -> list[SpeedRow]:
    """Return a row for each batch size; a row that has a verdict is not measured further."""
    rounds: dict[int, list[list[Block]]] = {batch: [] for batch in config.batch}
    rows: dict[int, SpeedRow] = {}
    sides = {"base": base, "again": base, "head": head}
    with reporter.task("measuring", config.rounds_at_most) as task:
        for number in range(1, config.rounds_at_most + 1):
            open_rows = [
                batch
                for batch in config.batch
                if batch not in rows or rows[batch].judgement.verdict == "inconclusive"
            ]
            if not open_rows:
                break
            with workers(sides, opening) as running:
                for batch in open_rows:
                    rounds[batch].append(_round(running, batch, config))
            if number >= config.rounds:
                for batch in open_rows:
                    rows[batch] = SpeedRow(batch, rounds[batch], _judge(rounds[batch], config))
            task.advance(
                1, ", ".join(f"{row.name}: {row.judgement.verdict}" for row in rows.values())
            )
    return [rows[batch] for batch in config.batch]


def _round(running: Mapping[str, Worker], batch: int, config: GateConfig) -> list[Block]:
    def sample(side: str) -> list[int]:
        found: list[int] = running[side].ask(
            "decode", batch=batch, prompt_tokens=config.prompt_tokens, steps=config.steps
        )["step_ns"]
        return found

    for side in list(running) * _WARMUP_SAMPLES:
        sample(side)
    return [block_of([(side, sample(side)) for side in _ORDER]) for _ in range(config.blocks)]


def _judge(rounds: Sequence[Sequence[Block]], config: GateConfig) -> Judgement:
    return judge(
        rounds,
        margin=config.margin,
        noise_factor=config.noise_factor,
        confidence=config.confidence,
    )
