"""`edgetiny gate`: base and head measured side by side; fails only on a proven regression."""

import hashlib
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgetiny.artefact import MANIFEST, Artefact, is_artefact
from edgetiny.bench.deterministic import (
    EXPORT_FAILED,
    Absent,
    Figure,
    Figures,
    compare_figures,
    count,
    write_tiny,
)
from edgetiny.bench.gate_result import SCHEMA_VERSION, GateResult, SpeedLine, stored_line
from edgetiny.bench.gate_sides import Side, both_sides
from edgetiny.bench.gate_speed import measure_speed
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.compare import GateConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.cost import run_memory
from edgetiny.device import cpu_model
from edgetiny.errors import ConfigError, DataError, DeviceError
from edgetiny.files import atomic_file, read_json, refuse_existing, sha256_file, writing
from edgetiny.measure import available_bytes, cores

# 7.5M parameters: a step of milliseconds, in which what a change of the code costs still shows.
SUBJECT = ModelConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=64,
)


@dataclass(frozen=True, slots=True)
class _Baseline:
    """What an earlier gate kept of its head."""

    name: str
    figures: Figures
    step_ms: Mapping[int, list[list[float]]]


def run(config: GateConfig, reporter: Reporter = QUIET) -> GateResult:
    """Judge --head against --base and write what was asked for.

    Raises a one-line error for a side that is not there or cannot be measured, a baseline of
    another machine, model or schema or without a batch's speed, and a model that does not fit the
    memory three times.
    """
    written = [
        path for path in (config.out, config.markdown, config.github, config.bencher) if path
    ]
    if len(set(written)) < len(written):
        raise ConfigError("--out, --markdown, --github and --bencher must be different files")
    for path in written:
        refuse_existing(path, overwrite=config.overwrite)
        with writing(path):  # found out before the long run, not after it
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()
    subject, sha256, opening = _subject(config)
    machine = _machine(config.threads)
    suite = _suite(config, subject, sha256)
    baseline = None
    if config.base is not None and config.base.endswith(".json"):
        timed = config.batch if config.speed else ()
        baseline = _read_baseline(Path(config.base), machine, suite, timed)
        config = replace(config, base=None)
    if config.speed:
        _check_memory(subject, config)
    with both_sides(config.base, config.head) as (base, head):
        result = _judge(config, opening, base, head, baseline, reporter)
    result = replace(result, machine=machine, suite=suite, margin=config.margin)
    for path, text in result.files(config).items():
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return result


def _judge(
    config: GateConfig,
    opening: Mapping[str, Any],
    base: Side | None,
    head: Side,
    baseline: _Baseline | None,
    reporter: Reporter,
) -> GateResult:
    counted = _count_both(config, opening, base, head, reporter)
    head_figures, head_absent = counted["head"]
    base_figures, base_absent = counted.get("base", ({}, {}))
    if baseline is not None:
        base_figures, base_absent = _countable(baseline.figures, head_figures, head_absent)
    lines = []
    if config.speed:
        # Without base the head is measured against itself: its noise, and a baseline for later.
        rows = measure_speed(base or head, head, opening, config, reporter)
        for row in rows:
            if base is not None:
                lines.append(SpeedLine.of(row))
            else:
                stored = [] if baseline is None else baseline.step_ms.get(row.batch, [])
                lines.append(stored_line(row, stored, config))
    has_base = base is not None or baseline is not None
    return GateResult(
        base=base.name if base is not None else baseline.name if baseline is not None else None,
        head=head.name,
        is_stored=baseline is not None,
        speed=lines,
        changes=compare_figures(base_figures, head_figures, head_absent) if has_base else [],
        figures=head_figures,
        absent=base_absent | head_absent,
    )


def _countable(stored: Figures, head: Figures, head_absent: Absent) -> tuple[Figures, Absent]:
    """Return the stored figures that this call counts too, and why not the others.

    One that a flag or a missing tool leaves out broke nothing; one whose export failed did.
    """
    failed = {name for name, why in head_absent.items() if why.startswith(EXPORT_FAILED)}
    kept = {name: each for name, each in stored.items() if name in head or name in failed}
    return kept, {name: "in the baseline, not counted now" for name in stored if name not in kept}


