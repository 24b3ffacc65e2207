"""Settings of the stages that run a model: generate, eval, bench."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from edgetiny.config.base import Config, setting
from edgetiny.errors import ConfigError

RuntimeName = Literal["eager", "graph", "onnx", "executorch"]
BenchPrecision = Literal["fp32", "bf16", "fp16", "int8"]


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
    seed: int = setting(0, "seed of the sampling", minimum=0)
    stop: tuple[str, ...] = setting((), "text that ends the reply; repeat for more")
    runtime: RuntimeName | None = setting(
        None, "engine (default: of an artefact its format's, else eager; graph is compiled first)"
    )
    format: Literal["onnx", "executorch"] | None = setting(
        None, "file to run, of an artefact that holds several"
    )
    device: Literal["cpu", "cuda"] = setting("cpu", "where to run a checkpoint")
    threads: int = setting(0, "CPU threads; 0 means one per core", minimum=0)

    def check(self) -> None:
        if self.format is not None and self.runtime is not None:
            raise ConfigError("--format names the runtime of an artefact; leave --runtime out")
        if "" in self.stop:
            raise ConfigError("--stop must not be empty: every reply would end at once")
        if not self.temperature and (self.seed or self.top_p < 1):
            raise ConfigError("--top-p and --seed are for sampling; add --temperature, such as 0.8")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig(Config):
    stage: ClassVar[str] = "eval"

    source: Path = setting(help="checkpoint or artefact folder", argument=True)
    data: Path | None = setting(None, "token shards; their held-out part is scored")
    text: tuple[Path, ...] = setting((), "text file, scored whole; repeat for more")
    tokens: int = setting(0, "most tokens to score per group; 0 means all", minimum=0)
    context: int | None = setting(
        None,
        "tokens of a window; up to 512 of those the model was trained on, if not given",
        minimum=2,
    )
    batch_size: int = setting(8, "windows at a time", minimum=1)
    runtime: RuntimeName | None = setting(
        None, "engine (default: of an artefact its format's, else eager)"
    )
    device: Literal["cpu", "cuda"] = setting("cpu", "where to run a checkpoint")
    threads: int = setting(0, "CPU threads; 0 means one per core", minimum=0)

    def check(self) -> None:
        if (self.data is None) == (not self.text):
            raise ConfigError("give either --data or --text: what is to be scored")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig(Config):
    """Without flags the paper's protocol (section 2.2): 510 new tokens from 2, batch 20, and 1.

    A flag that is not given is the suite's, if there is one.
    """

    stage: ClassVar[str] = "bench"

    source: Path | None = setting(
        None,
        "checkpoint, artefact, or a design: a TOML file or the name of a preset; random weights if"
        " not given",
        argument=True,
    )
    suite: Path | None = setting(None, "TOML file with designs and a protocol to measure")
    device: Literal["cpu", "cuda", "android"] = setting("cpu", "where to run")
    runtime: tuple[RuntimeName, ...] = setting(
        (),
        "engine; repeat for more (default: of an artefact its first format that runs here, else"
        " eager)",
    )
    precision: tuple[BenchPrecision, ...] = setting(
        (),
        "weights of a checkpoint or design; repeat for more (default: as stored; random ones: the"
        " faster type here)",
    )
    batch: tuple[int, ...] = setting(
        (), "sequences decoded together; repeat for more (default: 20 and 1)", minimum=1
    )
    context: tuple[int, ...] = setting(
        (),
        "tokens that stand in the cache before the clock starts; repeat for more (default: 0)",
        minimum=0,
    )
    prompt_tokens: int | None = setting(
        None, "tokens before the first new one (default: 2)", minimum=1
    )
    new_tokens: int | None = setting(None, "tokens to decode (default: 510)", minimum=2)
    repeats: int | None = setting(None, "measured runs, after warm-up (default: 3)", minimum=1)
    sustained_minutes: float | None = setting(
        None, "then decode for so long, and report the trend (default: 0)", minimum=0.0
    )
    threads: int = setting(0, "CPU threads; 0 means one per core", minimum=0)
    out: Path | None = setting(
        None, "result JSON to write; kept up to date after every row", writes="file"
    )
    csv: Path | None = setting(None, "the rows as CSV, one line each", writes="file")
    markdown: Path | None = setting(None, "the rows as a Markdown table", writes="file")
    report: Path | None = setting(None, "page of charts and tables (HTML)", writes="file")
    resume: bool = setting(False, "keep the rows that --out has, and measure what is missing")
    overwrite: bool = setting(False, "replace the files to write if they exist")

    def check(self) -> None:
        if self.source is not None and self.suite is not None:
            raise ConfigError("give a model or --suite, not both: a suite has its own designs")
        if self.resume and self.out is None:
            raise ConfigError("--resume needs --out: the file whose rows are kept")
        if self.resume and self.overwrite:
            raise ConfigError("--resume keeps the rows of --out, --overwrite drops them; give one")
