"""From what was asked to the files that will be made, or the reason why they cannot be.

One plan is one kernel plan for one batch class. What can be made, and what of that was proven, is
the table `SUPPORT`: documentation, dry run and refusals all read it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.export import (
    ExportConfig,
    Format,
    Kernel,
    KvDtype,
    Layout,
    Method,
    Precision,
    Target,
)
from edgetiny.errors import ConfigError
from edgetiny.forecast import BLOCK_SIZE, usual_kernel

_DEFAULT_CONTEXT = 1024
# XNNPACK multiplies blocks of these only (executorch 1.5).
_XNNPACK_BLOCKS = (32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One file to be made: everything that decides its bytes but the weights.

    layout: what a graph takes and gives; of executorch `portable` is without custom operations.
    kernel: of int8 and int4 linears: blocks of weights, or int8 per output channel with activations
    quantized per call (in ExecuTorch per token).
    batch: the batch class: 1 is the latency plan, N > 1 the throughput plan. ONNX graphs stay
    dynamic in batch; ExecuTorch is static.
    block_size: weights that share a scale; 0 where none or a whole output channel does.
    method: how weights of four bits are rounded; the others are rounded to the nearest.
    """

    format: Format
    layout: Layout
    precision: Precision
    kernel: Kernel
    block_size: int
    kv_dtype: KvDtype
    batch: int
    context: int
    target: Target = "cpu"
    method: Method = "rtn"

    @property
    def is_quantized(self) -> bool:
        """Whether matrices are stored as integers."""
        return self.precision in ("int8", "int4")

    @property
    def name(self) -> str:
        """How messages and tables call it: `onnx int8, batch 20`."""
        target = "" if self.target == "cpu" else f" for {self.target}"
        batch = "" if self.format == "gguf" else f", batch {self.batch}"
        return f"{self.format} {self.precision}{target}{batch}"


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a lowerer wrote: its files, the one to load first; operations by kind; facts.

    facts: for the manifest: compute_dtype, kv_head_dim, max_batch (None: any), and what only this
    format has.
    """

    files: list[str]
    nodes: dict[str, int]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Support:
    """One row of the matrix: what a format can be asked for on one target.

    proven: verified here, in the format's own runtime. lowered: made, but this project's machines
    cannot run it: it takes --allow-unverified. refused: never made, for `reason`.
    """

    format: Format
    target: Target
    precisions: tuple[Precision, ...]
    kv_dtypes: tuple[KvDtype, ...]
    state: Literal["proven", "lowered", "refused"]
    reason: str


SUPPORT: tuple[Support, ...] = (
    Support(
        "onnx",
        "cpu",
        ("fp32", "fp16", "int8", "int4"),
        ("fp32", "int8"),
        "proven",
        "verified in onnxruntime's CPU execution provider",
    ),
    Support(
        "onnx",
        "cuda",
        ("fp32", "fp16"),
        ("fp32",),
        "lowered",
        "no CUDA device here has onnxruntime; weights are fp16, arithmetic is fp32",
    ),
    Support(
        "onnx",
        "cuda",
        ("int8", "int4"),
        ("fp32",),
        "refused",
        "the integer kernels of the graph are those of CPUs; choose fp16",
    ),
    Support(
        "executorch",
        "cpu",
        ("fp32", "fp16", "int8", "int4"),
        ("fp32",),
        "proven",
        "verified in ExecuTorch's runtime with XNNPACK; fp16 is widened to fp32 at each step: slow",
    ),
    Support(
        "gguf",
        "cpu",
        ("fp32", "fp16", "int8", "int4"),
        ("fp16",),
        "proven",
        "read back and run by our decoder; greedy text compared in llama.cpp by the tests",
    ),
)


def plans(config: ExportConfig, shape: ModelConfig) -> list[Plan]:
    """Return the files that the settings ask for, by format and then by batch class.

    Raises ConfigError, with the reason, for what cannot be made of this model.
    """
    made = candidates(config, shape)
    for plan in made:
        require(plan, shape, allow_unverified=config.allow_unverified)
    return made


def candidates(config: ExportConfig, shape: ModelConfig) -> list[Plan]:
    """Return the plans that the settings name, possible or not.

    Raises ConfigError for a setting that none of them has a use for.
    """
    context = context_of(config.context, shape)
    made = [
        plan
        for format in dict.fromkeys(config.format)
        for plan in _of_format(config, format, context)
    ]
    _refuse_unused(config, made)
    # Each class is timed before those that want the same file are told.
    return made if config.tune else without_twins(made)


def without_twins(made: Sequence[Plan]) -> list[Plan]:
    """Return the plans less those that a file before them serves as well.

    Graphs stay dynamic in batch: one file serves every class that has the same kernel.
    """
    kept: list[Plan] = []
    for plan in made:
        if plan.format == "executorch" or not any(_same_but_batch(plan, old) for old in kept):
            kept.append(plan)
    return kept


def require(plan: Plan, shape: ModelConfig, *, allow_unverified: bool) -> Support:
    """Return the row of the matrix that a plan falls under.

    Raises ConfigError if the row refuses, if there is none, if it was never run and
    `allow_unverified` is false, or if what loads the file lacks a part of the model.
    """
    _require_block(plan, shape)
    row = _row_of(plan)
    if row is None:
        raise ConfigError(f"{plan.name} cannot be exported; possible: {_possible(plan.format)}")
    if row.state == "refused":
        raise ConfigError(f"{plan.name} is refused: {row.reason}")
    if plan.kv_dtype not in row.kv_dtypes:
        raise ConfigError(
            f"{plan.name} cannot keep its cache in {plan.kv_dtype}; --kv may be"
            f" {' or '.join(row.kv_dtypes)}"
        )
    if plan.is_quantized:
        _require_kernel(plan)
    if plan.format == "onnx" and plan.layout != "edgetiny" and plan.kv_dtype != "fp32":
        raise ConfigError(
            f"{plan.name} is for programs that keep their cache in fp32; --kv {plan.kv_dtype}"
            " takes --layout edgetiny"
        )
    if row.state == "lowered" and not allow_unverified:
        raise ConfigError(
            f"{plan.name} can be lowered but not run here, so not verified ({row.reason});"
            " give --allow-unverified to have it all the same"
        )
    return row


def _require_block(plan: Plan, shape: ModelConfig) -> None:
    """Raise ConfigError where the program that loads the file has LLaMA's own block only."""
    if shape.is_plain:
        return
    name = {"gguf": "llama.cpp", "transformers-js": "transformers.js"}
    loader = name.get(plan.format) or name.get(plan.layout)
    if loader is not None:
        raise ConfigError(
            f"{plan.name} is refused: {loader} has no block with a series activation or an"
            " augmented shortcut; export to onnx or executorch"
        )


