"""`edgetiny bench`: the paper's protocol on models, a process per row, beside the roofline."""

import datetime
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edgetiny
from edgetiny.bench.cases import (
    Case,
    Plan,
    bench_device,
    check_cases,
    is_replaced,
    make_plan,
    row_key,
)
from edgetiny.bench.outputs import Outputs
from edgetiny.bench.peaks import PeakReader
from edgetiny.bench.process import run_worker
from edgetiny.bench.result import BenchResult, Environment, make_row, read_result
from edgetiny.bench.roofline import Peaks, bound_of, gemm_dtype
from edgetiny.bench.subject import Subject
from edgetiny.bench.text_rate import bytes_per_token
from edgetiny.config.run import BenchConfig
from edgetiny.console import QUIET, Reporter, Task
from edgetiny.cost import mean_context
from edgetiny.device import cpu_model
from edgetiny.errors import ConfigError, DataError
from edgetiny.measure import (
    cores,
    cpu_frequency_hz,
    cuda_frequency_hz,
    cuda_name,
    cuda_temperature_celsius,
    median,
    temperature_celsius,
)
from edgetiny.measure.peaks import PeakDevice


def run(config: BenchConfig, reporter: Reporter = QUIET) -> BenchResult:
    """Measure a row per model, runtime, precision, context and batch; write them where asked.

    Files are brought up to date after every row, so that nothing complete is ever lost.
    Raises a one-line error for a device, folder, batch, context or memory that does not do.
    """
    device = bench_device(config.device)
    outputs = Outputs(config)
    outputs.check()
    threads = config.threads or cores()
    plan = make_plan(config, device, threads, reporter)
    kept = _kept_rows(config, device)
    known = {row_key(row) for row in kept if row["valid"]}
    to_measure = [case for case in plan.cases if case.key(threads) not in known]
    check_cases(to_measure, device)
    outputs.check_writable()
    if kept:
        reporter.say(f"{len(kept)} rows kept from {config.out}, {len(to_measure)} to measure")
    bench = _Bench(device, threads, reporter)
    rows, n_missing = list(kept), len(to_measure)
    try:
        for number, case in enumerate(to_measure, 1):
            row = bench.row(case, plan, f"row {number} of {len(to_measure)}")
            rows = [*(each for each in rows if not is_replaced(each, row)), row]
            n_missing -= 1
            outputs.write(_in_order(rows, plan, threads), plan.suite)
    finally:
        if n_missing and rows and config.out is not None:
            reporter.say(f"{len(rows)} rows are in {config.out}, {n_missing} missing: --resume")
    if not to_measure:
        outputs.write(_in_order(rows, plan, threads), plan.suite)
    return BenchResult(_in_order(rows, plan, threads), config.out)


