"""From settings to the rows to measure: designs or a folder, times runtimes, precisions, batches.

A flag wins over the suite, the suite's table of the device over its protocol, that over the paper.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgetiny.bench.designs import DESIGNS, choose_design
from edgetiny.bench.protocol import Protocol
from edgetiny.bench.subject import (
    Subject,
    at_batch,
    check_fits,
    design_subject,
    folder_subjects,
)
from edgetiny.bench.suite import Suite, read_suite
from edgetiny.config.run import BenchConfig, RuntimeName
from edgetiny.console import Reporter
from edgetiny.cost import Precision
from edgetiny.design import PRESETS, Design, open_design
from edgetiny.errors import DeviceError
from edgetiny.measure import available_bytes, cuda_free_bytes, gemm_peak
from edgetiny.measure.peaks import PeakDevice

# The paper's (section 2.2), and batch 1: what one user of a phone has.
_DEFAULTS: Mapping[str, Any] = {
    "runtimes": (),
    "precisions": (),
    "batches": (20, 1),
    "contexts": (0,),
    "prompt_tokens": 2,
    "new_tokens": 510,
    "repeats": 3,
    "sustained_minutes": 0.0,
}
_FLAGS = {
    "runtimes": "runtime",
    "precisions": "precision",
    "batches": "batch",
    "contexts": "context",
}
# How engines call themselves in a row, where that is not the name of the runtime.
_ENGINES = {"onnx": "onnxruntime"}
_PROBE_SECONDS = 0.2

Key = tuple[Any, ...]
"""What two measurements have in common if they are of the same thing on the same number of cores"""


@dataclass(frozen=True, slots=True)
class Case:
    """One row to measure. reference_tok_per_s: what others measured of this shape, or None."""

    subject: Subject
    protocol: Protocol
    reference_tok_per_s: float | None = None

    def key(self, threads: int) -> Key:
        """Return what `row_key` returns of the row that this case comes to."""
        subject, protocol = self.subject, self.protocol
        return (
            (subject.sha256, tuple(sorted(subject.shape.items()))),
            subject.name,
            subject.model_type,
            _ENGINES.get(subject.runtime, subject.runtime),
            subject.device,
            subject.precision,
            subject.size_bytes,
            subject.n_parameters,
            threads,
            protocol.batch,
            protocol.depth,
            protocol.prompt_tokens,
            protocol.new_tokens,
            protocol.repeats,
            protocol.sustained_minutes,
        )


def row_key(row: Mapping[str, Any]) -> Key:
    """Return what identifies a row among those of a machine."""
    return (
        (row.get("model_sha256"), tuple(sorted(row["model"].items()))),
        row["model_filename"],
        row["model_type"],
        row["runtime"],
        row["device"].split(":")[0],
        row["precision"],
        row["model_size"],
        row["model_n_params"],
        row["n_threads"],
        row["n_batch"],
        row["n_depth"],
        row["n_prompt"],
        row["n_gen"],
        row["protocol"]["repeats"],
        row["protocol"].get("sustained_minutes", 0.0),
    )


def is_replaced(row: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether a new row measured the same again, or what lies in the same folder now."""
    _, *before = row_key(row)
    _, *after = row_key(new)
    return before == after


@dataclass(frozen=True, slots=True)
class Plan:
    """All rows of a call, and the suite that they come from, if any."""

    cases: tuple[Case, ...]
    suite: Suite | None


def make_plan(config: BenchConfig, device: PeakDevice, threads: int, reporter: Reporter) -> Plan:
    """Return the rows that the settings ask for, none of them loaded yet.

    Raises a one-line error for a folder, suite or design that cannot be run, or a precision or
    runtime that it does not have.
    """
    suite = None if config.suite is None else read_suite(config.suite)
    chosen = {name: _setting(config, suite, name, device) for name in _DEFAULTS}
    protocols = [
        Protocol(
            batch=batch,
            prompt_tokens=chosen["prompt_tokens"],
            new_tokens=chosen["new_tokens"],
            repeats=chosen["repeats"],
            depth=depth,
            sustained_minutes=chosen["sustained_minutes"],
        )
        for depth in chosen["contexts"]
        for batch in chosen["batches"]
    ]
    subjects = _subjects(config, suite, chosen, device, threads, reporter)
    cases = [
        Case(at_batch(subject, protocol.batch), protocol, reference)
        for subject, reference in subjects
        for protocol in protocols
    ]
    if not config.batch and suite is None:
        cases = _within_batch(cases, reporter)
    return Plan(tuple(cases), suite)