def _require_kernel(plan: Plan) -> None:
    """Raise ConfigError for a kernel or blocks that the program that loads the file has not."""
    if plan.format == "gguf":
        if plan.kernel != "weight_only":
            raise ConfigError(
                f"{plan.name} is multiplied as llama.cpp chooses; leave --kernel {plan.kernel} out"
            )
        if plan.block_size != BLOCK_SIZE:
            raise ConfigError(
                f"{plan.name} has blocks of {BLOCK_SIZE} weights, not {plan.block_size};"
                " leave --block-size out"
            )
    elif plan.format == "executorch":
        # XNNPACK quantizes activations in both; only eight bits are a scale per channel.
        only: Kernel = "dynamic" if plan.precision == "int8" else "weight_only"
        if plan.kernel != only:
            raise ConfigError(
                f"{plan.name}: XNNPACK has one kernel for {plan.precision} weights;"
                f" leave --kernel {plan.kernel} out"
            )
        if plan.precision == "int4" and plan.block_size not in _XNNPACK_BLOCKS:
            raise ConfigError(
                f"{plan.name}: XNNPACK has no kernel for 4-bit blocks of {plan.block_size}; choose"
                f" {', '.join(map(str, _XNNPACK_BLOCKS))}"
            )


def is_proven(plan: Plan) -> bool:
    """Whether such a file is verified in its own runtime before it is handed out."""
    row = _row_of(plan)
    return row is not None and row.state == "proven"


