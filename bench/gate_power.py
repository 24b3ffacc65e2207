"""Show what `edgetiny gate` finds and what it leaves alone, by planting work of a known size.

    python bench/gate_power.py --write docs/results/gate_power      # about 8 minutes when idle
    python bench/gate_power.py --gates 2 --unchanged 2 --no-instructions

Both sides of every gate are this checkout. On one side each decode step is followed by a busy loop
of 15% or 8% of that step's own time (`--worker --plant SHARE`: this program called by itself, in
place of the gate's worker), or by nothing. The kinds take turns, so that what else the machine does
hits all alike. Then 2% more instructions, one more graph node and 1% more bytes are planted.
"""

import argparse
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgetiny.bench import gate_worker
from edgetiny.bench.deterministic import (
    Figure,
    artefact_figures,
    compare_figures,
    instructions,
    write_tiny,
)
from edgetiny.bench.gate import SUBJECT
from edgetiny.bench.gate_sides import Side, both_sides
from edgetiny.bench.gate_speed import measure_speed
from edgetiny.config.compare import GateConfig
from edgetiny.config.export import ExportConfig
from edgetiny.console import QUIET
from edgetiny.device import cpu_model
from edgetiny.errors import DeviceError
from edgetiny.export.stage import run as export
from edgetiny.measure import cores
from edgetiny.runtimes import Floats, Ids, Runtime

ROOT = Path(__file__).parents[1]
PROBE_LOOPS = 10_000
GROWTH = GateConfig(speed=False).growth


@dataclass(frozen=True)
class Kind:
    """Gates of one planted share, what they must say, and how often."""

    share: float
    bar: str
    holds: Callable[[Counter[str], int], bool]


KINDS = (
    Kind(0.15, "regress in 9 of 10", lambda found, n: found["regress"] >= 0.9 * n),
    Kind(0.08, "never same or improve", lambda found, n: found["same"] + found["improve"] == 0),
    Kind(
        0.0,
        "no regress, at most 1 of 4 inconclusive",
        lambda found, n: found["regress"] == 0 and found["inconclusive"] <= 0.25 * n,
    ),
)


class Planted:
    """A runtime whose steps do more than they should."""

    def __init__(self, runtime: Runtime, share: float, loops: int) -> None:
        self._runtime = runtime
        self._share = share
        self._loops = loops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def step(self, tokens: Ids) -> Floats:
        """Run the step, then work for its time times the share, or for a number of loops.

        Processor time: work is not more because another program had the core for a while.
        """
        start = time.process_time_ns()
        logits = self._runtime.step(tokens)
        end = time.process_time_ns()
        until = end + self._share * (end - start)
        while self._share and time.process_time_ns() < until:
            pass
        for _ in itertools.repeat(None, self._loops):  # each costs the same, as counters would not
            pass
        return logits


def planted(side: Side, *, share: float = 0.0, loops: int = 0) -> Side:
    """Return a side whose processes run this program's worker."""
    flags = ("--worker", "--plant", str(share), "--loops", str(loops))
    return replace(side, worker=("-P", str(Path(__file__).resolve()), *flags))


