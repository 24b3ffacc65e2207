"""Settings of the stages that run a model: generate, eval, bench."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, setting
from edgetiny.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig(Config):
    stage: ClassVar[str] = "generate"

    source: Path = setting(help="checkpoint or artefact folder", argument=True)
    prompt: str = setting("", "text to continue; - reads it from standard input")
    max_new_tokens: int = setting(128, "most tokens to add", minimum=1)
    temperature: float = setting(0.0, "0 takes the likeliest token", minimum=0.0)
    top_p: float = setting(
        1.0, "sample among the likeliest tokens of this total", minimum=0.0, maximum=1.0
    )
    seed: int = setting(0, "seed of the sampling")
    stop: tuple[str, ...] = setting((), "text that ends the reply; repeat for more")
    threads: int = setting(0, "CPU threads; 0 means one per core", minimum=0)

    def check(self) -> None:
        if "" in self.stop:
            raise ConfigError("--stop must not be empty: every reply would end at once")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig(Config):
    stage: ClassVar[str] = "eval"

    source: Path = setting(help="checkpoint or artefact folder", argument=True)
    data: Path | None = setting(None, "token shards; their held-out part is scored")
    text: tuple[Path, ...] = setting((), "text file, scored whole; repeat for more")
    tokens: int = setting(0, "most tokens to score per group; 0 means all", minimum=0)
    context: int | None = setting(
        None, "tokens of a window; 512, or the model's longest if that is less", minimum=2
    )
    batch_size: int = setting(8, "windows at a time", minimum=1)
    threads: int = setting(0, "CPU threads; 0 means one per core", minimum=0)

    def check(self) -> None:
        if (self.data is None) == (not self.text):
            raise ConfigError("give either --data or --text: what is to be scored")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig(Config):
    """Defaults are the paper's protocol (section 2.2): 510 new tokens from 2, batch 20."""

    stage: ClassVar[str] = "bench"

    source: Path | None = setting(
        None, "checkpoint or artefact folder; random weights if not given", argument=True
    )
    device: Literal["cpu", "cuda", "android"] = setting("cpu", "where to run")
    batch: tuple[int, ...] = setting(
        (20, 1), "sequences decoded together; repeat for more", minimum=1
    )
    prompt_tokens: int = setting(2, "tokens before the first new one", minimum=1)
    new_tokens: int = setting(510, "tokens to decode", minimum=2)
    repeats: int = setting(3, "measured runs, after warm-up", minimum=1)
    precision: Literal["fp32", "bf16"] | None = setting(
        None, "weights of a checkpoint; as stored if not given (random ones: the faster type here)"
    )
    threads: int = setting(0, "CPU threads; 0 means one per core", minimum=0)
    out: Path | None = setting(None, "result JSON to write")
    overwrite: bool = setting(False, "replace --out if it exists")

    def check(self) -> None:
        if not self.batch:
            raise ConfigError("batch is an empty list; give at least one --batch")
