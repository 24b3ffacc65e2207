"""A result: one JSON row per measurement, a superset of llama-bench's fields.

The format is described in docs/formats/result.md.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.bench.launch_cost import fits_table
from edgetiny.bench.protocol import Protocol
from edgetiny.bench.roofline import Bound
from edgetiny.bench.subject import Subject
from edgetiny.bench.table import table
from edgetiny.errors import DataError
from edgetiny.files import read_json
from edgetiny.measure import median, percentile, spread

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The rows of one call of `edgetiny bench`, and the file that holds them."""

    rows: list[dict[str, Any]]
    path: Path | None

    def document(self) -> dict[str, Any]:
        """Return the result file's content."""
        return {"schema_version": SCHEMA_VERSION, "rows": self.rows}

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints: a table, and what depth costs if it varies."""
        written = {} if self.path is None else {"written_to": str(self.path)}
        return table(self.rows) | fits_table(self.rows) | written


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Where a row was measured: the same for all rows of a call."""

    cpu: str
    gpu: str | None
    threads: int
    commit: str
    edgetiny_version: str
    test_time: str


def read_result(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a result file. Raises DataError if it is none, or is newer than we are."""
    document = read_json(path, schema_version=SCHEMA_VERSION, error=DataError)
    rows = document.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} has no rows; was it written by edgetiny bench?")
    return rows


def make_row(
    subject: Subject,
    protocol: Protocol,
    environment: Environment,
    measured: Mapping[str, Any],
    bound: Bound,
    bytes_per_token: float | None,
) -> dict[str, Any]:
    """Put one row together from what the worker measured and what the machine could do."""
    # What a step reads was counted before loading: the engine must hold what was supposed.
    assert measured["engine"]["kv_dtype"] == subject.kv_precision, measured["engine"]
    runs = measured["timings"]["runs"]
    doubts = list(bound.doubts)
    if not all(run["is_finite"] for run in runs):
        doubts.append("the logits are not finite")
    speed = _speed(runs, protocol)
    text = {}
    if bytes_per_token is not None:
        tok_per_s = speed["tok_per_s_summed"]["median"]
        text = {
            "bytes_per_token": bytes_per_token,
            "text_bytes_per_s_summed": tok_per_s * bytes_per_token,
        }
    return (
        _llama_bench(subject, protocol, environment, runs)
        | _what_and_where(subject, protocol, environment, measured)
        | speed
        | text
        | _energy(runs, protocol)
        | _sustained(measured["timings"]["sustained"])
        | {
            "load_ms": measured["load_ms"],
            "load_is_cold": measured["load_is_cold"],
            "prepare_ms": measured["prepare_ms"],
            "rss_before_load_bytes": measured["rss_before_load_bytes"],
            "peak_rss_bytes": measured["peak_rss_bytes"],
            **_present("peak_device_bytes", measured["peak_device_bytes"]),
            "temperature_celsius": measured["temperature_celsius"],
            "frequency_hz": measured["frequency_hz"],
            "roofline": bound.as_json(),
            "valid": not doubts,
            "doubts": doubts,
        }
    )


def _llama_bench(
    subject: Subject,
    protocol: Protocol,
    environment: Environment,
    runs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the fields that llama-bench has, under its names."""
    samples_ns = [_total_ns(run) for run in runs]
    n_tokens = protocol.batch * protocol.new_tokens
    samples_ts = [1e9 * n_tokens / sample for sample in samples_ns]
    return {
        "build_commit": environment.commit,
        "cpu_info": environment.cpu,
        **_present("gpu_info", environment.gpu),
        "model_filename": subject.name,
        **_present("model_sha256", subject.sha256),
        "model_type": subject.model_type,
        "model_size": subject.size_bytes,
        "model_n_params": subject.n_parameters,
        "n_batch": protocol.batch,
        "n_threads": environment.threads,
        "n_prompt": protocol.prompt_tokens,
        "n_gen": protocol.new_tokens,
        "n_depth": protocol.depth,
        "test_time": environment.test_time,
        "avg_ns": round(statistics.fmean(samples_ns)),
        "stddev_ns": round(_deviation(samples_ns)),
        "avg_ts": statistics.fmean(samples_ts),
        "stddev_ts": _deviation(samples_ts),
        "samples_ns": samples_ns,
        "samples_ts": samples_ts,
        "samples_ttft_ns": [run["prefill_ns"] for run in runs],
    }


def _what_and_where(
    subject: Subject,
    protocol: Protocol,
    environment: Environment,
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    engine, timings = measured["engine"], measured["timings"]
    return {
        "source": subject.kind,
        "runtime": engine["name"],
        "device": engine["device"],
        "precision": engine["precision"],
        "held_precision": subject.held_precision,
        "kv_dtype": engine["kv_dtype"],
        "versions": {"edgetiny": environment.edgetiny_version} | measured["versions"],
        "model": subject.shape,
        "protocol": {
            "sampling": "greedy",
            "stops_at_eos": False,
            "prompt_seed": protocol.seed,
            "repeats": protocol.repeats,
            "sustained_minutes": protocol.sustained_minutes,
            "warmup_runs": timings["warmup_runs"],
            "warmup_tokens": timings["warmup_tokens"],
            "warmup_is_stable": timings["warmup_is_stable"],
        },
    }


def _speed(runs: Sequence[Mapping[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """Return times and rates; a rate per sequence and one summed over the batch, always both."""
    prefill_s = [run["prefill_ns"] / 1e9 for run in runs]
    decode_s = [sum(run["step_ns"]) / 1e9 for run in runs]
    total_s = [_total_ns(run) / 1e9 for run in runs]
    # The first new token came out of the prefill.
    n_steps = protocol.new_tokens - 1
    whole = [protocol.new_tokens / seconds for seconds in total_s]
    decode = [n_steps / seconds for seconds in decode_s]
    prefill = [protocol.prompt_tokens / seconds for seconds in prefill_s]
    steps_ms = [step / 1e6 for run in runs for step in run["step_ns"]]
    return {
        "ttft_ms": _spread([1e3 * seconds for seconds in prefill_s]),
        "tok_per_s_per_sequence": _spread(whole),
        "tok_per_s_summed": _spread([rate * protocol.batch for rate in whole]),
        "decode_tok_per_s_per_sequence": _spread(decode),
        "decode_tok_per_s_summed": _spread([rate * protocol.batch for rate in decode]),
        "prefill_tok_per_s_summed": _spread([rate * protocol.batch for rate in prefill]),
        "step_ms": {f"p{percent}": percentile(steps_ms, percent) for percent in (50, 90, 99)},
    }


def _energy(runs: Sequence[Mapping[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """Return what a new token took, of all that the processor used; nothing if it is not shown."""
    used = [run["energy_j"] for run in runs]
    if None in used:
        return {}
    n_tokens = protocol.batch * protocol.new_tokens
    return {"joules_per_token": _spread([joules / n_tokens for joules in used])}


def _sustained(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sustained part: its samples, and the last quarter beside the first."""
    if not samples:
        return {}
    rates = [sample["tok_per_s_summed"] for sample in samples]
    quarter = max(1, len(rates) // 4)
    first, last = median(rates[:quarter]), median(rates[-quarter:])
    return {
        "sustained": {
            "minutes": samples[-1]["at_s"] / 60,
            "runs": len(samples),
            "first_tok_per_s_summed": first,
            "last_tok_per_s_summed": last,
            "change": last / first - 1,
            "samples": list(samples),
        }
    }


def _present(name: str, value: Any) -> dict[str, Any]:
    """Return a field that is left out where it cannot be known."""
    return {} if value is None else {name: value}


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = spread(values)
    return {"median": found.median, "p10": found.p10, "p90": found.p90}


def _deviation(values: Sequence[float]) -> float:
    """Return the sample's standard deviation; 0 for a single value, as llama-bench has it."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _total_ns(run: Mapping[str, Any]) -> int:
    total: int = run["prefill_ns"] + sum(run["step_ns"])
    return total