def context_of(asked: int | None, shape: ModelConfig) -> int:
    """Return the tokens that an artefact can hold: as asked, or what the model can up to 1024.

    Raises ConfigError if the model cannot.
    """
    longest = shape.max_position_embeddings
    if asked is not None and asked > longest:
        raise ConfigError(f"--context {asked} is beyond the model's {longest} positions")
    return asked or min(longest, _DEFAULT_CONTEXT)


def folder_of(plan: Plan, made: Sequence[Plan]) -> str:
    """Return the folder, inside the artefact, of a plan's files; "" is the artefact itself.

    The first plan of each format lies at the top, where other programs look for it.
    """
    if plan.layout == "transformers-js":
        return "onnx"
    first = next(each for each in made if each.format == plan.format)
    return "" if plan == first else f"batch{plan.batch}"


def _of_format(config: ExportConfig, format: Format, context: int) -> Iterator[Plan]:
    layout = _layout(config, format)
    for batch in sorted(set(config.batch)) or [1]:
        if layout == "transformers-js" and batch != 1:
            raise ConfigError(f"a browser decodes one sequence at a time; drop --batch {batch}")
        kernel = config.kernel or _kernel(format, layout, config.precision, batch)
        yield Plan(
            format=format,
            layout=layout,
            precision=config.precision,
            kernel=kernel,
            block_size=block_of(config.precision, kernel, config.block_size or BLOCK_SIZE),
            kv_dtype=config.kv or ("fp16" if format == "gguf" else "fp32"),
            batch=batch,
            context=context,
            target=config.target,
            method=_method(config),
        )


def block_of(precision: Precision, kernel: Kernel, size: int) -> int:
    """Return the weights that share a scale: `size`, or 0 where none or a whole channel does."""
    has_blocks = precision == "int4" or (precision == "int8" and kernel == "weight_only")
    return size if has_blocks else 0


def _method(config: ExportConfig) -> Method:
    """Return what was asked for, else what is best with the text that is given, if any is."""
    if config.precision != "int4":
        return "rtn"
    has_text = config.data is not None or config.calibration_text is not None
    return config.method or ("gptq" if has_text else "rtn")


def _layout(config: ExportConfig, format: Format) -> Layout:
    """Return the layout: GGUF has one, ExecuTorch none of a browser's."""
    if format == "gguf" or (format == "executorch" and config.layout == "transformers-js"):
        return "edgetiny"
    return config.layout or "edgetiny"


def _kernel(format: Format, layout: Layout, precision: Precision, batch: int) -> Kernel:
    # XNNPACK multiplies eight-bit channels, no eight-bit blocks.
    if format == "executorch" and precision == "int8":
        return "dynamic"
    if layout == "edgetiny" and format == "onnx":
        return usual_kernel(precision, batch)
    return "weight_only"


def _same_but_batch(one: Plan, other: Plan) -> bool:
    return replace(one, batch=other.batch) == other


def _row_of(plan: Plan) -> Support | None:
    rows = (
        row
        for row in SUPPORT
        if (row.format, row.target) == (plan.format, plan.target)
        and plan.precision in row.precisions
    )
    return next(rows, None)


def _possible(format: Format) -> str:
    rows = [row for row in SUPPORT if row.format == format and row.state != "refused"]
    return "; ".join(f"{', '.join(row.precisions)} for {row.target}" for row in rows) or "nothing"


def _refuse_unused(config: ExportConfig, made: list[Plan]) -> None:
    """Raise ConfigError for a setting that none of the plans has a use for."""
    if config.layout is not None and all(plan.layout != config.layout for plan in made):
        raise ConfigError(f"--layout {config.layout} is of none of these formats")
    if config.method is not None and config.precision != "int4":
        raise ConfigError(f"--method {config.method} is of int4 weights; give --precision int4")
    if config.kernel is not None and not any(plan.is_quantized for plan in made):
        raise ConfigError(
            f"--kernel {config.kernel} is of int8 and int4 weights, not {config.precision}"
        )
    # Of the kernels that --tune tries, one has blocks.
    has_blocks = config.tune or any(plan.block_size for plan in made)
    if config.block_size is not None and not has_blocks:
        raise ConfigError(
            f"--block-size {config.block_size} is of blocks of int8 and int4 weights;"
            f" {made[0].name} has none"
        )
