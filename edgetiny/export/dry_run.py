"""What an export would give, by arithmetic alone: sizes, memory, speed limits and refusals."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes
from edgetiny.checkpoint.folder import TOKENIZER_FILES
from edgetiny.config.export import ExportConfig
from edgetiny.cost import (
    Precision,
    device_roofline,
    kv_bytes_per_token,
    mean_context,
    run_memory,
    step_cost,
)
from edgetiny.device import Device, read_device
from edgetiny.errors import ConfigError
from edgetiny.export.gguf_shape import gguf_bytes
from edgetiny.export.heads import padded_head_dim
from edgetiny.export.package import open_tokenizer
from edgetiny.export.plan import Plan, candidates, is_proven, require
from edgetiny.tokenizer import Tokenizer

# The paper's protocol, at which `bench` measures too.
_PROMPT_TOKENS, _NEW_TOKENS = 2, 510
# A graph's nodes and names, as onnx 1.23 writes ours: fitted to exports.
_GRAPH_BYTES = 2_400
_LAYER_BYTES = {"fp32": 5_000, "fp16": 6_360, "int8": 7_300, "int4": 7_300}
# What a product says of how nibbles become bytes; a layer has four, the head is one.
_EXPANSION_BYTES = 3_630
# Anonymous memory of a process with torch and onnxruntime 1.32 and a session, less the weights:
# docs/results/export_forecast.md. The other formats' processes were not measured.
_PROCESS_BYTES = {"onnx": 210_000_000}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one plan would give; only its name and the reason if it is refused."""

    plan: Plan
    refused: str | None
    size_bytes: int = 0
    kv_cache_bytes: int = 0
    ram_bytes: int = 0
    tokens_per_s: float | None = None

    def row(self) -> dict[str, Any]:
        """Return one line of the table."""
        plan = self.plan
        row: dict[str, Any] = {
            "model": plan.name,
            "layout": plan.layout,
            "kernel": plan.kernel if plan.block_size else None,
            "kv_dtype": plan.kv_dtype,
            "state": "refused" if self.refused else _state(plan),
        }
        if self.refused:
            return row | {"reason": self.refused}
        row |= {
            "size_bytes": self.size_bytes,
            "kv_cache_bytes": self.kv_cache_bytes,
            "ram_bytes": self.ram_bytes,
        }
        return row if self.tokens_per_s is None else row | {"tokens_per_s": self.tokens_per_s}


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """The forecast of every plan; nothing was written."""

    source: Path
    context: int
    forecasts: list[Forecast]
    companion_bytes: int
    device: Device | None

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints."""
        made = [each for each in self.forecasts if each.refused is None]
        facts: dict[str, Any] = {
            "dry_run_of": str(self.source),
            "context": self.context,
            "tokenizer_bytes": self.companion_bytes,
            "total_bytes": self.companion_bytes + sum(each.size_bytes for each in made),
        }
        if self.device is not None:
            facts["device"] = self.device.name
        return facts | {"plans": [each.row() for each in self.forecasts]}


def dry_run(config: ExportConfig, checkpoint: Checkpoint, shape: ModelConfig) -> DryRunResult:
    """Return what `export` with these settings would make, and why it would refuse the rest.

    Raises ConfigError for settings that fit no plan.
    """
    device = read_device(config.device) if config.device is not None else None
    asked = candidates(config, shape)
    tokenizer = open_tokenizer(checkpoint.path)
    companions = sum(
        (checkpoint.path / name).stat().st_size
        for name in TOKENIZER_FILES
        if (checkpoint.path / name).is_file()
    )
    return DryRunResult(
        source=checkpoint.path,
        context=asked[0].context,
        forecasts=[_forecast(plan, shape, config, device, tokenizer) for plan in asked],
        companion_bytes=companions,
        device=device,
    )


def model_bytes(plan: Plan, shape: ModelConfig, tokenizer: Tokenizer | None) -> int:
    """Return the bytes of a plan's files, within 3% of what is written."""
    if plan.format == "gguf":
        return gguf_bytes(shape, plan.precision, tokenizer)
    stored = sum(_stored_bytes(plan, each) for each in _lowered_shapes(plan, shape))
    tables = 4 * plan.context * padded_head_dim(shape.head_dim)
    graph = _GRAPH_BYTES + _LAYER_BYTES[plan.precision] * shape.num_hidden_layers
    if (plan.precision, plan.kernel) == ("int4", "dynamic"):
        graph += _EXPANSION_BYTES * (4 * shape.num_hidden_layers + 1)
    return stored + tables + graph


