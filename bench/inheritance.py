"""What a student inherits: held-out bits per byte at step 0 and after training, by way of cutting.

    python bench/inheritance.py --teacher T --data shards --out DIR --write docs/results/inheritance

Students of one shape: drawn at random, cut at random, and cut by each method; each trained on the
same number of tokens, of which those that learned masks read are charged to their students. The
learning rate is swept once, on the student drawn at random, and shared by all. What is done stays
in `--out`: the same call again goes on from there. `--step0` stops before any training;
`--processes N` makes and trains N students at a time.
"""

import argparse
import itertools
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.model import InheritConfig, InitConfig
from edgetiny.config.train import TrainConfig
from edgetiny.console import Reporter
from edgetiny.cost import parameters
from edgetiny.data import Shards
from edgetiny.device import cpu_model
from edgetiny.evaluate import bits_per_byte, documents_of_split
from edgetiny.evaluate.window import trained_length
from edgetiny.files import write_json
from edgetiny.inherit.stage import run as inherit
from edgetiny.init import run as init
from edgetiny.model import load_model
from edgetiny.page import svg_file
from edgetiny.svg import Series, line_chart
from edgetiny.train.stage import run as train

Method = Literal["l1", "l2", "taylor", "activation", "learned", "random"]
RATES = (1e-3, 2e-3, 4e-3)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to begin. method: of neurons; None draws all weights. joint: layers learned too."""

    name: str
    method: Method | None
    joint: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether its start differs by seed: else only the order of training does."""
        return self.method in (None, "random", "learned")


ARMS = (
    Arm("random init", None),
    Arm("random cut", "random"),
    Arm("L1", "l1"),
    Arm("L2", "l2"),
    Arm("Taylor", "taylor"),
    Arm("activation", "activation"),
    Arm("learned", "learned", joint=True),
    Arm("learned, layers first", "learned"),
)
CONTROLS = ("random init", "random cut", "L1")
BETTER = ("L2", "Taylor", "activation", "learned")


