"""`edgetiny demo`: every stage in turn, each from folder to folder, ending in a report."""

import contextlib
import io
import lzma
import math
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgetiny import gqa, init
from edgetiny.bench import stage as bench
from edgetiny.checkpoint import ModelConfig
from edgetiny.config.base import Config
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.demo import DemoConfig
from edgetiny.config.export import ExportConfig
from edgetiny.config.model import GqaConfig, InheritConfig, InitConfig
from edgetiny.config.run import BenchConfig, EvalConfig, GenerateConfig
from edgetiny.config.tokenizer import TokenizerCompressConfig, TokenizerTrainConfig
from edgetiny.config.train import TrainConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.cost import parameters
from edgetiny.data import Shards
from edgetiny.data import build as data_build
from edgetiny.demo.embedded import EMBEDDED_PROMPT, write_embedded_text
from edgetiny.demo.evidence import (
    first_words,
    held_out_text,
    machine,
    smoothed,
    speed_row,
    training_log,
)
from edgetiny.demo.plan import FAST, SAMPLE_TEMPERATURE, Plan
from edgetiny.demo.report import Step, Story, render
from edgetiny.evaluate import stage as evaluate
from edgetiny.export import stage as export
from edgetiny.files import read_json, refuse_existing, write_json
from edgetiny.generate import stage as generate
from edgetiny.inherit import stage as inherit
from edgetiny.svg import Series
from edgetiny.text import total_bytes
from edgetiny.tokenizer import compress as tokenizer_compress
from edgetiny.tokenizer import train as tokenizer_train
from edgetiny.train import stage as train

SCHEMA_VERSION = 1
STUDENT = "student"
_TRIAL_STEPS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """The report, and what the terminal shows of it."""

    report: Path
    story: Story

    def summary(self) -> dict[str, Any]:
        """Return the steps and the speed as rows, then the verdict."""
        rows = [
            {
                "step": step.name,
                "parameters": step.parameters,
                "bytes": step.size_bytes,
                "bits_per_byte": step.bits_per_byte,
                "seconds": round(step.seconds),
            }
            for step in self.story.steps
        ]
        return {
            "steps": rows,
            "speed": list(self.story.speed),
            "xz_-9_bits_per_byte": self.story.xz_bits_per_byte,
            "beats_xz": self.story.beats_xz,
            "seconds": round(self.story.seconds),
            "report": str(self.report),
        }


def run(config: DemoConfig, reporter: Reporter = QUIET) -> DemoResult:
    """Run every stage on the embedded text, or on `config.text`, and write `report.html`.

    Raises what a stage raises; the folders of the stages before it stay.
    """
    started = time.monotonic()
    demo = _Demo(config.out, FAST if config.fast else Plan(), reporter)
    _claim(config)
    demo.prompt, text = config.prompt, config.text
    if not text:
        demo.prompt = demo.prompt or EMBEDDED_PROMPT
        path = config.out / "text.jsonl"
        text = (write_embedded_text(path, reporter, demo.plan.text_bytes),)
    base = demo.base(text)
    compact = demo.compact(base, text)
    final = demo.student(compact)
    artefact = demo.artefact(final)
    story = demo.story(artefact, config.text, started)
    report = config.out / "report.html"
    report.write_text(render(story), encoding="utf-8")
    # The student before GQA: it has as many key/value heads as --gqa-groups may ask for.
    _write_marker(config.out, STUDENT)
    if not story.beats_xz:
        reporter.say("the model does not beat xz -9 on the held-out text: it needs more training")
    return DemoResult(report=report, story=story)


def _claim(config: DemoConfig) -> None:
    refuse_existing(config.out, overwrite=config.overwrite)
    if config.text:
        # A wrong name must not cost an old demo.
        total_bytes(config.text)
    if config.out.exists():
        shutil.rmtree(config.out)
    config.out.mkdir(parents=True)
    # From the first second on, --overwrite may replace what an interrupted demo leaves.
    _write_marker(config.out, None)


