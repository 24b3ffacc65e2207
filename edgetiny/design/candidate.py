"""One shape and what it costs in use: bytes, memory, and the speed to expect of a device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.design import DesignConfig, DesignPrecision
from edgetiny.cost import (
    Precision,
    StepCost,
    device_roofline,
    kv_bytes_per_token,
    parameters,
    run_memory,
    step_cost,
    weight_bytes,
)
from edgetiny.device import Device, read_device

DEFAULT_PRECISIONS: tuple[DesignPrecision, ...] = ("fp16", "int8", "int4")

# What an engine reaches of the roofline of one step, and what a layer costs beside it. Fitted to
# seven models and precisions in onnxruntime on one 2-core x86 machine, within 10%
# (docs/design.md); another engine or device differs, and flags say so.
_REACHED: Mapping[Precision, float] = {"fp32": 0.75, "fp16": 0.75, "int8": 0.6, "int4": 0.5}
_LAYER_OVERHEAD_S = 70e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """How the model will be run, and what a prediction assumes of the engine."""

    batch: int
    context: int
    kv_precision: Precision
    device: Device | None
    reached_share: float | None = None
    layer_overhead_s: float = _LAYER_OVERHEAD_S

    @classmethod
    def of_settings(cls, config: DesignConfig) -> "Use":
        """Return what the settings say. Raises DeviceError for a description that is none."""
        overhead = config.layer_overhead_us
        return cls(
            batch=config.batch,
            context=config.context,
            kv_precision=config.kv,
            device=None if config.device is None else read_device(config.device),
            reached_share=config.reached_share,
            layer_overhead_s=_LAYER_OVERHEAD_S if overhead is None else overhead / 1e6,
        )

    def share(self, precision: Precision) -> float:
        """Return the share of the device's limit that the engine reaches."""
        return self.reached_share or _REACHED[precision]

    def tokens_per_s(self, step: StepCost, precision: Precision, n_layers: int) -> float:
        """Predict the tokens a second of a decode step, summed over the batch.

        Raises DeviceError if the device has no rate for the arithmetic. Needs a device.
        """
        assert self.device is not None
        limit = device_roofline(step, precision, self.device)
        return step.batch / (
            limit.step_s / self.share(precision) + n_layers * self.layer_overhead_s
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A shape in one precision, in one use."""

    config: ModelConfig
    precision: Precision
    use: Use

    @property
    def n_parameters(self) -> int:
        """Parameters; a tied table counts once."""
        return parameters(self.config).total

    @property
    def pehf(self) -> float:
        """Embedding and head over all parameters, between 0 and 1."""
        return parameters(self.config).embedding_and_head_share

    @property
    def weight_bytes(self) -> int:
        """Bytes of the stored weights."""
        return weight_bytes(self.config, self.precision).total

    @property
    def ram_bytes(self) -> int:
        """Bytes of weights, cache and logits; the engine's own code and buffers come on top."""
        use = self.use
        return run_memory(
            self.config, self.precision, use.batch, use.context, kv_precision=use.kv_precision
        ).total

    @property
    def step(self) -> StepCost:
        """The cost of a decode step in the middle of a run that fills the context."""
        use = self.use
        return step_cost(
            self.config,
            self.precision,
            use.batch,
            (use.context + 1) / 2,
            kv_precision=use.kv_precision,
        )

    @property
    def tokens_per_s(self) -> float | None:
        """Predicted tokens a second, summed over the batch; None without a device."""
        if self.use.device is None:
            return None
        return self.use.tokens_per_s(self.step, self.precision, self.config.num_hidden_layers)


def shape_row(
    config: ModelConfig, precisions: Sequence[Precision], kv_precision: Precision
) -> dict[str, Any]:
    """Return a shape with its parameters and bytes in each precision, as one row of a table."""
    counts = parameters(config)
    row = {
        "depth": config.num_hidden_layers,
        "width": config.hidden_size,
        "ffn": config.intermediate_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "parameters_m": counts.total / 1e6,
        "pehf_percent": round(100 * counts.embedding_and_head_share, 2),
        "kv_bytes": kv_bytes_per_token(config, kv_precision),
    }
    sizes = {precision: weight_bytes(config, precision).total for precision in precisions}
    return row | {f"mb_{precision}": size / 1e6 for precision, size in sizes.items()}


def use_row(config: ModelConfig, precisions: Sequence[Precision], use: Use) -> dict[str, Any]:
    """Return the memory and, with a device, the speed in each precision beside its limit."""
    row: dict[str, Any] = {"depth": config.num_hidden_layers, "width": config.hidden_size}
    each = [Candidate(config=config, precision=precision, use=use) for precision in precisions]
    row |= {f"ram_mb_{one.precision}": one.ram_bytes / 1e6 for one in each}
    if use.device is not None:
        for one in each:
            limit = device_roofline(one.step, one.precision, use.device)
            row[f"tok_s_{one.precision}"] = one.tokens_per_s
            row[f"limit_{one.precision}"] = limit.tokens_per_s
    return row
