"""Settings of compare and gate: two measurements, and whether one is slower than the other."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, setting
from edgetiny.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig(Config):
    stage: ClassVar[str] = "compare"

    first: Path = setting(
        help="result file of edgetiny bench; the base of each ratio", argument=True
    )
    second: Path = setting(help="result file to hold against it", argument=True)
    across_machines: bool = setting(
        False, "compare speeds of different machines too; otherwise refused"
    )
    confidence: float = setting(
        0.95, "confidence of the intervals; few repeats reach less", minimum=0.5, maximum=0.999
    )
    markdown: Path | None = setting(None, "Markdown table to write", writes="file")
    overwrite: bool = setting(False, "replace --markdown if it exists")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig(Config):
    """The defaults take about a minute on two cores and need no model."""

    stage: ClassVar[str] = "gate"

    source: Path | None = setting(
        None, "checkpoint or artefact to decode; a random 7.5M model if not given", argument=True
    )
    base: str | None = setting(
        None,
        "git revision of --head's repository, another checkout, or the JSON of an earlier gate;"
        " without it --head is measured alone, for a baseline",
    )
    head: Path = setting(Path("."), "checkout whose speed is judged, as it lies there")
    batch: tuple[int, ...] = setting(
        (1, 4), "sequences decoded together; repeat for more", minimum=1
    )
    prompt_tokens: int = setting(2, "tokens before the first new one", minimum=1)
    steps: int = setting(8, "decode steps of one sample", minimum=3)
    blocks: int = setting(6, "blocks of interleaved samples a round, two samples a side", minimum=2)
    rounds: int = setting(3, "rounds at least, each in fresh processes", minimum=2)
    rounds_at_most: int = setting(10, "rounds until a verdict, then it is inconclusive", minimum=2)
    margin: float = setting(0.05, "change of a step that matters", minimum=0.001, maximum=1.0)
    noise_factor: float = setting(
        3.0, "a change must exceed this many times the noise of base against itself", minimum=0.0
    )
    confidence: float = setting(
        0.99, "share of the bootstrap that an interval holds", minimum=0.5, maximum=0.999
    )
    growth: float = setting(
        0.005, "growth of bytes, FLOPs or instructions that still passes", minimum=0.0, maximum=1.0
    )
    threads: int = setting(1, "CPU threads of each engine", minimum=1)
    speed: bool = setting(True, "measure speed; otherwise only what is the same on every run")
    export: bool = setting(True, "export a tiny model with each side; count its bytes and nodes")
    instructions: Literal["auto", "valgrind", "perf", "none"] = setting(
        "auto", "count the instructions of a step with this; auto takes what works, or says why not"
    )
    out: Path | None = setting(None, "gate JSON to write, a baseline for later", writes="file")
    markdown: Path | None = setting(
        None, "Markdown table to write, as a comment has it", writes="file"
    )
    github: Path | None = setting(None, "JSON of github-action-benchmark to write", writes="file")
    bencher: Path | None = setting(None, "Bencher metric JSON to write", writes="file")
    overwrite: bool = setting(False, "replace what these four would write")

    def check(self) -> None:
        if not self.batch:
            raise ConfigError("batch is an empty list; give at least one --batch")
        if self.github is not None and not self.speed:
            raise ConfigError("--github writes speeds and --no-speed measures none; drop one")
        if self.rounds_at_most < self.rounds:
            raise ConfigError(
                f"--rounds-at-most {self.rounds_at_most} is below --rounds {self.rounds}"
            )
        if self.speed and 2 * self.rounds * self.blocks < 12:
            raise ConfigError(
                f"--rounds {self.rounds} of --blocks {self.blocks} give fewer than 12 samples a"
                " side; raise one of them"
            )
