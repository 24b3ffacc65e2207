"""`edgetiny bench`: the paper's protocol on one model, a process per row, beside the roofline."""

import datetime
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import edgetiny
from edgetiny.bench.process import run_worker
from edgetiny.bench.protocol import Protocol
from edgetiny.bench.result import BenchResult, Environment, make_row
from edgetiny.bench.roofline import GEMM_DTYPE, Peaks, bound_of
from edgetiny.bench.subject import Subject, check_fits, find_subject
from edgetiny.bench.text_rate import bytes_per_token
from edgetiny.config.run import BenchConfig
from edgetiny.console import QUIET, Reporter, Task
from edgetiny.cost import mean_context
from edgetiny.device import cpu_model
from edgetiny.errors import DataError, DeviceError
from edgetiny.files import atomic_file, refuse_existing, write_json, writing
from edgetiny.measure import (
    available_bytes,
    cores,
    gemm_peak,
    median,
    read_bandwidth,
    temperature_celsius,
)

_BANDWIDTH_SECONDS = 1.0
_GEMM_SECONDS = 1.0


def run(config: BenchConfig, reporter: Reporter = QUIET) -> BenchResult:
    """Measure one row per batch size and write them to --out, if given.

    An interruption keeps the rows that are complete.
    Raises a one-line error for a device, folder, batch, context or memory that does not do.
    """
    _refuse_device(config.device)
    if config.out is not None:
        refuse_existing(config.out, overwrite=config.overwrite)
        _check_writable(config.out)
    threads = config.threads or cores()
    subject = find_subject(config, threads, reporter)
    protocols = [
        Protocol(
            batch=batch,
            prompt_tokens=config.prompt_tokens,
            new_tokens=config.new_tokens,
            repeats=config.repeats,
        )
        for batch in config.batch
    ]
    for protocol in protocols:
        check_fits(subject, protocol, available_bytes())
    rows: list[dict[str, Any]] = []
    try:
        _measure_rows(subject, protocols, threads, reporter, rows)
    finally:
        if rows and config.out is not None:
            _write(rows, config.out)
            if len(rows) < len(protocols):
                reporter.say(f"{len(rows)} of {len(protocols)} rows kept in {config.out}")
    return BenchResult(rows, config.out)


def _measure_rows(
    subject: Subject,
    protocols: list[Protocol],
    threads: int,
    reporter: Reporter,
    rows: list[dict[str, Any]],
) -> None:
    """Append a row per protocol, with the machine's bandwidth read before and after each."""
    text_bytes = _bytes_per_token(subject, reporter)
    environment = _environment(threads)
    gemm = gemm_peak(GEMM_DTYPE[subject.held_precision], threads, _GEMM_SECONDS)
    before = read_bandwidth(threads, _BANDWIDTH_SECONDS)
    for protocol in protocols:
        cool = temperature_celsius()
        measured = _run_protocol(subject, protocol, threads, reporter)
        measured["temperature_celsius"] = {"before": cool, "after": temperature_celsius()}
        after = read_bandwidth(threads, _BANDWIDTH_SECONDS)
        step = subject.step(
            protocol.batch, mean_context(protocol.prompt_tokens, protocol.new_tokens)
        )
        bound = bound_of(step, _mean_step_s(measured), Peaks(before, after, gemm))
        rows.append(make_row(subject, protocol, environment, measured, bound, text_bytes))
        before = after


def _run_protocol(
    subject: Subject, protocol: Protocol, threads: int, reporter: Reporter
) -> dict[str, Any]:
    request = {"subject": subject.request(), "protocol": asdict(protocol), "threads": threads}
    total = protocol.repeats * protocol.new_tokens
    with reporter.task(f"batch {protocol.batch}", total) as task:
        task.advance(0, "loading")
        return run_worker(request, lambda event: _show(event, task))


def _show(event: Mapping[str, Any], task: Task) -> None:
    if event["event"] == "progress":
        task.advance(event["tokens"], event["phase"])


def _mean_step_s(measured: Mapping[str, Any]) -> float:
    """Return the mean step of the median run: the roofline is that of the mean context."""
    runs = measured["timings"]["runs"]
    # Through rates, so that it agrees with the row's decode speed for an even number of runs too.
    return 1e-9 / median([len(run["step_ns"]) / sum(run["step_ns"]) for run in runs])


def _refuse_device(device: str) -> None:
    if device == "android":
        raise DeviceError("--device android comes in a later release; measure with --device cpu")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise DeviceError(
                "--device cuda: torch finds no CUDA device here; measure with --device cpu"
            )
        raise DeviceError("--device cuda comes in a later release; measure with --device cpu")


def _check_writable(out: Path) -> None:
    """Find out before the long run, not after it, that the result cannot be written."""
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    with atomic_file(out) as path:
        write_json(path, BenchResult(rows, out).document())


def _bytes_per_token(subject: Subject, reporter: Reporter) -> float | None:
    if subject.path is None:
        return None
    try:
        return bytes_per_token(subject.path)
    except DataError as error:
        reporter.say(f"bytes of text per second are left out: {error}")
        return None


def _environment(threads: int) -> Environment:
    now = datetime.datetime.now(datetime.UTC)
    return Environment(
        cpu=cpu_model(),
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