class Experiment:
    """The students of one teacher; every figure is kept in `out` as it comes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.reporter = Reporter()
        self.teacher = Checkpoint.open(options.teacher)
        self.shards = Shards.open(options.data)
        self.length = min(512, trained_length(self.teacher))
        has_start = self.shards.document_start is not None
        documents = documents_of_split(self.shards.valid, has_start, options.eval_tokens)
        self.documents = list(documents)
        identity = {"teacher": self.teacher.sha256, "data": self.shards.sha256} | {
            name: value
            for name, value in vars(options).items()
            if name
            not in ("teacher", "data", "out", "write", "step0", "seeds", "threads", "processes")
        }
        if self.figure("identity", lambda: identity) != identity:
            raise SystemExit(f"{options.out} holds figures of other settings; choose another --out")

    def figure(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a figure, computed if it is not kept yet."""
        path = self.options.out / "figures" / f"{name}.json"
        if not path.exists():
            value = compute()
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"value": value})
        return json.loads(path.read_text(encoding="utf-8"))["value"]

    def each(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return what a method gives for each tuple of arguments, `--processes` at a time."""
        with ProcessPoolExecutor(self.options.processes, get_context("spawn")) as pool:
            futures = [pool.submit(_call, self.options, method, call) for call in calls]
            return [future.result() for future in futures]

    def bits(self, checkpoint: Checkpoint) -> float:
        """Return held-out bits per byte."""
        model = load_model(checkpoint, torch.float32)
        return bits_per_byte(model, self.documents, context=self.length).total.bits_per_byte

    def start(self, arm: Arm, seed: int) -> Checkpoint:
        """Return the student before training, made if it is not there yet."""
        seed = seed if arm.is_drawn else 0
        out = self.options.out / f"{arm.name.replace(', ', '-').replace(' ', '-')}-{seed}"
        if out.exists():
            return Checkpoint.open(out)
        shape = {
            "hidden_size": self.options.hidden_size,
            "num_hidden_layers": self.options.layers,
            "num_attention_heads": self.options.heads,
            "intermediate_size": self.options.intermediate_size,
        }
        if arm.method is None:
            teacher = self.teacher.config
            if teacher.group_size > 1 or teacher.bias != "none" or not teacher.is_plain:
                raise SystemExit("a student drawn at random has LLaMA's block without groups only")
            return init(
                InitConfig(
                    tokenizer=self.teacher.path,
                    out=out,
                    head_dim=teacher.head_dim,
                    max_position_embeddings=teacher.max_position_embeddings,
                    rope_theta=teacher.rope_theta,
                    tie_word_embeddings=teacher.tie_word_embeddings,
                    seed=seed,
                    **shape,
                )
            )
        extra: dict[str, Any] = {}
        if arm.method == "learned":
            extra = {"mask_steps": self.options.mask_steps, "resume": True, "seed": seed}
        elif arm.method == "random":
            extra = {"seed": seed}
        return inherit(
            InheritConfig(
                source=self.teacher.path,
                data=self.shards.path,
                out=out,
                method=arm.method,
                layers_method="learned" if arm.joint else "greedy",
                calibration_tokens=self.options.calibration_tokens,
                **shape,
                **extra,
            ),
            self.reporter,
        )

    def step0(self, arm: Arm, seed: int) -> float:
        """Return held-out bits per byte before any training."""
        name = f"step0 {arm.name} {seed if arm.is_drawn else 0}"
        return float(self.figure(name, lambda: self.bits(self.start(arm, seed))))

    def curve(self, arm: Arm, seed: int, rate: float) -> list[list[float]]:
        """Return (tokens, bits per byte) along training, mask tokens charged at the front."""
        start = self.start(arm, seed)
        charged = int(start.lineage["metrics"].get("mask_tokens", 0)) if arm.method else 0
        per_step = self.options.batch_size * self.length
        steps = (self.options.tokens - charged) // per_step
        if steps < 1:
            raise SystemExit(f"{arm.name}: its masks read {charged:,} tokens, all there are")
        out = self.options.out / f"{start.path.name}-seed{seed}-{rate:g}"

        def trained() -> list[list[float]]:
            train(
                TrainConfig(
                    checkpoint=start.path,
                    data=self.shards.path,
                    out=out,
                    steps=steps,
                    batch_size=self.options.batch_size,
                    sequence_length=self.length,
                    learning_rate=rate,
                    threads=torch.get_num_threads(),
                    precision=self.options.precision,
                    seed=1000 + seed,
                    eval_every=max(1, steps // 10),
                    # train shares these among the groups; step 0 takes so many of each.
                    eval_tokens=self.options.eval_tokens * len(self.shards.valid.groups),
                    save_every=200,
                    resume=out.exists(),
                ),
                self.reporter,
            )
            log = (out / "log.jsonl").read_text(encoding="utf-8")
            rows = [json.loads(line) for line in log.splitlines()]
            points = [
                [charged + row["step"] * per_step, row["bits_per_byte"]["all"]]
                for row in rows
                if "valid_loss" in row
            ]
            return [[charged, self.step0(arm, seed)], *points]

        found: list[list[float]] = self.figure(f"curve {out.name}", trained)
        return found

    def rate(self) -> float:
        """Return the learning rate that serves the student drawn at random best."""
        curves = self.each("curve", [(ARMS[0], 0, rate) for rate in RATES])
        ends = {rate: curve[-1][1] for rate, curve in zip(RATES, curves, strict=True)}
        return min(ends, key=ends.__getitem__)


def _call(options: argparse.Namespace, method: str, arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(options.threads)
    return getattr(Experiment(options), method)(*arguments)


def tokens_to_reach(curve: list[list[float]], bits: float) -> float | None:
    """Return after how many tokens a curve first reaches a figure, between points by a line."""
    if curve[0][1] <= bits:
        return curve[0][0]
    for (n0, b0), (n1, b1) in itertools.pairwise(curve):
        if b1 <= bits:
            return n0 + (n1 - n0) * (b0 - bits) / (b0 - b1)
    return None


def interval(values: list[float]) -> str:
    """Return a mean with its 95% interval by Student's t, or the value alone."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.4f} +- {half:.4f}"


def step0_lines(rows: dict[str, list[float]], teacher: float) -> list[str]:
    """Return the table before training, and its bar."""
    means = {name: statistics.mean(values) for name, values in rows.items()}
    lines = ["| start | bits per byte at step 0 | starts |", "|---|---|---|"]
    lines += [f"| teacher | {teacher:.4f} | |"]
    lines += [f"| {name} | {interval(values)} | {len(values)} |" for name, values in rows.items()]
    lines += [""]
    for name in BETTER:
        lost = [each for each in CONTROLS if max(rows[name]) >= min(rows[each])]
        verdict = f"MISSED against {', '.join(lost)}" if lost else "met"
        lines.append(
            f"- at step 0 every start of {name} beats every one of {', '.join(CONTROLS)}:"
            f" {verdict} ({means[name]:.4f})"
        )
    return lines


def training_lines(curves: dict[str, list[list[list[float]]]], rate: float) -> list[str]:
    """Return the table after training, and its bar."""
    finals = {name: [curve[-1][1] for curve in each] for name, each in curves.items()}
    goals, n_tokens = finals["random init"], curves["random init"][0][-1][0]
    lines = [
        f"Learning rate {rate:g}. Tokens to reach the final figure of random init at the same seed,"
        f" as a share of its {n_tokens:,.0f}:",
        "",
        "| start | final bits per byte | share of tokens, by seed |",
        "|---|---|---|",
    ]
    shares: dict[str, list[float]] = {}
    for name, each in curves.items():
        reached = [tokens_to_reach(curve, goal) for curve, goal in zip(each, goals, strict=True)]
        shares[name] = [float("inf") if n is None else n / n_tokens for n in reached]
        shown = ", ".join("never" if n is None else f"{n / n_tokens:.0%}" for n in reached)
        lines.append(f"| {name} | {interval(finals[name])} | {shown} |")
    best = min(curves, key=lambda name: statistics.mean(shares[name]))
    verdict = "met" if max(shares[best]) <= 0.5 else "MISSED"
    worst = max(shares[best])
    lines += [
        "",
        f"- {best} reaches it in at most half the tokens: {verdict} ({worst:.0%} at most)",
    ]
    return lines


def main() -> None:
    """Measure what is not kept yet, and write what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="students, and figures so far")
    parser.add_argument("--write", type=Path, help="results, without suffix")
    parser.add_argument("--step0", action="store_true", help="stop before any training")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--intermediate-size", type=int, default=352)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="masks and training together")
    parser.add_argument("--mask-steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--calibration-tokens", type=int, default=16_384)
    parser.add_argument("--eval-tokens", type=int, default=32_768)
    parser.add_argument("--seeds", type=int, default=3, help="more may follow with the same --out")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    one = Experiment(options)
    teacher = one.figure("teacher", lambda: one.bits(one.teacher))
    seeds = range(options.seeds)
    starts = [(arm, seed) for arm in ARMS for seed in (seeds if arm.is_drawn else seeds[:1])]
    step0: dict[str, list[float]] = {arm.name: [] for arm in ARMS}
    for (arm, _), bits in zip(starts, one.each("step0", starts), strict=True):
        step0[arm.name].append(bits)
    document: dict[str, Any] = {"facts": facts(one), "teacher": teacher, "step0": step0}
    lines = ["# What a student inherits", "", "Written by `bench/inheritance.py`.", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in document["facts"].items()]
    lines += ["", "## Before training", "", *step0_lines(step0, teacher), "", "## Training", ""]
    if options.step0:
        lines += ["Not run yet: the table above is all there is."]
    else:
        rate = one.rate()
        # Chance is the control of step 0 only: its students are not trained.
        trained = [arm for arm in ARMS if arm.method != "random"]
        found = one.each("curve", [(arm, seed, rate) for seed in seeds for arm in trained])
        curves = {arm.name: found[i :: len(trained)] for i, arm in enumerate(trained)}
        document |= {"learning_rate": rate, "curves": curves}
        lines += training_lines(curves, rate)
        if options.write is not None:
            series = [
                Series(name, [(n, bits) for n, bits in each[0]]) for name, each in curves.items()
            ]
            options.write.with_suffix(".svg").write_text(
                svg_file(line_chart(series, "tokens", "bits per byte")), encoding="utf-8"
            )
            lines += ["", f"![bits per byte along training]({options.write.name}.svg)"]
    text = "\n".join(lines) + "\n"
    one.reporter.say(text)
    if options.write is not None:
        options.write.with_suffix(".md").write_text(text, encoding="utf-8")
        write_json(options.write.with_suffix(".json"), document)


def facts(one: Experiment) -> dict[str, Any]:
    """Return what the figures depend on."""
    student = one.start(ARMS[0], 0)
    return {
        "teacher": one.teacher.summary()["shape"],
        "teacher_parameters": parameters(one.teacher.config).total,
        "student": student.summary()["shape"],
        "student_parameters": parameters(student.config).total,
        "tokens": one.options.tokens,
        "mask_tokens_of_those": one.options.mask_steps * 8 * one.length,
        "calibration_tokens": one.options.calibration_tokens,
        "held_out_tokens_per_group": one.options.eval_tokens,
        "machine": f"{cpu_model()}, {one.options.threads} thread a process,"
        f" {one.options.precision}, torch {torch.__version__}, Python {platform.python_version()}",
    }


if __name__ == "__main__":
    main()