def _within_batch(cases: Sequence[Case], reporter: Reporter) -> list[Case]:
    """Return the cases whose batch, which nobody asked for, the model decodes; say what is not."""
    fitting = [
        case for case in cases if case.protocol.batch <= (case.subject.max_batch or math.inf)
    ]
    if not fitting:
        return list(cases)
    left = {(each.subject.name, each.protocol.batch) for each in cases if each not in fitting}
    for name, batch in sorted(left):
        reporter.say(f"batch {batch} is left out: {name} was not exported for as many sequences")
    return fitting


def check_cases(cases: Sequence[Case], device: PeakDevice) -> None:
    """Raise a one-line error for the first row that context, batch or memory do not do for."""
    free = available_bytes() if device == "cpu" else cuda_free_bytes()
    for case in cases:
        check_fits(case.subject, case.protocol, free)


def _setting(config: BenchConfig, suite: Suite | None, name: str, device: str) -> Any:
    given = getattr(config, _FLAGS.get(name, name))
    if given in (None, ()) and suite is not None:
        given = suite.setting(name, device)
    return _DEFAULTS[name] if given in (None, ()) else given


def _subjects(
    config: BenchConfig,
    suite: Suite | None,
    chosen: Mapping[str, Any],
    device: PeakDevice,
    threads: int,
    reporter: Reporter,
) -> list[tuple[Subject, float | None]]:
    source = config.source
    if suite is None and source is not None and not _is_design(source):
        folders = folder_subjects(source, chosen["precisions"], chosen["runtimes"], device)
        return [(subject, None) for subject in folders]
    precisions = chosen["precisions"] or (_fastest_precision(threads, device),)
    if suite is not None:
        designs = suite.designs
    elif source is not None:
        designs = (open_design(source),)
    else:
        designs = (_design_that_fits(chosen, precisions, device, threads, reporter),)
    runtimes: Sequence[RuntimeName] = chosen["runtimes"] or ("eager",)
    return [
        (design_subject(design, precision, runtime, device), design.reference_tok_per_s)
        for design in designs
        for runtime in runtimes
        for precision in precisions
    ]


def _is_design(source: Path) -> bool:
    return source.suffix == ".toml" or (str(source) in PRESETS and not source.exists())


def _design_that_fits(
    chosen: Mapping[str, Any],
    precisions: Sequence[Precision],
    device: PeakDevice,
    threads: int,
    reporter: Reporter,
) -> Design:
    if device == "cuda":  # where the largest takes seconds
        reporter.say(
            f"no model given: random weights of {DESIGNS[0].name} ({DESIGNS[0].source}),"
            f" {precisions[0]}; the largest"
        )
        return DESIGNS[0]
    torch.set_num_threads(threads)
    with reporter.task("choosing a model that fits this machine"):
        choice = choose_design(
            DESIGNS,
            precisions[0],
            chosen["batches"],
            max(chosen["contexts"]) + chosen["prompt_tokens"],
            chosen["new_tokens"],
            chosen["repeats"],
            available_bytes(),
        )
    reporter.say(
        f"no model given: random weights of {choice.design.name} ({choice.design.source}),"
        f" {precisions[0]}; {choice.reason}"
    )
    return choice.design


def _fastest_precision(threads: int, device: PeakDevice) -> Precision:
    """Return the type whose matrix product is fastest here; random weights may have either."""
    if device == "cuda":
        return "fp16"  # the paper's
    rates: dict[Precision, float] = {}
    for precision in ("fp32", "bf16"):
        peak = gemm_peak(precision, threads, _PROBE_SECONDS)
        rates[precision] = peak.flops_per_s if peak else 0.0
    return max(rates, key=lambda precision: rates[precision])


def bench_device(name: str) -> PeakDevice:
    """Return the device to measure on. Raises DeviceError for one that is not there."""
    if name == "android":
        raise DeviceError("--device android comes in a later release; measure with --device cpu")
    if name == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: torch finds no CUDA device here; measure with --device cpu"
        )
    return "cuda"
