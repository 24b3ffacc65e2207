"""The process that measures one row: `python -m edgetiny.bench.worker`, JSON in, JSON lines out.

One engine per process, always: threads of an idle engine spin and slow the next one several times.
Standard input is one request; standard output is one event a line (loaded, progress, result,
error). Whatever else is printed goes to standard error.
"""

import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgetiny.artefact import is_artefact, read_manifest
from edgetiny.bench.designs import random_model
from edgetiny.bench.protocol import Protocol, measure
from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import EdgetinyError
from edgetiny.measure import clock_ns, peak_rss_bytes, reset_peak_rss, rss_bytes
from edgetiny.model import empty_model
from edgetiny.runtimes import EagerRuntime, Runtime, open_random, open_runtime
from edgetiny.runtimes.open import require_executorch

_NS_BETWEEN_EVENTS = 200_000_000

Emit = Callable[[Mapping[str, Any]], None]


def main() -> int:
    """Measure the row that standard input asks for. Errors of the user are events, exit code 0."""
    # Libraries print where they like; the events keep the real standard output to themselves.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: Mapping[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    try:
        emit({"event": "result"} | measure_request(json.load(sys.stdin), emit))
    except EdgetinyError as error:
        emit({"event": "error", "kind": type(error).__name__, "message": str(error)})
    return 0


def measure_request(request: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Load the model and run the protocol; return load time, memory, versions and timings."""
    protocol = Protocol(**request["protocol"])
    subject, threads = request["subject"], request["threads"]
    _import_engine(subject)
    is_cold = subject["path"] is not None and drop_from_page_cache(Path(subject["path"]))
    reset_peak_rss()
    before_bytes = rss_bytes()
    start = clock_ns()
    runtime = _open(subject, protocol, threads)
    load_ns = clock_ns() - start
    emit({"event": "loaded"})
    emit({"event": "progress", "phase": "preparing", "tokens": 0})
    start = clock_ns()
    runtime.prepare(protocol.batch)
    prepare_ns = clock_ns() - start
    timings = measure(runtime, protocol, _Throttled(emit))
    return {
        # Random weights were made, not loaded.
        "load_ms": load_ns / 1e6 if subject["path"] is not None else None,
        "load_is_cold": is_cold,
        "prepare_ms": prepare_ns / 1e6,
        "rss_before_load_bytes": before_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_device_bytes": _peak_device_bytes(subject["device"]),
        "engine": asdict(runtime.engine),
        "versions": _versions(runtime.engine.name),
        "timings": asdict(timings),
    }


def drop_from_page_cache(folder: Path) -> bool:
    """Ask the kernel to forget the files of a model, so that loading reads the disk.

    Return whether it was asked.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    if is_artefact(folder):
        files = [folder / name for name in read_manifest(folder)["files"]]
    else:
        files = [path for path in folder.iterdir() if path.is_file()]
    for file in files:
        with contextlib.suppress(OSError), file.open("rb") as stream:
            os.fsync(stream.fileno())  # what is not on the disk yet is not forgotten
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return bool(files)


class _Throttled:
    """Progress as events, at most five a second: writing them must not show in the times."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._tokens = 0
        self._phase = ""
        self._last_ns = clock_ns()

    def __call__(self, phase: str, tokens: int) -> None:
        self._tokens += tokens
        now = clock_ns()
        if phase == self._phase and now - self._last_ns < _NS_BETWEEN_EVENTS:
            return
        self._emit({"event": "progress", "phase": phase, "tokens": self._tokens})
        self._tokens, self._phase, self._last_ns = 0, phase, now


def _open(subject: Mapping[str, Any], protocol: Protocol, threads: int) -> Runtime:
    name, precision, device = subject["runtime"], subject["precision"], subject["device"]
    config = ModelConfig.from_hf(subject["config"])
    if subject["kind"] == "artefact":
        return open_runtime(
            subject["path"],
            runtime=name,
            context=protocol.context,
            threads=threads,
            max_batch=protocol.batch,
        )
    if subject["kind"] == "checkpoint":
        return open_runtime(
            subject["path"],
            runtime=name,
            context=protocol.context,
            precision=precision,
            threads=threads,
            device=device,
            max_batch=protocol.batch,
        )
    if name == "eager" and precision == "int8":
        model = random_model(config, precision)
        path = Path(subject["name"])
        runtime = EagerRuntime(model, path, context=protocol.context, threads=threads)
        runtime.engine = replace(runtime.engine, precision=precision)
        return runtime
    return open_random(
        config,
        runtime=name,
        precision=precision,
        device=device,
        context=protocol.context,
        max_batch=protocol.batch,
        threads=threads,
        name=subject["name"],
    )


def _peak_device_bytes(device: str) -> int | None:
    """Return the most memory that this process had on a GPU; None where there is none."""
    if device != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_reserved()


def _import_engine(subject: Mapping[str, Any]) -> None:
    """Import before the clock starts: load time is the model's, not Python's."""
    if subject["runtime"] == "executorch":
        require_executorch()
        import edgetiny.runtimes.executorch_runtime
    elif subject["runtime"] == "onnx":
        import edgetiny.runtimes.ort  # noqa: F401
    else:
        # torch imports some 800 modules when the first model is built without memory.
        empty_model(ModelConfig.from_hf(subject["config"]))
    if subject["device"] == "cuda":
        import torch

        # The first tensor makes the context: some hundred ms that are not the model's.
        torch.zeros(1, device="cuda")
        torch.cuda.synchronize()


def _versions(engine: str) -> dict[str, str]:
    packages = [engine if engine in ("onnxruntime", "executorch") else "torch", "numpy"]
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # some builds of onnxruntime have another package name
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