def _count_both(
    config: GateConfig,
    opening: Mapping[str, Any],
    base: Side | None,
    head: Side,
    reporter: Reporter,
) -> dict[str, tuple[Figures, Absent]]:
    """Count both sides at once: counts do not mind company."""
    sides = {"head": head} | ({"base": base} if base is not None else {})
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny"
        write_tiny(checkpoint)
        with (
            reporter.task("counting operators, nodes, bytes and instructions"),
            ThreadPoolExecutor(len(sides)) as pool,
        ):
            pending = {
                name: pool.submit(count, side, opening, checkpoint, config)
                for name, side in sides.items()
            }
            return {name: each.result() for name, each in pending.items()}


def _subject(config: GateConfig) -> tuple[ModelConfig, str, dict[str, Any]]:
    """Return the shape that is decoded, the hash of all of it, and what opens it in a process."""
    context = config.prompt_tokens + config.steps
    opening: dict[str, Any] = {"path": None, "config": SUBJECT.to_hf(), "context": context}
    subject, sha256 = SUBJECT, hashlib.sha256(json.dumps(SUBJECT.to_hf()).encode()).hexdigest()
    if config.source is not None:
        opened: Artefact | Checkpoint
        if is_artefact(config.source):
            opened = Artefact.open(config.source)
            sha256 = sha256_file(config.source / MANIFEST)  # it has the hash of every other file
        else:
            opened = Checkpoint.open(config.source)
            sha256 = opened.sha256
        subject = opened.config
        opening |= {"path": str(config.source.resolve()), "config": subject.to_hf()}
    if context > subject.max_position_embeddings:
        raise ConfigError(
            f"the model holds {subject.max_position_embeddings} tokens, {config.prompt_tokens} +"
            f" {config.steps} were asked for; give fewer --steps"
        )
    return subject, sha256, opening | {"threads": config.threads}


def _machine(threads: int) -> dict[str, Any]:
    """Return what decides the speeds and counts of one revision."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": threads,
        "torch": version("torch"),
        "python": platform.python_version(),
    }


def _suite(config: GateConfig, subject: ModelConfig, sha256: str) -> dict[str, Any]:
    """Return what decides which figures can be held against each other."""
    return {
        "source": None if config.source is None else str(config.source),
        "sha256": sha256,
        "num_hidden_layers": subject.num_hidden_layers,
        "hidden_size": subject.hidden_size,
        "vocab_size": subject.vocab_size,
        "prompt_tokens": config.prompt_tokens,
        "steps": config.steps,
    }


def _check_memory(subject: ModelConfig, config: GateConfig) -> None:
    context = config.prompt_tokens + config.steps
    need = 3 * run_memory(subject, "fp32", max(config.batch), context).total
    available = available_bytes()
    if available is not None and need > available:
        raise DeviceError(
            f"three processes with this model at batch {max(config.batch)} need"
            f" {need / 1e9:.2f} GB,"
            f" {available / 1e9:.2f} GB are free; give a smaller --batch, or --no-speed"
        )


def _read_baseline(
    path: Path, machine: Mapping[str, Any], suite: Mapping[str, Any], batches: Sequence[int]
) -> _Baseline:
    """Return an earlier gate's head. Raises a one-line error unless it was measured as this is.

    batches: those whose speed it has to hold.
    """
    document = read_json(path, schema_version=SCHEMA_VERSION, error=DataError)
    if document.get("kind") != "gate":
        raise DataError(f"{path} is no gate's result; write one with: edgetiny gate --out {path}")
    try:
        for what, here in (("machine", machine), ("suite", suite)):
            _refuse_another(path, what, document[what], here)
        found = _Baseline(
            name=f"{path}: {document['head']}",
            figures={name: Figure.from_json(each) for name, each in document["figures"].items()},
            step_ms={row["batch"]: row["samples_step_ms"]["head"] for row in document["speed"]},
        )
    except KeyError as error:
        raise DataError(
            f"{path} lacks {error}; write it again with: edgetiny gate --out"
        ) from error
    untimed = [str(batch) for batch in batches if not found.step_ms.get(batch)]
    if untimed:
        raise DataError(
            f"baseline {path} holds no speed at batch {', '.join(untimed)}; write it again with"
            " that --batch, or give --no-speed"
        )
    return found


def _refuse_another(
    path: Path, what: str, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    different = [
        f"{key} {there.get(key)} there, {here[key]} here"
        for key in here
        if there.get(key) != here[key]
    ]
    if different:
        raise DataError(
            f"baseline {path} is of another {what}: {'; '.join(different)}; measure the revision"
            " itself instead: --base REV"
        )
