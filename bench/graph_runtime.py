"""Depth against width on a CPU, eager against graph: one thread, interleaved, ratios of CPU time.

    python bench/graph_runtime.py --out docs/results/graph_runtime_cpu.json

Every shape opens both runtimes over the same random weights in one process and takes turns
(eager, graph, eager, graph, ...). One thread's CPU time leaves out most of what other programs
take; caches and clock rates are shared still. The ratio of a round is eager over graph.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetiny.checkpoint import ModelConfig
from edgetiny.cost import Precision
from edgetiny.device import cpu_model
from edgetiny.measure import median
from edgetiny.runtimes import Runtime, open_random

VOCABULARY = 2_000
# Depth and width as far apart as the ends of the paper's Table 2, an eighth of its widths.
SHAPES = ((40, 160), (9, 320))
CONTEXT = 128
PROMPT = 2


def shape(depth: int, width: int) -> ModelConfig:
    """Return a LLaMA shape with heads of 32 and an FFN of 8/3."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=8 * width // 96 * 32,
        num_hidden_layers=depth,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=CONTEXT,
    )


def step_ms(runtime: Runtime, batch: int, steps: int) -> float:
    """Return the median CPU time of a greedy step, in milliseconds."""
    prompt = np.ones((batch, PROMPT), np.int64)
    token = runtime.prefill(prompt, np.full(batch, PROMPT)).argmax(-1)[:, None]
    times = []
    for _ in range(steps):
        start = time.process_time_ns()
        token = runtime.greedy_step(token)
        times.append((time.process_time_ns() - start) / 1e6)
    return median(times)


def measure(
    depth: int, width: int, batch: int, precision: Precision, rounds: int, steps: int
) -> dict[str, Any]:
    """Return one row: medians of both runtimes, and the ratios of all rounds."""
    config = shape(depth, width)
    # The eager runtime has no int8: what it is compared with are weights of the computing type.
    plain: Precision = "bf16" if precision == "int8" else precision
    eager = open_random(config, precision=plain, threads=1)
    graph = open_random(config, runtime="graph", precision=precision, threads=1)
    start = time.perf_counter()
    graph.prepare(batch)
    prepare_s = time.perf_counter() - start
    for runtime in (eager, graph):
        step_ms(runtime, batch, 10)
    pairs = [[step_ms(each, batch, steps) for each in (eager, graph)] for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "depth": depth,
        "width": width,
        "batch": batch,
        "precision": precision,
        "eager_ms": round(median([a for a, _ in pairs]), 3),
        "graph_ms": round(median([b for _, b in pairs]), 3),
        "ratio": round(median(ratios), 3),
        "ratio_lowest": round(ratios[0], 3),
        "ratio_highest": round(ratios[-1], 3),
        "prepare_s": round(prepare_s, 1),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every shape, batch and precision; print and write rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--precision", action="append", default=None)
    parser.add_argument("--batch", type=int, action="append", default=None)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    for precision in options.precision or ["fp32", "bf16", "int8"]:
        for batch in options.batch or [1, 20]:
            for depth, width in SHAPES:
                row = measure(depth, width, batch, precision, options.rounds, options.steps)
                print(json.dumps(row), flush=True)
                rows.append(row)
    if options.out is not None:
        document = {
            "cpu": cpu_model(),
            "torch": torch.__version__,
            "threads": 1,
            "load": os.getloadavg()[0],
            "rounds": options.rounds,
            "steps": options.steps,
            "rows": rows,
        }
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
