"""What is measured: an artefact, a checkpoint, or a design with random weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from edgetiny.artefact import MANIFEST, is_artefact, models_of, pick, read_manifest
from edgetiny.bench.protocol import Protocol
from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.run import RuntimeName
from edgetiny.cost import (
    Precision,
    RunMemory,
    StepCost,
    parameters,
    run_memory,
    step_cost,
    weight_bytes,
)
from edgetiny.design import Design
from edgetiny.errors import ArtefactError, ConfigError, DeviceError
from edgetiny.files import read_json, sha256_file
from edgetiny.measure.peaks import PeakDevice
from edgetiny.runtimes.precision import check_device, compute_precision, precision_of

# Of torch's runtimes a matrix at int8 has one scale per row.
_ROW = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to measure, known without loading its weights.

    name: its folder, or the name of the design. path: None for a design.
    precision: of the weights as they are stored. held_precision, kv_precision: of weights and
    cache as the engine holds them, which is what a step reads; table_precision: of the embedding.
    max_batch: None if any number of sequences goes.
    size_bytes: of an artefact's files, else of the weights in memory.
    sha256: of a checkpoint, or of an artefact's manifest, which has those of its files; None for a
    design.
    """

    kind: Literal["artefact", "checkpoint", "design"]
    name: str
    path: Path | None
    config: ModelConfig
    precision: Precision
    held_precision: Precision
    kv_precision: Precision
    table_precision: Precision
    block_size: int
    max_batch: int | None
    max_context: int
    size_bytes: int
    sha256: str | None
    runtime: RuntimeName
    device: PeakDevice

    @property
    def model_type(self) -> str:
        """Shape and precision in words, as llama-bench has it."""
        config = self.config
        return f"llama {config.num_hidden_layers}x{config.hidden_size} {self.precision}"

    @property
    def shape(self) -> dict[str, int]:
        """What decides the speed of a model: a row's `model`."""
        config = self.config
        return {
            "num_hidden_layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tie_word_embeddings,
        }

    @property
    def product_precision(self) -> Precision:
        """The type in which weights are multiplied: the graph runtime widens bytes to bf16."""
        if self.runtime == "graph":
            return compute_precision(self.held_precision)
        return self.held_precision

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
            embedding=self.table_precision,
        )

    def request(self) -> dict[str, Any]:
        """Return what a worker needs to load it, as JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "config": self.config.to_hf(),
            "precision": self.precision,
            "runtime": self.runtime,
            "device": self.device,
        }


def check_fits(subject: Subject, protocol: Protocol, available: int | None) -> None:
    """Raise a one-line error if context, batch or memory do not do, before anything is loaded."""
    if protocol.context > subject.max_context:
        before = protocol.depth + protocol.prompt_tokens
        room = subject.max_context - before
        advice = f"--new-tokens {room} or less"
        if room < 2:  # the least number of new tokens
            advice = f"a smaller {'--context' if protocol.depth else '--prompt-tokens'}"
        raise ConfigError(
            f"{subject.name} holds {subject.max_context} tokens, {before} +"
            f" {protocol.new_tokens} were asked for; give {advice}"
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


def design_subject(
    design: Design, precision: Precision, runtime: RuntimeName, device: PeakDevice
) -> Subject:
    """Return a design as what is measured.

    Raises ConfigError for a runtime or precision that random weights do not run in.
    """
    if runtime in ("onnx", "executorch"):
        raise ConfigError(
            f"--runtime {runtime} runs an artefact, and {design.name} is a shape alone; give"
            " --runtime eager or --runtime graph"
        )
    check_device(device, precision)
    if precision == "int8" and runtime == "eager" and device == "cuda":
        raise ConfigError("--runtime eager has no int8 weights on cuda; give --runtime graph")
    return _of_torch("design", design.name, None, design.config, precision, runtime, device)


def folder_subjects(
    source: Path,
    precisions: Sequence[Precision],
    runtimes: Sequence[RuntimeName],
    device: PeakDevice,
) -> list[Subject]:
    """Return a folder as what is measured, once for each runtime and precision asked for.

    Raises a one-line error for a folder that cannot be run, or a precision that it does not have.
    """
    if is_artefact(source):
        return _of_artefact(source, precisions, runtimes, device)
    checkpoint = Checkpoint.open(source)
    return [
        _of_checkpoint(str(source), checkpoint, precision, runtime, device)
        for runtime in runtimes or ("eager",)
        for precision in precisions or (_stored_precision(checkpoint, device),)
    ]


def _of_checkpoint(
    name: str,
    checkpoint: Checkpoint,
    precision: Precision,
    runtime: RuntimeName,
    device: PeakDevice,
) -> Subject:
    if runtime in ("onnx", "executorch"):
        raise ConfigError(
            f"--runtime {runtime} runs an artefact, and {name} is a checkpoint; export it first"
        )
    if precision == "int8" and runtime == "eager":
        raise ConfigError(
            "--runtime eager runs a checkpoint without rounding it; for int8 export it with"
            " --precision int8 and measure the artefact, or give --runtime graph"
        )
    check_device(device, precision)
    subject = _of_torch(
        "checkpoint", name, checkpoint.path, checkpoint.config, precision, runtime, device
    )
    return replace(subject, sha256=checkpoint.sha256)


def _of_torch(
    kind: Literal["checkpoint", "design"],
    name: str,
    path: Path | None,
    config: ModelConfig,
    precision: Precision,
    runtime: RuntimeName,
    device: PeakDevice,
) -> Subject:
    activations = activations_of(precision, runtime)
    # The eager runtime gathers its rows from a table of the activations' type.
    table = activations if runtime == "eager" else precision
    return Subject(
        kind=kind,
        name=name,
        path=path,
        config=config,
        precision=precision,
        held_precision=precision,
        kv_precision=activations,
        table_precision=table,
        block_size=_ROW,
        max_batch=None,
        max_context=config.max_position_embeddings,
        size_bytes=weight_bytes(config, precision, block_size=_ROW, embedding=table).total,
        sha256=None,
        runtime=runtime,
        device=device,
    )


def activations_of(precision: Precision, runtime: RuntimeName) -> Precision:
    """Return the type of activations and cache beside weights of `precision` in torch."""
    if precision == "int8" and runtime == "eager":
        return "fp32"  # `edgetiny.bench.int8`
    return compute_precision(precision)


def at_batch(subject: Subject, batch: int) -> Subject:
    """Return the subject as it is when so many sequences are decoded together.

    An artefact of several plans runs another for another batch, with its own weights and kernels.
    """
    # A batch that no plan reaches is refused by `check_fits`, which says what to give.
    if subject.path is None or subject.kind != "artefact" or batch > (subject.max_batch or batch):
        return subject
    return _of_plan(subject.path, subject.runtime, batch)


def _of_artefact(
    source: Path,
    precisions: Sequence[Precision],
    runtimes: Sequence[RuntimeName],
    device: PeakDevice,
) -> list[Subject]:
    if precisions:
        raise ConfigError(
            f"--precision does not apply to the artefact {source}: it keeps the precision of its"
            " export; leave it out"
        )
    if set(runtimes) & {"eager", "graph"}:
        raise ConfigError(
            f"{source} is an artefact; --runtime eager and graph take the checkpoint that it was"
            " exported from"
        )
    if device != "cpu":
        raise DeviceError(f"{source} is an artefact for the CPU; measure it with --device cpu")
    models = models_of(source, read_manifest(source))
    formats = [model.format for model in models if model.format != "gguf"]
    if not formats:
        raise ConfigError(
            f"{source} holds no model that a runtime here runs; GGUF files are for llama.cpp"
        )
    return [_of_plan(source, format, 1) for format in runtimes or formats[:1]]


def _of_plan(source: Path, format: str, batch: int) -> Subject:
    manifest = read_manifest(source)
    models = models_of(source, manifest)
    config = ModelConfig.from_hf(read_json(source / "config.json", error=ArtefactError))
    model = pick(models, source, format, batch)
    largest = max((each.max_batch or 0 for each in models if each.format == format), default=0)
    # onnxruntime has no fp16 product on a CPU: it casts the weights once, at loading.
    held = model.compute_dtype if model.precision == "fp16" else model.precision
    if model.kernel == "dynamic":
        held = "int8"  # blocks of four bits are widened to channels of eight at loading
    return Subject(
        kind="artefact",
        name=str(source),
        path=source,
        config=config,
        precision=cast(Precision, model.precision),
        held_precision=cast(Precision, held),
        kv_precision=cast(Precision, model.kv_dtype),
        table_precision=cast(Precision, held),
        block_size=_ROW if model.kernel == "dynamic" else model.block_size or _ROW,
        max_batch=largest if model.max_batch else None,
        max_context=model.context,
        size_bytes=sum(manifest["files"][name]["bytes"] for name in model.files),
        sha256=sha256_file(source / MANIFEST),
        runtime=cast(RuntimeName, format),
        device="cpu",
    )


def _stored_precision(checkpoint: Checkpoint, device: PeakDevice) -> Precision:
    stored = precision_of(checkpoint.tensor("model.embed_tokens.weight").dtype)
    if stored == "fp16" and device == "cpu":
        raise ConfigError(
            f"{checkpoint.path} is stored as float16, which torch computes on a CPU many times"
            " slower than fp32; give --precision fp32 or --precision bf16"
        )
    return stored


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