def _write_marker(out: Path, student: str | None) -> None:
    write_json(out / "demo.json", {"schema_version": SCHEMA_VERSION, "export_from": student})


@dataclass(slots=True)
class _Demo:
    """The stages, and what they have found so far."""

    out: Path
    plan: Plan
    reporter: Reporter
    prompt: str = ""
    steps: list[Step] = field(default_factory=list)
    losses: list[Series] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    coverage: Series = field(init=False)
    tokenizer: dict[str, Any] = field(init=False)

    def base(self, text: Sequence[Path]) -> Path:
        """Tokenizer, shards and a model with the large vocabulary, trained."""
        plan, tokenizer, shards = self.plan, self.out / "tokenizer", self.out / "shards"
        size = plan.big_vocabulary
        self.call(
            tokenizer_train, TokenizerTrainConfig(text=tuple(text), out=tokenizer, vocab_size=size)
        )
        self.call(data_build, DataBuildConfig(text=tuple(text), tokenizer=tokenizer, out=shards))
        self.prompt = self.prompt or first_words(shards)
        fresh = self.out / "fresh"
        self.call(
            init,
            InitConfig(
                tokenizer=tokenizer,
                out=fresh,
                hidden_size=plan.width,
                num_hidden_layers=plan.depth,
                num_attention_heads=plan.heads,
                head_dim=plan.head_dim,
                max_position_embeddings=1024,
            ),
        )
        base = self.out / "base"
        with self.step("base model", "trained from random weights", base, shards):
            self.train(fresh, shards, base, plan.base_seconds)
        return base

    def call(self, stage: Any, config: Config) -> Any:
        """Run a stage, and note the command that does the same."""
        self.commands.append(config.command_line())
        return stage.run(config, self.reporter)

    def compact(self, base: Path, text: Sequence[Path]) -> Path:
        """The base with fewer pieces; its untrained loss at the same text shows what that costs."""
        compact, shards = self.out / "compact", self.out / "compact-shards"
        result: tokenizer_compress.TokenizerCompressResult = self.call(
            tokenizer_compress,
            TokenizerCompressConfig(
                source=base, text=tuple(text), out=compact, vocab_size=self.plan.small_vocabulary
            ),
        )
        points = [(point["rows"], point["coverage"]) for point in result.coverage_curve]
        self.coverage = Series("coverage", points)
        facts = result.summary()
        kept = (
            "source_rows",
            "rows",
            "coverage",
            "tokens_per_byte_before",
            "tokens_per_byte_after",
        )
        self.tokenizer = {name: facts[name] for name in kept}
        with self.step("compact tokenizer", "rare pieces and their rows dropped", compact, shards):
            self.call(data_build, DataBuildConfig(text=tuple(text), tokenizer=compact, out=shards))
        return compact

    def student(self, compact: Path) -> Path:
        """A smaller model born from the base, trained, with fewer key/value heads."""
        plan, shards = self.plan, self.out / "compact-shards"
        born, student = self.out / "student-born", self.out / STUDENT
        with self.step("student, inherited", "layers and neurons cut from the base", born, shards):
            self.call(
                inherit,
                InheritConfig(
                    source=compact,
                    data=shards,
                    out=born,
                    num_hidden_layers=plan.kept_depth,
                    hidden_size=plan.kept_width,
                    intermediate_size=_ffn_width(plan.kept_width),
                ),
            )
        with self.step("student, trained", "trained on the same text", student, shards):
            self.train(born, shards, student, plan.student_seconds)
        pooled, final = self.out / "gqa", self.out / "final"
        what = f"{plan.heads} key/value heads pooled to {plan.groups}"
        with self.step("GQA", what, pooled, shards):
            self.call(gqa, GqaConfig(source=student, groups=plan.groups, out=pooled))
        with self.step("GQA, uptrained", "trained on a little more", final, shards):
            self.train(pooled, shards, final, plan.uptrain_seconds, rate=0.3)
        return final

    def artefact(self, final: Path) -> Path:
        """The final model as ONNX int8, verified."""
        artefact, shards = self.out / "artefact", self.out / "compact-shards"
        with self.step("ONNX int8", "lowered, quantized and verified", artefact, shards):
            self.call(export, ExportConfig(source=final, out=artefact))
        return artefact

    @contextlib.contextmanager
    def step(self, name: str, what: str, folder: Path, shards: Path) -> Iterator[None]:
        """Time the block, then score and sample the model that it wrote."""
        self.reporter.say(f"- {name}: {what}")
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        scores = evaluate.run(
            EvalConfig(source=folder, data=shards, context=self.plan.sequence_length), self.reporter
        )
        reply = generate.run(
            GenerateConfig(
                source=folder,
                prompt=self.prompt,
                max_new_tokens=self.plan.sample_tokens,
                temperature=SAMPLE_TEMPERATURE,
            ),
            QUIET,
            io.StringIO(),
        )
        config = ModelConfig.from_hf(read_json(folder / "config.json"))
        weights = [*folder.glob("*.safetensors"), *folder.glob("model.onnx*")]
        self.steps.append(
            Step(
                name=name,
                what=what,
                parameters=parameters(config).total,
                size_bytes=sum(path.stat().st_size for path in weights),
                bits_per_byte=scores.total.bits_per_byte,
                seconds=seconds,
                sample=reply.text,
            )
        )

    def train(
        self, source: Path, shards: Path, out: Path, seconds: float, rate: float = 1.0
    ) -> None:
        """Train for about `seconds`: a short trial tells how many steps that is here."""
        plan = self.plan
        trial = TrainConfig(
            checkpoint=source,
            data=shards,
            out=self.out / "trial",
            steps=_TRIAL_STEPS,
            batch_size=plan.batch_size,
            sequence_length=plan.sequence_length,
            learning_rate=rate * plan.learning_rate,
            eval_every=0,
            eval_tokens=1,
        )
        train.run(trial, QUIET)
        speed = statistics.median(entry["tok_s"] for entry in training_log(trial.out))
        shutil.rmtree(trial.out)
        steps = round(seconds * speed / (plan.batch_size * plan.sequence_length))
        steps = max(_TRIAL_STEPS, steps)
        self.call(train, replace(trial, out=out, steps=steps, save_every=steps, eval_tokens=16_384))
        tokens = Shards.open(shards).train
        bits = len(tokens.tokens) / int(tokens.document_bytes.sum()) / math.log(2)
        seen = [(entry["tokens"], bits * entry["loss"]) for entry in training_log(out)]
        self.losses.append(Series(out.name, smoothed(seen)))

    def story(self, artefact: Path, given: Sequence[Path], started: float) -> Story:
        """Measure the speed and what there is to compare with, and put the report together."""
        bench_config = BenchConfig(source=artefact, new_tokens=self.plan.new_tokens)
        speed = self.call(bench, bench_config).rows
        shards = Shards.open(self.out / "shards")
        held_out = held_out_text(shards)
        return Story(
            text_files=[path.name for path in given] or ["the documentation inside this Python"],
            text_bytes=int(shards.train.document_bytes.sum()) + len(held_out),
            held_out_bytes=len(held_out),
            xz_bits_per_byte=8 * len(lzma.compress(held_out, preset=9)) / len(held_out),
            prompt=self.prompt,
            steps=self.steps,
            losses=self.losses,
            coverage=self.coverage,
            tokenizer=self.tokenizer,
            verification=read_json(artefact / "verification.json")["models"][0]["checks"],
            speed=[speed_row(row) for row in speed],
            machine=machine(speed[0]),
            commands=self.commands,
            seconds=time.monotonic() - started,
        )


def _ffn_width(width: int) -> int:
    """Return 8/3 of the width, rounded up to a multiple of 32."""
    return 32 * math.ceil(width / 12)
