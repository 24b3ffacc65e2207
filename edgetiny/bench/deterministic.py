"""Figures that come out the same on every run, whatever else the machine does.

Operators of a decode step, instructions of a decode step, bytes and nodes of an export, bytes and
FLOPs of a token. What cannot be counted here is absent with its reason, never zero.
"""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgetiny.bench.gate_sides import Side, Worker, environment
from edgetiny.checkpoint import ModelConfig, write_checkpoint
from edgetiny.config.compare import GateConfig
from edgetiny.errors import DeviceError
from edgetiny.init import RandomTensors

Outcome = Literal["regress", "improve", "same", "new"]

# Small enough for callgrind, with every kind of node and operator that a large model has.
TINY = ModelConfig(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_ids=(2,),
)
EXPORT_FAILED = "export failed"
_EXPORT_PRECISION = "int8"
_SIZE = f"artefact bytes, {_EXPORT_PRECISION}"
_NODES = f"graph nodes, {_EXPORT_PRECISION}"
_TOOLS = ("valgrind", "perf")
_WARMUP_STEPS = 6
_COUNTED_STEPS = 8
# perf counts a whole process, twice; many steps make what lies around them small.
_PERF_STEPS = (16, 528)
_CALLGRIND = (
    *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
    "--callgrind-out-file=/dev/null",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One count. tolerance: growth that passes, as a share; 0 for things that are counted whole."""

    value: float
    unit: str
    tolerance: float
    parts: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the figure as a gate's file holds it."""
        whole = int(self.value) if self.value == int(self.value) else self.value
        found = {"value": whole, "unit": self.unit, "tolerance": self.tolerance}
        return found | ({"parts": dict(self.parts)} if self.parts else {})

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Figure":
        """Return what `as_json` wrote."""
        return cls(
            value=found["value"],
            unit=found["unit"],
            tolerance=found["tolerance"],
            parts=found.get("parts", {}),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A figure on both sides and what to think of it. A lost figure is a regression: head broke."""

    name: str
    unit: str
    base: float | None
    head: float | None
    tolerance: float
    outcome: Outcome
    note: str

    @property
    def share(self) -> float | None:
        """Growth as a share of base; None where one side is missing or base is 0."""
        if not self.base or self.head is None:
            return None
        return self.head / self.base - 1.0


Figures = dict[str, Figure]
Absent = dict[str, str]


def count(
    side: Side, opening: Mapping[str, Any], checkpoint: Path, config: GateConfig
) -> tuple[Figures, Absent]:
    """Return every figure of one side that can be counted here, and why the others cannot.

    opening: the model whose operators are counted. checkpoint: what the side exports.
    """
    figures: Figures = {}
    absent: Absent = {}
    worker = Worker(side, opening)
    try:
        figures |= _costs(worker, config)
        _count_ops(worker, config, figures, absent)
    finally:
        worker.kill()
    if config.export:
        _count_artefact(side, checkpoint, config, figures, absent)
    if config.instructions != "none":
        counted, uncounted = count_instructions(side, config)
        figures |= counted
        absent |= uncounted
    return figures, absent


def count_instructions(side: Side, config: GateConfig) -> tuple[Figures, Absent]:
    """Return the figure of the first tool that counts, and why those before it do not."""
    absent: Absent = {}
    for tool in _TOOLS if config.instructions == "auto" else (config.instructions,):
        name = f"instructions per step, {tool}"
        try:
            _, value = instructions(side, tool)
        except DeviceError as error:
            absent[name] = str(error)
        else:
            figure = Figure(value=value, unit="instructions", tolerance=config.growth)
            return {name: figure}, absent
    return {}, absent


def compare_figures(base: Figures, head: Figures, head_absent: Absent) -> list[Change]:
    """Return a change for each figure that either side has."""
    return [
        _change(name, base.get(name), head.get(name), head_absent.get(name, ""))
        for name in dict.fromkeys([*base, *head])
    ]


def write_tiny(folder: Path) -> None:
    """Write the checkpoint that both sides export: the same random weights on every machine."""
    tensors = RandomTensors(TINY, std=0.02, seed=0)
    folder.mkdir()
    write_checkpoint(folder, TINY, tensors, stage="init", settings={}, parent=None, tokenizer=None)


def count_nodes(model: Path) -> Counter[str]:
    """Return how often each operator occurs in an ONNX graph. Raises ModuleNotFoundError."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def _change(name: str, base: Figure | None, head: Figure | None, why: str) -> Change:
    known = head or base
    assert known is not None
    outcome: Outcome
    if base is None:
        outcome, note = "new", "base has no such figure"
    elif head is None:
        outcome, note = "regress", f"head has no such figure any more: {why or 'not counted'}"
    else:
        outcome = "same"
        if head.value > base.value * (1.0 + head.tolerance):
            outcome = "regress"
        elif head.value < base.value * (1.0 - head.tolerance):
            outcome = "improve"
        note = _parts(base.parts, head.parts)
    return Change(
        name=name,
        unit=known.unit,
        base=None if base is None else base.value,
        head=None if head is None else head.value,
        tolerance=known.tolerance,
        outcome=outcome,
        note=note,
    )


def _parts(base: Mapping[str, int], head: Mapping[str, int]) -> str:
    moved = {name: head.get(name, 0) - base.get(name, 0) for name in sorted({*base, *head})}
    return ", ".join(f"{change:+d} {name}" for name, change in moved.items() if change)


def _costs(worker: Worker, config: GateConfig) -> Figures:
    figures = {}
    for precision, cost in worker.ask("cost", context=config.prompt_tokens + config.steps).items():
        for quantity in ("bytes", "FLOPs"):
            figures[f"{quantity} per token, {precision}"] = Figure(
                value=cost[quantity], unit=quantity, tolerance=config.growth
            )
    return figures


def _count_ops(worker: Worker, config: GateConfig, figures: Figures, absent: Absent) -> None:
    for batch in config.batch:
        name = f"torch operators per step, batch {batch}"
        found = worker.ask("ops", batch=batch, prompt_tokens=config.prompt_tokens)["ops"]
        if found:
            figures[name] = Figure(
                value=sum(found.values()), unit="operators", tolerance=0.0, parts=found
            )
        else:
            absent[name] = f"the {worker.ready()['engine']} runtime runs none"


def _count_artefact(
    side: Side, checkpoint: Path, config: GateConfig, figures: Figures, absent: Absent
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "artefact"
        words = ["export", str(checkpoint), "--precision", _EXPORT_PRECISION, "--out", str(out)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "edgetiny", *words, "--quiet"],
            env=environment(side),
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            figures |= artefact_figures(out, config.growth, absent)
        else:
            lines = done.stderr.strip().splitlines() or ["it printed nothing"]
            absent |= dict.fromkeys((_SIZE, _NODES), f"{EXPORT_FAILED}: {lines[-1]}")


def artefact_figures(folder: Path, growth: float, absent: Absent) -> Figures:
    """Return the bytes of an artefact's graph and weights, and its nodes by operator."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*model.onnx*"))}
    figures = {
        _SIZE: Figure(value=sum(sizes.values()), unit="bytes", tolerance=growth, parts=sizes)
    }
    try:
        nodes = count_nodes(folder / "model.onnx")
    except ModuleNotFoundError as error:
        absent[_NODES] = f"{error.name} is not installed"
    else:
        figures[_NODES] = Figure(value=nodes.total(), unit="nodes", tolerance=0.0, parts=nodes)
    return figures


def instructions(side: Side, how: str) -> tuple[str, float]:
    """Return what counted, and the instructions of a step of the tiny model.

    Raises DeviceError, saying why not.
    """
    tries: dict[str, Callable[[Side], float]] = {"valgrind": _by_valgrind, "perf": _by_perf}
    reasons = []
    for name in _TOOLS if how == "auto" else (how,):
        if shutil.which(name) is None:
            reasons.append(f"{name} is not installed")
            continue
        try:
            return name, tries[name](side)
        except DeviceError as error:
            reasons.append(f"{name}: {error}")
    raise DeviceError("; ".join(reasons))


def _by_valgrind(side: Side) -> float:
    if platform.machine() != "x86_64":
        raise DeviceError(f"counting a part of a run is not supported on {platform.machine()}")
    worker = Worker(side, _tiny_opening(64), _CALLGRIND)
    try:
        worker.ask(
            "instructions", batch=1, prompt_tokens=2, start_at=_WARMUP_STEPS, steps=_COUNTED_STEPS
        )
        printed = worker.finish()
    finally:
        worker.kill()
    found = re.search(r"Collected : (\d+)", printed)
    if found is None or int(found[1]) == 0:
        raise DeviceError("callgrind counted nothing")
    return int(found[1]) / _COUNTED_STEPS


def _by_perf(side: Side) -> float:
    """Return the difference of two runs over the difference of their steps."""
    few, many = (_perf_total(side, steps) for steps in _PERF_STEPS)
    return (many - few) / (_PERF_STEPS[1] - _PERF_STEPS[0])


def _perf_total(side: Side, steps: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "perf"
        prefix = ("perf", "stat", "-x", ",", "-e", "instructions:u", "-o", str(out))
        worker = Worker(side, _tiny_opening(2 + max(_PERF_STEPS)), prefix)
        try:
            worker.ask("decode", batch=1, prompt_tokens=2, steps=steps)
            worker.finish()
        finally:
            worker.kill()
        return parse_perf(out.read_text(encoding="utf-8"))


def parse_perf(printed: str) -> int:
    """Return the count in what `perf stat -x ,` wrote. Raises DeviceError if it has none."""
    for line in printed.splitlines():
        value, _, rest = line.partition(",")
        if "instructions" in rest:
            if value.isdigit():
                return int(value)
            raise DeviceError(f"this machine does not count instructions ({value})")
    raise DeviceError("perf stat wrote no count")


def _tiny_opening(context: int) -> dict[str, Any]:
    config = TINY.to_hf() | {"max_position_embeddings": max(context, 64)}
    return {"path": None, "config": config, "context": context, "threads": 1}
