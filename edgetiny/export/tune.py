"""`export --tune`: which kernel decodes a plan fastest on this machine, seen by running each.

Of two ways to store and multiply the weights, the one that decodes faster goes on to meet the next.
The two are loaded side by side and take turns, so a machine that slows down slows both.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.export import ExportConfig, Kernel
from edgetiny.console import Reporter
from edgetiny.device import cpu_model
from edgetiny.errors import ConfigError
from edgetiny.export.calibration import scheme_of
from edgetiny.export.plan import Plan, block_of, without_twins
from edgetiny.forecast import BLOCK_SIZE
from edgetiny.measure import cores, median
from edgetiny.quantize import KVScales, Weights

_KERNELS: tuple[Kernel, ...] = ("weight_only", "dynamic")
_BLOCK_SIZES = (BLOCK_SIZE, 128)
_TURNS = 7
_TURN_S = 0.25
"""Time that one side decodes before the other does."""
_WARM_UP = 3
_GAIN = 0.03
"""What a kernel must save of a step to take the place of the one that is usual."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One way to make a plan's file, and what a step of it took.

    step_ms: median of a decode step of the whole batch at half of the context; ratio: of that to
    the usual kernel's, in the same turns or through the kernel that both were compared with.
    """

    kernel: Kernel
    block_size: int
    step_ms: float
    ratio: float
    chosen: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What was measured for one plan, and where."""

    plan: str
    machine: str
    threads: int
    trials: tuple[Trial, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `verification.json` holds of it."""
        return asdict(self) | {"trials": [asdict(each) for each in self.trials]}


class Side(Protocol):
    """Something that decodes."""

    def turn(self) -> float:
        """Return the milliseconds of a step, after a while of decoding."""


def choices(plan: Plan, config: ExportConfig) -> list[Plan]:
    """Return the ways to make a plan's file that --tune may choose from, the usual one first."""
    if (plan.format, plan.layout, plan.target) != ("onnx", "edgetiny", "cpu"):
        return [plan]
    if plan.precision not in ("int8", "int4"):
        return [plan]
    kernels = (config.kernel,) if config.kernel else _KERNELS
    sizes = (config.block_size,) if config.block_size else _BLOCK_SIZES
    made = [plan]
    for kernel in kernels:
        # What multiplies channels does not see the blocks that four bits are stored in.
        for size in sizes if kernel == "weight_only" else (plan.block_size or BLOCK_SIZE,):
            block_size = block_of(plan.precision, kernel, size)
            other = replace(plan, kernel=kernel, block_size=block_size)
            if other not in made:
                made.append(other)
    return made


def require_choice(made: Sequence[Plan], config: ExportConfig) -> None:
    """Raise ConfigError if --tune would have nothing to choose for any plan."""
    if all(len(choices(plan, config)) == 1 for plan in made):
        raise ConfigError(
            "--tune chooses the kernel and blocks of int8 and int4 weights in an ONNX graph of"
            " --layout edgetiny for --target cpu; nothing here leaves it a choice"
        )


def tune_all(
    made: Sequence[Plan],
    config: ExportConfig,
    shape: ModelConfig,
    tensors: Mapping[str, Tensor],
    reporter: Reporter,
) -> tuple[list[Plan], list[Tuning]]:
    """Return the plans as `tune` chose them, each file once, and what was measured."""
    tuned = [tune(plan, config, shape, tensors, reporter) for plan in made]
    chosen = without_twins([plan for plan, _ in tuned])
    return chosen, [tuning for _, tuning in tuned if tuning is not None]


def tune(
    plan: Plan,
    config: ExportConfig,
    shape: ModelConfig,
    tensors: Mapping[str, Tensor],
    reporter: Reporter,
) -> tuple[Plan, Tuning | None]:
    """Return the plan with the kernel that decodes fastest here, and what was measured.

    Weights are rounded plainly and the cache is filled at random: neither decides the speed. One
    file at a time lies in the temporary folder, two models in memory.
    """
    ways = choices(plan, config)
    if len(ways) == 1:
        return plan, None
    with reporter.task(f"timing kernels of {plan.name}", total=len(ways) - 1) as task:
        trials = contest(ways, lambda way: _Loaded(way, shape, tensors), task.advance)
    chosen = next(way for way, trial in zip(ways, trials, strict=True) if trial.chosen)
    return chosen, Tuning(
        plan=plan.name, machine=cpu_model(), threads=cores(), trials=tuple(trials)
    )


def contest(
    ways: Sequence[Plan], load: Callable[[Plan], Side], advance: Callable[[], object]
) -> list[Trial]:
    """Return what each way took; the last one that beat what stood before it is chosen.

    The first is the usual one: what is less than 3% faster does not take its place. advance: called
    after each pair.
    """
    best, best_way = load(ways[0]), 0
    measured: list[tuple[float, float]] = []
    for way, plan in enumerate(ways[1:], 1):
        side = load(plan)
        best_ms, side_ms, ratio = _turns(best, side)
        if not measured:
            measured.append((best_ms, 1.0))
        measured.append((side_ms, ratio * measured[best_way][1]))
        if ratio < 1 - _GAIN:
            best, best_way = side, way
        del side  # before the next is loaded: two are held, not three
        advance()
    return [
        Trial(
            kernel=plan.kernel,
            block_size=plan.block_size,
            step_ms=step_ms,
            ratio=ratio,
            chosen=way == best_way,
        )
        for way, (plan, (step_ms, ratio)) in enumerate(zip(ways, measured, strict=True))
    ]


class _Loaded:
    """A plan's graph, loaded, with a cache of random contents."""

    def __init__(self, plan: Plan, shape: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
        # onnxruntime takes a while to import, and only this needs it.
        from edgetiny.export.lower import lower_onnx
        from edgetiny.runtimes.ort import open_session
        from edgetiny.runtimes.ort_graph import graph_of

        plain = replace(plan, method="rtn")
        with tempfile.TemporaryDirectory(prefix="edgetiny-") as folder:
            weights = Weights(shape, tensors, scheme_of(plain), kv_scales=_ones(plan, shape))
            lowered = lower_onnx(Path(folder), weights, plain, _no_progress)
            is_expanded = (plan.precision, plan.kernel) == ("int4", "dynamic")
            session = open_session(Path(folder) / lowered.files[0], cores(), expanded=is_expanded)
        random = np.random.default_rng(0)
        graph = graph_of(session)
        cache = graph.new_cache(plan.batch, plan.context)
        for array in cache.values():
            array[...] = random.integers(-100, 100, array.shape)
        stepper = graph.stepper(cache)
        assert stepper is not None, "every graph of the edgetiny layout has one"
        self._stepper = stepper
        self._ids = random.integers(0, shape.vocab_size, (plan.batch, 1))
        self._ends = np.full(plan.batch, max(plan.context // 2, 1))

    def step(self) -> float:
        """Return the milliseconds that one step takes; each is at the same place."""
        start = time.perf_counter()
        self._stepper.step(self._ids, self._ends)
        return (time.perf_counter() - start) * 1e3

    def turn(self) -> float:
        """Return the median milliseconds of a step, over about `_TURN_S`."""
        for _ in range(_WARM_UP):
            self.step()
        taken = [self.step()]
        while sum(taken) < _TURN_S * 1e3:
            taken.append(self.step())
        return median(taken)


def _turns(one: Side, other: Side) -> tuple[float, float, float]:
    """Return each side's milliseconds a step, and the median ratio of other to one by turns."""
    first: list[float] = []
    second: list[float] = []
    for number in range(_TURNS):
        order = ((one, first), (other, second))
        for side, taken in order if number % 2 == 0 else reversed(order):
            taken.append(side.turn())
    ratios = [late / early for early, late in zip(first, second, strict=True)]
    return median(first), median(second), median(ratios)


def _ones(plan: Plan, shape: ModelConfig) -> KVScales | None:
    if plan.kv_dtype != "int8":
        return None
    ones = torch.ones(shape.num_hidden_layers, shape.num_key_value_heads, shape.head_dim)
    return KVScales(ones, ones)


def _no_progress(*_: Any) -> None:
    """Take what a lowerer says of its progress."""
