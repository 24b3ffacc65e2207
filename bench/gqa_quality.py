"""What fewer key/value heads cost in bits per byte, by way of merging, and after uptraining.

    python bench/gqa_quality.py --teacher T0 --teacher T1 --teacher T2 --data shards --out DIR \
        --write docs/results/gqa

Each teacher is a checkpoint of `edgetiny train` with 8 key/value heads; they should differ in
their seeds alone. Held-out bits per byte with 4 and 2 heads, grouped and pooled each way; then
the teacher and two of its conversions to 4 heads are trained on 5% of the tokens that the teacher
saw. `--write` names the results without suffix: `.md` for people and `.json`, with all rows.
What is done stays in `--out`: the same call again goes on from there.
"""

import argparse
import json
import multiprocessing
import platform
import shutil
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.model import GqaConfig
from edgetiny.config.train import TrainConfig
from edgetiny.console import Reporter
from edgetiny.cost import parameters
from edgetiny.data import Shards
from edgetiny.data.windows import spread_windows
from edgetiny.device import cpu_model
from edgetiny.evaluate import ScoredDocument, bits_per_byte, documents_of_split
from edgetiny.gqa.calibrate import align
from edgetiny.gqa.stage import run as gqa
from edgetiny.gqa.stage import window_length
from edgetiny.model import build_model, load_model
from edgetiny.train.stage import run as train

Grouping = Literal["adjacent", "similarity"]
PAPER = (
    "| | size | C-Eval | CMMLU | MMLU | AGI-Eval |",
    "|---|---|---|---|---|---|",
    "| MHA | 1.5B | 52.91 | 49.51 | 53.76 | 44.42 |",
    "| GQA, 8 groups | 1.4B | 48.75 | 46.94 | 51.97 | 43.59 |",
)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to merge: the command's settings, and whether it leaves out the refit."""

    grouping: Grouping
    pool: Literal["mean", "first", "random", "aligned"]
    refit: bool = True

    @property
    def name(self) -> str:
        """How a table calls it."""
        return f"{self.grouping} {self.pool}{'' if self.refit else ', o_proj not refitted'}"

    @property
    def reads_text(self) -> bool:
        """Whether text decides what is merged, or how."""
        return self.grouping == "similarity" or self.pool == "aligned"


MEAN, BEST = Way("adjacent", "mean"), Way("similarity", "aligned")
WAYS = (
    MEAN,
    Way("adjacent", "first"),
    Way("adjacent", "random"),
    Way("similarity", "mean"),
    Way("adjacent", "aligned"),
    Way("similarity", "aligned", refit=False),
    BEST,
)


class Measured:
    """One teacher: its conversions, what they score, and what uptraining makes of them."""

    def __init__(self, options: argparse.Namespace, seed: int, reporter: Reporter) -> None:
        self.options = options
        self.reporter = reporter
        self.seed = seed
        self.teacher = Checkpoint.open(options.teacher[seed])
        self.shards = Shards.open(options.data)
        self.tokens = sum(
            each["metrics"]["tokens"]
            for each in [self.teacher.lineage, *self.teacher.lineage["ancestors"]]
            if each["stage"] == "train"
        )
        self.context = window_length(self.teacher)
        self.documents: list[ScoredDocument] = list(
            documents_of_split(
                self.shards.valid, self.shards.document_start is not None, options.eval_tokens
            )
        )

    def config(self, way: Way, groups: int) -> GqaConfig:
        """Return the command's settings of a way."""
        name = way.name.split(",")[0].replace(" ", "-")
        return GqaConfig(
            source=self.teacher.path,
            groups=groups,
            grouping=way.grouping,
            pool=way.pool,
            data=self.shards.path,
            calibration_tokens=self.options.calibration_tokens if way.reads_text else None,
            # The bits are measured here, on more text.
            eval_tokens=2,
            out=self.options.out / f"seed{self.seed}-{groups}-{name}",
            overwrite=True,
        )

    def bits(self, checkpoint: Checkpoint) -> float:
        """Return held-out bits per byte."""
        model = load_model(checkpoint, torch.float32)
        return bits_per_byte(model, self.documents, context=self.context).total.bits_per_byte

    def bits_of(self, way: Way, groups: int) -> float:
        """Convert, and return held-out bits per byte."""
        if way.refit:
            return self.bits(gqa(self.config(way, groups)))
        windows = spread_windows(
            self.shards.train.tokens, self.options.calibration_tokens, self.context
        )
        with self.reporter.task("aligning", self.teacher.config.num_hidden_layers) as task:
            made, _ = align(
                self.teacher,
                groups,
                windows,
                task,
                by_similarity=way.grouping == "similarity",
                refit=False,
            )
        shape = replace(self.teacher.config, num_key_value_heads=groups)
        model = build_model(shape, self.teacher.state_dict() | made, torch.float32)
        return bits_per_byte(model, self.documents, context=self.context).total.bits_per_byte

    def uptrained(self, start: Path) -> float:
        """Return held-out bits per byte after training on 5% of the teacher's tokens."""
        out = self.options.out / f"{start.name}-up"
        shutil.rmtree(out, ignore_errors=True)
        config = TrainConfig(
            checkpoint=start,
            data=self.shards.path,
            out=out,
            fraction=0.05 * self.tokens / len(self.shards.train.tokens),
            batch_size=self.options.batch_size,
            sequence_length=self.context,
            learning_rate=self.options.learning_rate,
            warmup_fraction=0.2,
            final_lr_fraction=0.0,
            precision="bf16",
            threads=torch.get_num_threads(),
            seed=100 + self.seed,
            eval_every=0,
            eval_tokens=2,
            save_every=1000,
        )
        return self.bits(train(config))