def speed_gates(side: Side, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the gates of all kinds, in turns; return one record each."""
    config = GateConfig(base="here", batch=(1,), rounds_at_most=options.rounds_at_most)
    opening = {
        "path": None,
        "config": SUBJECT.to_hf(),
        "context": config.prompt_tokens + config.steps,
        "threads": config.threads,
    }
    turns = [kind.share for kind in KINDS if kind.share for _ in range(options.gates)]
    turns += [0.0] * options.unchanged
    random.Random(0).shuffle(turns)
    records = []
    for number, share in enumerate(turns, 1):
        start = time.monotonic()
        [row] = measure_speed(side, planted(side, share=share), opening, config, QUIET)
        found = row.judgement
        records.append(
            {
                "planted": share,
                "verdict": found.verdict,
                "ratio": found.change.ratio,
                "low": found.change.low,
                "high": found.change.high,
                "noise": found.noise,
                "rounds": len(row.rounds),
                "step_ms": row.base_step_ms,
                "seconds": time.monotonic() - start,
            }
        )
        print(
            f"{number}/{len(turns)}: planted {share:.0%}: {found.verdict}, {found.change.text},"
            f" noise {found.noise:.2%}, {records[-1]['seconds']:.0f} s",
            flush=True,
        )
    return records


def plant_instructions(side: Side) -> dict[str, Any]:
    """Plant 2% of a step's instructions as an empty loop; return what was counted and said."""

    def counted(loops: int) -> Figure:
        _, value = instructions(planted(side, loops=loops), "auto")
        return Figure(value=value, unit="instructions", tolerance=GROWTH)

    try:
        with ThreadPoolExecutor(cores()) as pool:
            base, again, probe = pool.map(counted, (0, 0, PROBE_LOOPS))
    except DeviceError as error:
        return {"absent": str(error)}
    loops = round(0.02 * base.value * PROBE_LOOPS / (probe.value - base.value))
    more = counted(loops)
    [unchanged] = compare_figures({"instructions": base}, {"instructions": again}, {})
    [change] = compare_figures({"instructions": base}, {"instructions": more}, {})
    return {
        "per_step": base.value,
        "again": again.value,
        "planted": more.value / base.value - 1.0,
        "unchanged": unchanged.outcome,
        "outcome": change.outcome,
    }


def plant_in_artefact() -> dict[str, Any]:
    """Add a node at each of ten places, and 1% of bytes; return how often each was found."""
    import onnx

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny(folder / "tiny")
        artefact = folder / "artefact"
        export(ExportConfig(source=folder / "tiny", out=artefact, precision="int8"))
        before = artefact_figures(artefact, GROWTH, {})
        model, data = artefact / "model.onnx", artefact / "model.onnx.data"
        graph_bytes, data_bytes = model.read_bytes(), data.read_bytes()
        node_found = 0
        for place in range(10):
            changed = onnx.load_model_from_string(graph_bytes)
            nodes = changed.graph.node
            output = nodes[place * len(nodes) // 10].output[0]
            changed.graph.node.append(
                onnx.helper.make_node("Identity", [output], [f"extra{place}"])
            )
            model.write_bytes(changed.SerializeToString())
            outcomes = {
                each.name: each.outcome
                for each in compare_figures(before, artefact_figures(artefact, GROWTH, {}), {})
            }
            node_found += outcomes["graph nodes, int8"] == "regress"
        model.write_bytes(graph_bytes)
        total = len(graph_bytes) + len(data_bytes)
        data.write_bytes(data_bytes + bytes(total // 100))
        after = compare_figures(before, artefact_figures(artefact, GROWTH, {}), {})
        bytes_outcome = {each.name: each.outcome for each in after}["artefact bytes, int8"]
    return {"nodes_found_of_10": node_found, "bytes_outcome": bytes_outcome}


def report(found: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    machine = found["machine"]
    lines = [
        "# What the speed gate finds",
        "",
        "Written by `python bench/gate_power.py`: both sides are one commit, planted work on one.",
        f"{machine['cpu']}, {machine['cores']} cores, 1 thread, torch {machine['torch']}, Python"
        f" {machine['python']}; load {machine['load_before']:.1f} before,"
        f" {machine['load_after']:.1f} after; commit {found['commit']}.",
        f"{found['seconds'] / 60:.0f} minutes in all.",
        "",
        "| planted | gates | regress | inconclusive | same | improve | bar | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        gates = [gate for gate in found["gates"] if gate["planted"] == kind.share]
        if not gates:
            continue
        count = Counter(gate["verdict"] for gate in gates)
        cells = [f"{kind.share:.0%} of a step" if kind.share else "nothing (A/A)", len(gates)]
        cells += [count[name] for name in ("regress", "inconclusive", "same", "improve")]
        cells += [kind.bar, "yes" if kind.holds(count, len(gates)) else "no"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| planted | found |", "|---|---|"]
    counted = found["instructions"]
    if "absent" in counted:
        lines.append(f"| 2% of instructions | not counted here: {counted['absent']} |")
    else:
        differ = counted["again"] / counted["per_step"] - 1.0
        lines.append(
            f"| {counted['planted']:.2%} of {counted['per_step']:,.0f} instructions |"
            f" {counted['outcome']}; two unplanted counts differ by {differ:.4%}:"
            f" {counted['unchanged']} |"
        )
    lines.append(f"| one graph node | {found['artefact']['nodes_found_of_10']} of 10 places |")
    lines.append(f"| 1% of bytes | {found['artefact']['bytes_outcome']} |")
    lines += [
        "",
        "| planted | verdict | head / base | 99% interval | noise | rounds | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for gate in sorted(found["gates"], key=lambda gate: -gate["planted"]):
        lines.append(
            f"| {gate['planted']:.0%} | {gate['verdict']} | {gate['ratio']:.3f} |"
            f" {gate['low']:.3f} to {gate['high']:.3f} | {gate['noise']:.2%} | {gate['rounds']} |"
            f" {gate['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print and, if asked, write; as `--worker`, be one side of a gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="path without ending; .json and .md are written")
    parser.add_argument("--gates", type=int, default=10, help="gates of each planted share")
    parser.add_argument("--unchanged", type=int, default=20, help="gates without a change")
    parser.add_argument("--rounds-at-most", type=int, default=10)
    parser.add_argument("--instructions", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plant", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--loops", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return gate_worker.main(lambda runtime: Planted(runtime, options.plant, options.loops))
    start, load = time.monotonic(), os.getloadavg()[0]
    with both_sides(None, ROOT) as (_, side):
        gates = speed_gates(side, options)
        counted = plant_instructions(side) if options.instructions else {"absent": "left out"}
        print(f"instructions: {counted}", flush=True)
        found = {
            "commit": side.commit,
            "machine": {
                "cpu": cpu_model(),
                "cores": cores(),
                "torch": torch.__version__,
                "python": platform.python_version(),
                "load_before": load,
                "load_after": os.getloadavg()[0],
            },
            "gates": gates,
            "instructions": counted,
            "artefact": plant_in_artefact(),
            "seconds": time.monotonic() - start,
        }
    print(report(found))
    if options.write is not None:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=2) + "\n"
        options.write.with_suffix(".json").write_text(text, encoding="utf-8")
        options.write.with_suffix(".md").write_text(report(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
