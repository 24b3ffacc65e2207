"""Where a step of decoding goes, by onnxruntime's own profile of an artefact.

    python bench/onnx_profile.py ARTEFACT --batch 20 --context 256

The cache is filled with random bytes; steps are taken around one context. A row is all nodes of one
operation and place in a layer, medians over steps. `parallel` is what the calling thread spent in
its share of parallel work, `waiting` on the other threads. The profile itself slows a step by some
percent: the first line is without it. Run it alone on the machine.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from edgetiny.artefact import Artefact
from edgetiny.runtimes.ort import is_expanded, open_session
from edgetiny.runtimes.ort_graph import graph_of

_WARM_UP = 5


def step_ms(
    session: onnxruntime.InferenceSession, batch: int, context: int, steps: int
) -> list[float]:
    """Return the milliseconds of greedy steps around a context."""
    random = np.random.default_rng(0)
    graph = graph_of(session)
    cache = graph.new_cache(batch, context + steps)
    for array in cache.values():
        array[...] = random.integers(-100, 100, array.shape)
    stepper = graph.stepper(cache)
    assert stepper is not None
    ids, taken = random.integers(3, 1000, (batch, 1)), []
    for step in range(_WARM_UP + steps):
        ends = np.full(batch, context - steps // 2 - _WARM_UP + step)
        start = time.perf_counter()
        _, ids = stepper.step(ids, ends)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken[_WARM_UP:]


def rows_of(events: list[dict[str, Any]], steps: int) -> dict[str, tuple[float, float, float]]:
    """Return milliseconds a step by operation and place: all, in parallel work, waiting."""
    nodes = [event for event in events if event["name"].endswith("_kernel_time")]
    per_step = len(nodes) // (steps + _WARM_UP)
    total: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    shares: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for index, event in enumerate(nodes[_WARM_UP * per_step :]):
        place = [part for part in event["name"].split(".")[:-1] if not part.isdigit()]
        key = f"{event['args']['op_name']} {'.'.join(place).removeprefix('model.layers.')}"
        total[key][index // per_step] += event["dur"] / 1e3
        main = event["args"]["thread_scheduling_stats"]["main_thread"]
        shares[key][0] += main["Run"] / 1e3 / steps
        shares[key][1] += main["Wait"] / 1e3 / steps
    return {
        key: (median(by_step.values()), shares[key][0], shares[key][1])
        for key, by_step in sorted(total.items(), key=lambda pair: -sum(pair[1].values()))
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = Artefact.open(args.artefact).model("onnx", args.batch)
    steps = (args.batch, args.context, args.steps)
    file, expanded = args.artefact / model.name, is_expanded(model)
    opened = open_session(file, args.threads, expanded=expanded)
    print(f"{median(step_ms(opened, *steps)):.2f} ms a step without a profile")
    del opened  # An idle session's threads spin.
    profiled = open_session(file, args.threads, expanded=expanded, profile=True)
    print(f"{median(step_ms(profiled, *steps)):.2f} ms with it, of which")
    events = Path(profiled.end_profiling())
    rows = rows_of(json.loads(events.read_text(encoding="utf-8")), args.steps)
    events.unlink()
    whole = sum(row[0] for row in rows.values())
    for key, (all_, parallel, waiting) in rows.items():
        print(
            f"{key:60s} {all_:7.3f} ms {all_ / whole:6.1%}"
            f"  parallel {parallel:6.3f}  waiting {waiting:6.3f}"
        )


if __name__ == "__main__":
    main()