class _Bench:
    """Measures one row after another on one device."""

    def __init__(self, device: PeakDevice, threads: int, reporter: Reporter) -> None:
        self._device, self._threads, self._reporter = device, threads, reporter
        self._peaks = PeakReader(threads, device)
        self._environment = _environment(device, threads)
        self._text: dict[Path, float | None] = {}

    def row(self, case: Case, plan: Plan, number: str) -> dict[str, Any]:
        """Return one row, the machine's peaks read before and after it."""
        subject, protocol = case.subject, case.protocol
        dtype = gemm_dtype(subject.product_precision, self._device)
        before = self._peaks.before(dtype)
        cool = self._state()
        measured = self._measure(case, number)
        warm = self._state()
        for name in cool:
            measured[name] = {"before": cool[name], "after": warm[name]}
        peaks = Peaks(before, self._peaks.read(dtype))
        context = mean_context(protocol.depth + protocol.prompt_tokens, protocol.new_tokens)
        bound = bound_of(subject.step(protocol.batch, context), _mean_step_s(measured), peaks)
        text = self._bytes_per_token(subject)
        row = make_row(subject, protocol, self._environment, measured, bound, text)
        if plan.suite is not None:
            row["suite"] = plan.suite.name
        if case.reference_tok_per_s is not None:
            row["reference"] = {"tok_per_s_per_sequence": case.reference_tok_per_s}
            if plan.suite is not None and plan.suite.reference:
                row["reference"]["source"] = plan.suite.reference
        return row

    def _measure(self, case: Case, number: str) -> dict[str, Any]:
        subject, protocol = case.subject, case.protocol
        request = {
            "subject": subject.request(),
            "protocol": asdict(protocol),
            "threads": self._threads,
        }
        depth = f", context {protocol.depth}" if protocol.depth else ""
        name = (
            f"{number}: {subject.name} {subject.runtime} {subject.precision},"
            f" batch {protocol.batch}{depth}"
        )
        with self._reporter.task(name, protocol.repeats * protocol.new_tokens) as task:
            task.advance(0, "loading")
            return run_worker(request, lambda event: _show(event, task))

    def _state(self) -> dict[str, float | None]:
        if self._device == "cuda":
            return {
                "temperature_celsius": cuda_temperature_celsius(),
                "frequency_hz": cuda_frequency_hz(),
            }
        return {
            "temperature_celsius": temperature_celsius(),
            "frequency_hz": cpu_frequency_hz(),
        }

    def _bytes_per_token(self, subject: Subject) -> float | None:
        if subject.path is None:
            return None
        if subject.path not in self._text:
            self._text[subject.path] = self._read_bytes_per_token(subject.path)
        return self._text[subject.path]

    def _read_bytes_per_token(self, path: Path) -> float | None:
        try:
            return bytes_per_token(path)
        except DataError as error:
            self._reporter.say(f"bytes of text per second are left out: {error}")
            return None


def _kept_rows(config: BenchConfig, device: PeakDevice) -> list[dict[str, Any]]:
    """Return the rows that --resume goes on from; those that are not valid stay until replaced.

    Raises ConfigError for those of another machine or device, DataError for what are no rows.
    """
    if not config.resume or config.out is None or not config.out.exists():
        return []
    rows = read_result(config.out)
    try:
        _ = [(row["valid"], row_key(row)) for row in rows]
        seen = {(row["cpu_info"], row.get("gpu_info")) for row in rows}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"a row of {config.out} is not one of bench ({error}); choose another --out"
        ) from error
    others = seen - {(here := (cpu_model(), cuda_name() if device == "cuda" else None))}
    if others:
        there, this = (", ".join(filter(None, each)) for each in (others.pop(), here))
        raise ConfigError(
            f"{config.out} has rows of another machine or device ({there}; this is {this});"
            " choose another --out"
        )
    return rows


def _in_order(rows: Sequence[dict[str, Any]], plan: Plan, threads: int) -> list[dict[str, Any]]:
    """Return the rows in the order of the plan, those of other plans after them."""
    places = {case.key(threads): place for place, case in enumerate(plan.cases)}
    return sorted(rows, key=lambda row: places.get(row_key(row), len(places)))


def _show(event: Mapping[str, Any], task: Task) -> None:
    if event["event"] == "progress":
        task.advance(event["tokens"], event["phase"])


def _mean_step_s(measured: Mapping[str, Any]) -> float:
    """Return the mean step of the median run: the roofline is that of the mean context."""
    runs = measured["timings"]["runs"]
    # Through rates, so that it agrees with the row's decode speed for an even number of runs too.
    return 1e-9 / median([len(run["step_ns"]) / sum(run["step_ns"]) for run in runs])


def _environment(device: PeakDevice, threads: int) -> Environment:
    now = datetime.datetime.now(datetime.UTC)
    return Environment(
        cpu=cpu_model(),
        gpu=cuda_name() if device == "cuda" else None,
        threads=threads,
        commit=commit(),
        edgetiny_version=edgetiny.__version__,
        test_time=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def commit() -> str:
    """Return the checkout's git commit, marked if files differ from it; the version elsewhere."""
    root = Path(edgetiny.__file__).parents[1]
    if not (root / ".git").exists():
        return edgetiny.__version__
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return edgetiny.__version__
    return found.stdout.strip()