class Kept:
    """Figures that are written down as they come, so that a run can be taken up again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._figures: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def figure(self, name: str, compute: Callable[[], float]) -> float:
        """Return a figure, computed if it is not kept yet."""
        if name not in self._figures:
            self._figures[name] = compute()
            self._path.write_text(json.dumps(self._figures, indent=2))
        return self._figures[name]


def measure(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return all figures of one teacher, the ones that the bars ask for first."""
    torch.set_num_threads(options.threads)
    reporter = Reporter()
    one, kept = Measured(options, seed, reporter), Kept(options.out / f"seed{seed}.json")
    heads, uptrain_groups = one.teacher.config.num_key_value_heads, options.uptrain_groups
    before = kept.figure("teacher", lambda: one.bits(one.teacher))
    reporter.say(f"teacher {seed}: {before:.4f} bits per byte with {heads} heads")

    def row(way: Way, groups: int) -> dict[str, Any]:
        bits = kept.figure(f"{groups} {way.name}", lambda: one.bits_of(way, groups))
        reporter.say(f"teacher {seed}, {heads} -> {groups}, {way.name}: +{bits - before:.4f}")
        return {"groups": groups, "way": way.name, "bits": bits, "loss": bits - before}

    def uptrained(name: str, start: Path, first: float) -> dict[str, Any]:
        bits = kept.figure(f"uptrained {name}", lambda: one.uptrained(start))
        reporter.say(f"teacher {seed}, uptrained {name}: {first:.4f} -> {bits:.4f}")
        recovered = (first - bits) / (first - before) if first != before else None
        return {"start": name, "before": first, "after": bits, "recovered": recovered}

    for groups in options.groups:
        for way in (MEAN, BEST):
            row(way, groups)
    ups = [uptrained("teacher", one.teacher.path, before)]
    ups += [
        uptrained(way.name, one.config(way, uptrain_groups).out, row(way, uptrain_groups)["bits"])
        for way in (MEAN, BEST)
    ]
    return {
        "teacher": one.teacher.sha256,
        "shape": one.teacher.summary()["shape"],
        "parameters": parameters(one.teacher.config).total,
        "tokens": one.tokens,
        "bits": before,
        "conversions": [row(way, groups) for groups in options.groups for way in WAYS],
        "uptraining": ups,
    }


def spread(values: list[float]) -> str:
    """Return mean and range for a table."""
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def conversion_table(results: list[dict[str, Any]], groups: int) -> list[str]:
    """Return what each way of merging to `groups` heads loses, over the teachers."""
    lines = ["| way | bits per byte lost | over adjacent mean |", "|---|---|---|"]
    means = [loss_of(result, groups, MEAN) for result in results]
    for way in WAYS:
        losses = [loss_of(result, groups, way) for result in results]
        ratios = [loss / mean for loss, mean in zip(losses, means, strict=True)]
        lines.append(f"| {way.name} | {spread(losses)} | {spread(ratios)} |")
    return lines


def loss_of(result: dict[str, Any], groups: int, way: Way) -> float:
    """Return the bits per byte that one teacher's conversion loses."""
    [row] = [
        row for row in result["conversions"] if (row["groups"], row["way"]) == (groups, way.name)
    ]
    return float(row["loss"])


def uptraining_table(results: list[dict[str, Any]]) -> list[str]:
    """Return what uptraining recovers, a line per teacher and start."""
    lines = [
        "| teacher | start | before uptraining | after | recovered |",
        "|---|---|---|---|---|",
    ]
    for number, result in enumerate(results):
        for row in result["uptraining"]:
            recovered = "" if row["recovered"] is None else f"{row['recovered']:.0%}"
            lines.append(
                f"| {number} | {row['start']} | {row['before']:.4f} | {row['after']:.4f} |"
                f" {recovered} |"
            )
    return lines


