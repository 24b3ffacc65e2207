"""What is measured: an artefact, a checkpoint, or a design with random weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from edgetiny.artefact import MANIFEST, SCHEMA_VERSION, is_artefact
from edgetiny.bench.designs import DESIGNS, DTYPES, Design, choose_design
from edgetiny.bench.protocol import Protocol
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.run import BenchConfig
from edgetiny.console import Reporter
from edgetiny.cost import (
    Precision,
    RunMemory,
    StepCost,
    parameters,
    run_memory,
    step_cost,
    weight_bytes,
)
from edgetiny.errors import ArtefactError, ConfigError, DeviceError
from edgetiny.files import read_json
from edgetiny.measure import available_bytes, gemm_peak

_PROBE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to measure, known without loading its weights.

    name: its folder, or the name of the design. path: None for a design.
    precision: of the weights as they are stored. held_precision, kv_precision: of weights and
    cache as the engine holds them, which is what a step reads.
    max_batch: None if any number of sequences goes.
    size_bytes: of an artefact's files, else of the weights in memory.
    """

    kind: Literal["artefact", "checkpoint", "design"]
    name: str
    path: Path | None
    config: ModelConfig
    precision: Precision
    held_precision: Precision
    kv_precision: Precision
    block_size: int
    max_batch: int | None
    max_context: int
    size_bytes: int

    @property
    def model_type(self) -> str:
        """Shape and precision in words, as llama-bench has it."""
        config = self.config
        return f"llama {config.num_hidden_layers}x{config.hidden_size} {self.precision}"

    @property
    def n_parameters(self) -> int:
        """Parameters, a tied table counted once."""
        return parameters(self.config).total

    def step(self, batch: int, context: float) -> StepCost:
        """Return what one decode step reads and computes."""
        return step_cost(
            self.config,
            self.held_precision,
            batch,
            context,
            block_size=self.block_size,
            kv_precision=self.kv_precision,
        )

    def memory(self, protocol: Protocol) -> RunMemory:
        """Return the memory that the protocol needs, the engine itself left out."""
        return run_memory(
            self.config,
            self.held_precision,
            protocol.batch,
            protocol.context,
            block_size=self.block_size,
            kv_precision=self.kv_precision,
        )

    def request(self) -> dict[str, Any]:
        """Return what a worker needs to load it, as JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "config": self.config.to_hf(),
            "precision": self.precision,
        }


def find_subject(config: BenchConfig, threads: int, reporter: Reporter) -> Subject:
    """Return what the settings name, or the largest design that this machine measures in minutes.

    Raises a one-line error for a folder that cannot be run, or a precision that it does not have.
    """
    if config.source is None:
        return _of_design(config, threads, reporter)
    if is_artefact(config.source):
        return _of_artefact(config.source, config.precision)
    return _of_checkpoint(config.source, config.precision)


def check_fits(subject: Subject, protocol: Protocol, available: int | None) -> None:
    """Raise a one-line error if context, batch or memory do not do, before anything is loaded."""
    if protocol.context > subject.max_context:
        raise ConfigError(
            f"{subject.name} holds {subject.max_context} tokens, {protocol.prompt_tokens} +"
            f" {protocol.new_tokens} were asked for; give --new-tokens"
            f" {max(2, subject.max_context - protocol.prompt_tokens)} or less"
        )
    if subject.max_batch is not None and protocol.batch > subject.max_batch:
        raise ConfigError(
            f"{subject.name} decodes at most {subject.max_batch} sequences together, not"
            f" {protocol.batch}; give --batch {subject.max_batch} or less"
        )
    need = subject.memory(protocol)
    if available is not None and need.total > available:
        raise DeviceError(
            f"{subject.name} at batch {protocol.batch} needs {_gb(need.total)} ({_gb(need.weights)}"
            f" of weights, {_gb(need.kv_cache)} of KV cache), {_gb(available)} are free;"
            " give a smaller --batch or fewer --new-tokens"
        )


def _of_design(config: BenchConfig, threads: int, reporter: Reporter) -> Subject:
    torch.set_num_threads(threads)
    precision = config.precision or _fastest_precision(threads)
    with reporter.task("choosing a model that fits this machine"):
        choice = choose_design(
            DESIGNS,
            precision,
            config.batch,
            config.prompt_tokens,
            config.new_tokens,
            config.repeats,
            available_bytes(),
        )
    subject = subject_of_design(choice.design, precision)
    reporter.say(
        f"no model given: random weights of {subject.name} ({choice.design.source}),"
        f" {precision}; {choice.reason}"
    )
    return subject


def subject_of_design(design: Design, precision: Precision) -> Subject:
    """Return a design as what is measured, in the eager runtime."""
    return Subject(
        kind="design",
        name=design.name,
        path=None,
        config=design.config,
        precision=precision,
        held_precision=precision,
        kv_precision=precision,
        block_size=1,
        max_batch=None,
        max_context=design.config.max_position_embeddings,
        size_bytes=weight_bytes(design.config, precision).total,
    )


def _of_checkpoint(source: Path, asked: Precision | None) -> Subject:
    checkpoint = Checkpoint.open(source)
    precision = asked or _stored_precision(checkpoint)
    return Subject(
        kind="checkpoint",
        name=str(source),
        path=checkpoint.path,
        config=checkpoint.config,
        precision=precision,
        held_precision=precision,
        kv_precision=precision,
        block_size=1,
        max_batch=None,
        max_context=checkpoint.config.max_position_embeddings,
        size_bytes=weight_bytes(checkpoint.config, precision).total,
    )


def _of_artefact(source: Path, asked: Precision | None) -> Subject:
    if asked is not None:
        raise ConfigError(
            f"--precision does not apply to the artefact {source}: it keeps the precision of its"
            " export; leave it out"
        )
    manifest = read_json(source / MANIFEST, schema_version=SCHEMA_VERSION, error=ArtefactError)
    config = ModelConfig.from_hf(read_json(source / "config.json", error=ArtefactError))
    try:
        precision = manifest["precision"]
        return Subject(
            kind="artefact",
            name=str(source),
            path=source,
            config=config,
            precision=precision,
            # onnxruntime has no fp16 product on a CPU: it casts the weights once, at loading.
            held_precision=manifest["compute_dtype"] if precision == "fp16" else precision,
            kv_precision=manifest["kv_dtype"],
            block_size=manifest.get("block_size") or 1,
            max_batch=manifest["max_batch"],
            max_context=manifest["context"],
            size_bytes=_graph_bytes(manifest["files"]),
        )
    except KeyError as error:
        raise ArtefactError(f"{source / MANIFEST} lacks {error}; export it again") from error


def _graph_bytes(files: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(facts["bytes"] for name, facts in files.items() if name.startswith("model.onnx"))


def _stored_precision(checkpoint: Checkpoint) -> Precision:
    dtype = checkpoint.tensor("model.embed_tokens.weight").dtype
    for precision, known in DTYPES.items():
        if dtype == known:
            return precision
    raise ConfigError(
        f"{checkpoint.path} is stored as {str(dtype).removeprefix('torch.')}, which torch computes"
        " on a CPU many times slower than fp32; give --precision fp32 or --precision bf16"
    )


def _fastest_precision(threads: int) -> Precision:
    """Return the type whose matrix product is fastest here; random weights may have either."""
    rates: dict[Precision, float] = {}
    for precision in ("fp32", "bf16"):
        peak = gemm_peak(precision, threads, _PROBE_SECONDS)
        rates[precision] = peak.flops_per_s if peak else 0.0
    return max(rates, key=lambda precision: rates[precision])


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
