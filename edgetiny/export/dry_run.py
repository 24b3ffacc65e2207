"""What an export would give, by arithmetic alone: sizes, memory, speed limits and refusals."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.config.export import ExportConfig
from edgetiny.cost import device_roofline, kv_bytes_per_token, mean_context
from edgetiny.device import Device, read_device
from edgetiny.errors import ConfigError
from edgetiny.export.gguf_shape import gguf_bytes
from edgetiny.export.package import open_tokenizer
from edgetiny.export.plan import Plan, candidates, is_proven, require
from edgetiny.files import TOKENIZER_FILES
from edgetiny.forecast import (
    EXECUTORCH_PROCESS_BYTES,
    PROCESS_BYTES,
    Lowering,
    file_bytes,
    held_bytes,
    program_bytes,
    program_held_bytes,
)
from edgetiny.tokenizer import Tokenizer

# The paper's protocol, at which `bench` measures too.
_PROMPT_TOKENS, _NEW_TOKENS = 2, 510


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
            "kernel": plan.kernel if plan.is_quantized else None,
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
    if plan.format == "executorch":
        return program_bytes(_lowering(plan), shape)
    return file_bytes(_lowering(plan), shape)


def ram_bytes(plan: Plan, shape: ModelConfig) -> int:
    """Return the anonymous memory that decoding a whole batch at full context peaks at.

    It is that of our runtimes' processes, what Python holds included. Of GGUF, whose process is
    llama.cpp's, it is weights, cache and logits alone.
    """
    lowering = _lowering(plan)
    if plan.format == "executorch":
        return EXECUTORCH_PROCESS_BYTES + program_held_bytes(lowering, shape)
    return held_bytes(lowering, shape) + (PROCESS_BYTES if plan.format == "onnx" else 0)


def _lowering(plan: Plan) -> Lowering:
    return Lowering(
        precision=plan.precision,
        kernel=plan.kernel,
        block_size=plan.block_size,
        kv=plan.kv_dtype,
        batch=plan.batch,
        context=plan.context,
        widens_fp16=plan.format != "gguf",
    )


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
    speed = None
    if device is not None:
        n_new = min(_NEW_TOKENS, plan.context - _PROMPT_TOKENS)
        context = mean_context(_PROMPT_TOKENS, max(1, n_new))
        lowering = _lowering(plan)
        step = lowering.step(shape, context)
        speed = device_roofline(step, lowering.held, device).tokens_per_s
    return Forecast(
        plan,
        None,
        size_bytes=model_bytes(plan, shape, tokenizer),
        kv_cache_bytes=plan.batch * plan.context * kv_bytes_per_token(shape, plan.kv_dtype),
        ram_bytes=ram_bytes(plan, shape),
        tokens_per_s=speed,
    )


def _state(plan: Plan) -> str:
    return "proven" if is_proven(plan) else "not verified"