def verdicts(results: list[dict[str, Any]], groups: int) -> list[str]:
    """Return the bars, and whether each is met on every teacher."""
    ratios = [loss_of(each, groups, BEST) / loss_of(each, groups, MEAN) for each in results]
    shares = [
        {row["start"]: row["recovered"] for row in result["uptraining"]} for result in results
    ]
    lines = [
        f"- {BEST.name} loses at most 0.6x what {MEAN.name} loses at {groups} heads, before"
        f" uptraining: {'met' if max(ratios) <= 0.6 else 'MISSED'}"
        f" ({', '.join(f'{ratio:.3f}x' for ratio in ratios)})"
    ]
    for way in (MEAN, BEST):
        parts = [share[way.name] for share in shares]
        lines.append(
            f"- uptraining on 5% recovers at least 80% of the loss, {way.name}:"
            f" {'met' if min(parts) >= 0.8 else 'MISSED'}"
            f" ({', '.join(f'{part:.0%}' for part in parts)})"
        )
    return lines


def markdown(facts: dict[str, Any], results: list[dict[str, Any]], options: Any) -> str:
    """Return the results for people."""
    lines = ["# Fewer key/value heads: what they cost", "", "Written by `bench/gqa_quality.py`."]
    lines += ["", *(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())]
    lines += ["", "## Bars", "", *verdicts(results, min(options.groups))]
    for groups in options.groups:
        lines += ["", f"## 8 to {groups} heads, before uptraining", ""]
        lines += ["Mean over the teachers, and range.", "", *conversion_table(results, groups)]
    lines += [
        "",
        f"## Uptraining, 8 to {options.uptrain_groups} heads",
        "",
        "Each on 5% of the tokens that its teacher saw, at a peak learning rate of"
        f" {options.learning_rate:g}. The teacher is trained on as well: a model that still learns"
        " gets better from more text whatever its heads, and only what the conversion gains beyond"
        " that is recovered for sure. More than 100% is a model better than the teacher was.",
        "",
        *uptraining_table(results),
    ]
    lines += ["", "## Beside the paper's Table 10", "", *PAPER, ""]
    lines += paper_text(results, options)
    return "\n".join(lines) + "\n"


def paper_text(results: list[dict[str, Any]], options: Any) -> list[str]:
    """Return our small counterpart of Table 10 in words."""
    ups = [{row["start"]: row["after"] for row in result["uptraining"]} for result in results]
    teacher = statistics.mean(result["bits"] for result in results)
    more = statistics.mean(up["teacher"] for up in ups)
    rows = [
        f"| MHA, 8 heads | {results[0]['parameters']:,} | {teacher:.4f} | {more:.4f} |",
    ]
    for way in (MEAN, BEST):
        bits = statistics.mean(up[way.name] for up in ups)
        lost = statistics.mean(loss_of(each, options.uptrain_groups, way) for each in results)
        rows.append(
            f"| GQA, {options.uptrain_groups} heads, {way.name} |"
            f" {results[0]['parameters_gqa']:,} | {teacher + lost:.4f} | {bits:.4f} |"
        )
    return [
        "The paper converts 1.5B parameters to 8 key/value heads, by the mean of the heads of a"
        " group, and trains on 5% of its data: its four scores keep 92% to 98%. Ours go from 8"
        f" heads to {options.uptrain_groups}, in bits per byte, the mean of the teachers. They are"
        " about a thousandth of its size and hardly trained, and cannot sit its exams: the"
        " direction can be compared, the size of the effect cannot.",
        "",
        "| | parameters | before | after 5% more |",
        "|---|---|---|---|",
        *rows,
    ]


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="conversions, and figures so far")
    parser.add_argument("--write", type=Path, help="results, without suffix")
    parser.add_argument("--groups", type=int, action="append")
    parser.add_argument("--uptrain-groups", type=int, default=4)
    parser.add_argument("--calibration-tokens", type=int, default=32_768)
    parser.add_argument("--eval-tokens", type=int, default=32_768)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=3, help="teachers at a time")
    options = parser.parse_args()
    options.groups = options.groups or [4, 2]
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    # A process for each teacher, and fresh ones: a fork would inherit torch's threads.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=spawn) as pool:
        results = list(pool.map(partial(measure, options), range(len(options.teacher))))
    shape = Checkpoint.open(options.teacher[0]).config
    grouped = replace(shape, num_key_value_heads=options.uptrain_groups)
    for result in results:
        result["parameters_gqa"] = parameters(grouped).total
    facts = {
        "teachers": f"{len(results)}, {results[0]['shape']}, {results[0]['parameters']:,}"
        " parameters each; seeds of weights and of the sample order differ",
        "tokens_seen": ", ".join(f"{each['tokens']:,}" for each in results),
        "held_out_bits_per_byte": ", ".join(f"{each['bits']:.4f}" for each in results),
        "calibration": f"{options.calibration_tokens:,} tokens of training text",
        "scored": f"{options.eval_tokens:,} tokens of held-out works, windows of"
        f" {Measured(options, 0, Reporter()).context}, fp32",
        "machine": f"{cpu_model()}, {torch.get_num_threads()} thread, torch {torch.__version__},"
        f" Python {platform.python_version()}",
    }
    page = markdown(facts, results, options)
    print(page)
    if options.write is not None:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.with_suffix(".md").write_text(page, encoding="utf-8")
        text = json.dumps({"facts": facts, "teachers": results}, indent=2, ensure_ascii=False)
        options.write.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
