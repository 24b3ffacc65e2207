"""One shape and what it costs in use: bytes, memory, and the speed to expect of a device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.design import DesignConfig, DesignPrecision
from edgetiny.cost import Precision, StepCost, device_roofline, kv_bytes_per_token, parameters
from edgetiny.device import Device, read_device
from edgetiny.forecast import PROCESS_BYTES, Lowering, Reach, file_bytes, held_bytes

DEFAULT_PRECISIONS: tuple[DesignPrecision, ...] = ("fp16", "int8", "int4")


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """How the model will be run, and what a prediction assumes of the engine."""

    batch: int
    context: int
    kv_precision: Precision
    device: Device | None
    reach: Reach = field(default_factory=Reach)

    @classmethod
    def of_settings(cls, config: DesignConfig) -> "Use":
        """Return what the settings say. Raises DeviceError for a description that is none."""
        overhead = config.layer_overhead_us
        return cls(
            batch=config.batch,
            context=config.context,
            kv_precision=config.kv,
            device=None if config.device is None else read_device(config.device),
            reach=Reach(
                share=config.reached_share,
                layer_overhead_s=None if overhead is None else overhead / 1e6,
            ),
        )

    def lowering(self, precision: Precision) -> Lowering:
        """Return what `export` makes of a model that is used so."""
        return Lowering.usual(
            precision, kv=self.kv_precision, batch=self.batch, context=self.context
        )

    def tokens_per_s(
        self, step: StepCost, precision: Precision, n_layers: int, n_heads: int
    ) -> float:
        """Predict the tokens a second of a decode step, summed over the batch.

        Raises DeviceError if the device has no rate for the arithmetic. Needs a device.
        """
        assert self.device is not None
        lowering = self.lowering(precision)
        return step.batch / self.reach.step_s(lowering, step, n_layers, n_heads, self.device)


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
    def file_bytes(self) -> int:
        """Bytes of the model's files, once exported to ONNX."""
        return file_bytes(self.use.lowering(self.precision), self.config)

    @property
    def ram_bytes(self) -> int:
        """Peak of anonymous memory of a process that decodes with it: 210 MB hold no model."""
        return PROCESS_BYTES + held_bytes(self.use.lowering(self.precision), self.config)

    @property
    def step(self) -> StepCost:
        """The cost of a decode step in the middle of a run that fills the context."""
        use = self.use
        return use.lowering(self.precision).step(self.config, (use.context + 1) / 2)

    @property
    def tokens_per_s(self) -> float | None:
        """Predicted tokens a second, summed over the batch; None without a device."""
        if self.use.device is None:
            return None
        config = self.config
        n_layers, n_heads = config.num_hidden_layers, config.num_attention_heads
        return self.use.tokens_per_s(self.step, self.precision, n_layers, n_heads)


def shape_row(config: ModelConfig, precisions: Sequence[Precision], use: Use) -> dict[str, Any]:
    """Return a shape with its parameters and files in each precision, as one row of a table."""
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
        "kv_bytes": kv_bytes_per_token(config, use.kv_precision),
    }
    each = [Candidate(config=config, precision=precision, use=use) for precision in precisions]
    return row | {f"mb_{one.precision}": one.file_bytes / 1e6 for one in each}


def use_row(config: ModelConfig, precisions: Sequence[Precision], use: Use) -> dict[str, Any]:
    """Return the memory and, with a device, the speed in each precision beside its limit."""
    row: dict[str, Any] = {"depth": config.num_hidden_layers, "width": config.hidden_size}
    each = [Candidate(config=config, precision=precision, use=use) for precision in precisions]
    row |= {f"ram_mb_{one.precision}": one.ram_bytes / 1e6 for one in each}
    if use.device is not None:
        for one in each:
            held = use.lowering(one.precision).held
            limit = device_roofline(one.step, held, use.device)
            row[f"tok_s_{one.precision}"] = one.tokens_per_s
            row[f"limit_{one.precision}"] = limit.tokens_per_s
    return row