def ram_bytes(plan: Plan, shape: ModelConfig) -> int:
    """Return the anonymous memory that decoding a whole batch at full context peaks at.

    Of formats whose process was not measured it is weights, cache and logits alone.
    """
    return _memory(plan, shape) + _PROCESS_BYTES.get(plan.format, 0)


def _memory(plan: Plan, shape: ModelConfig) -> int:
    return run_memory(
        shape,
        _held(plan),
        plan.batch,
        plan.context,
        block_size=_held_block(plan),
        kv_precision=plan.kv_dtype,
    ).total


def _held(plan: Plan) -> Precision:
    """Return the precision of the weights in memory."""
    if plan.precision == "fp16":
        return "fp32"  # widened once, at loading: CPUs multiply them in fp32
    # Blocks of four bits become channels of eight for the dynamic kernel, at loading too.
    return "int8" if plan.kernel == "dynamic" else plan.precision


def _held_block(plan: Plan) -> int:
    return 0 if plan.kernel == "dynamic" else plan.block_size or 32


def _stored_bytes(plan: Plan, shape: tuple[int, ...]) -> int:
    """Return the bytes of one tensor: blocks have fp16 scales, channels fp32 ones."""
    rows, *rest = shape
    if not rest or plan.precision == "fp32":
        return 4 * math.prod(shape)
    [columns] = rest
    if plan.precision == "fp16":
        return 2 * rows * columns
    if plan.kernel == "dynamic" and plan.precision == "int8":
        return rows * (columns + 4)
    # Four bits are blocks on disk whatever the kernel; a channel's scale lies beside them.
    bits = 8 if plan.precision == "int8" else 4
    of_channel = 4 * rows if plan.kernel == "dynamic" else 0
    block_bytes = plan.block_size * bits // 8 + 2
    return rows * math.ceil(columns / plan.block_size) * block_bytes + of_channel


def _lowered_shapes(plan: Plan, shape: ModelConfig) -> list[tuple[int, ...]]:
    """Return the shapes of tensors as a graph has them; ONNX's q, k, v are of a multiple of 16."""
    narrow = shape.head_dim
    wide = padded_head_dim(narrow) if plan.format == "onnx" else narrow
    return [
        (each[0] // narrow * wide, *each[1:])
        if any(f".{part}_proj." in name for part in "qkv")
        else each
        for name, each in parameter_shapes(shape).items()
    ]


def _forecast(
    plan: Plan,
    shape: ModelConfig,
    config: ExportConfig,
    device: Device | None,
    tokenizer: Tokenizer | None,
) -> Forecast:
    try:
        require(plan, shape, allow_unverified=config.allow_unverified)
    except ConfigError as error:
        return Forecast(plan, str(error))
    kv: Precision = plan.kv_dtype
    speed = None
    if device is not None:
        n_new = min(_NEW_TOKENS, plan.context - _PROMPT_TOKENS)
        context = mean_context(_PROMPT_TOKENS, max(1, n_new))
        held, block = _held(plan), _held_block(plan)
        step = step_cost(shape, held, plan.batch, context, block_size=block, kv_precision=kv)
        speed = device_roofline(step, held, device).tokens_per_s
    return Forecast(
        plan,
        None,
        size_bytes=model_bytes(plan, shape, tokenizer),
        kv_cache_bytes=plan.batch * plan.context * kv_bytes_per_token(shape, kv),
        ram_bytes=ram_bytes(plan, shape),
        tokens_per_s=speed,
    )


def _state(plan: Plan) -> str:
    return "proven" if is_proven(plan) else "not verified"
