"""Measure training speed in fp32 and bf16, with and without torch.compile, and write it down.

    python bench/train_precision.py --out docs/results/train_precision.md

A model of about 5M parameters with 16k rows trains on random tokens. The variants take turns, a
few steps each, over several rounds, so that what else the machine does hits all alike.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.train import TrainConfig
from edgetiny.cost import parameters, training_flops_per_token
from edgetiny.data import Split
from edgetiny.device import cpu_model
from edgetiny.measure import gemm_peak, spread
from edgetiny.model import Transformer
from edgetiny.train.step import Samples, Trainer
from edgetiny.train.throughput import Precision

SHAPE = ModelConfig(
    vocab_size=16_384,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=5,
    num_attention_heads=6,
    num_key_value_heads=6,
    head_dim=32,
)
VARIANTS: tuple[tuple[Precision, bool], ...] = (
    ("fp32", False),
    ("bf16", False),
    ("fp32", True),
    ("bf16", True),
)


def trainer(precision: Precision, compiled: bool, batch_size: int, length: int) -> Trainer:
    """Return a trainer of a random model on random tokens."""
    config = TrainConfig(
        checkpoint=Path("random"),
        data=Path("random"),
        out=Path(tempfile.gettempdir()) / "train_precision",
        batch_size=batch_size,
        sequence_length=length,
        precision=precision,
        compile=compiled,
    )
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.02)
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab_size, 500_000, dtype=np.uint16)
    offsets = np.array([0, len(tokens)])
    split = Split(Path("random"), tokens, ["all"], offsets, np.zeros(1, np.int64), None)
    return Trainer(model, Samples(split, config), config, precision)


def measure(trainers: Sequence[Trainer], rounds: int, steps: int) -> list[list[float]]:
    """Return the seconds of each step of each trainer; they take turns."""
    seconds: list[list[float]] = [[] for _ in trainers]
    for each in trainers:
        for step in range(2):  # compiling, choosing kernels, the optimizer's first moments
            each.step(step)
    for number in range(rounds):
        for index, each in enumerate(trainers):
            results = [each.step(2 + number * steps + step) for step in range(steps)]
            seconds[index] += [result.seconds for result in results]
    return seconds


def table(lengths: Sequence[int], batch_tokens: int, rounds: int, steps: int) -> list[str]:
    """Return the rows of the table, printed as they come."""
    threads = torch.get_num_threads()
    peaks = {name: gemm_peak(name, threads, 1.0) for name in ("fp32", "bf16")}
    rows = []
    for length in lengths:
        batch_size = batch_tokens // length
        trainers = [trainer(*variant, batch_size, length) for variant in VARIANTS]
        all_seconds = measure(trainers, rounds, steps)
        flops = training_flops_per_token(SHAPE, length)
        base = spread(all_seconds[0]).median
        for (precision, compiled), seconds in zip(VARIANTS, all_seconds, strict=True):
            steps_s, peak = spread(seconds), peaks[precision]
            tok_s = batch_size * length / steps_s.median
            mfu = f"{tok_s * flops / peak.flops_per_s:.0%}" if peak else "-"
            rows.append(
                f"| {batch_size} x {length} | {precision} | {'yes' if compiled else 'no'} |"
                f" {tok_s:,.0f} | {batch_size * length / steps_s.p90:,.0f} to"
                f" {batch_size * length / steps_s.p10:,.0f} | {base / steps_s.median:.2f} | {mfu} |"
            )
            print(rows[-1], flush=True)
    known = [f"{name} {peak.flops_per_s / 1e9:,.0f}" for name, peak in peaks.items() if peak]
    return [
        f"Peaks of a matrix product, GFLOP/s: {', '.join(known)}.",
        "",
        "| sequences x tokens | precision | compiled | tok/s | p10 to p90 | over fp32 | MFU |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--length", type=int, action="append", help="tokens of a sequence")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    lines = table(options.length or [256, 512], options.batch_tokens, options.rounds, options.steps)
    head = [
        "# Training precision on a CPU",
        "",
        f"Written by `python bench/train_precision.py`: {cpu_model()},"
        f" {torch.get_num_threads()} threads, torch {torch.__version__}, Python"
        f" {platform.python_version()}; load {before:.1f} beforehand, {os.getloadavg()[0]:.1f}"
        f" afterwards. {parameters(SHAPE).total / 1e6:.1f}M parameters,"
        f" {SHAPE.vocab_size:,} rows, tied; {options.rounds} rounds of {options.steps} steps a"
        " variant, taking turns, after 2 steps of warm-up.",
        "",
    ]
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    print("\n".join([*head, *lines]))


if __name__ == "__main__":
    main()
