"""What a shape comes to once it is exported: bytes of its files, memory of its process, step time.

`design` and the dry run of `export` both ask here. Constants were fitted to onnxruntime 1.32 on one
2-core x86 machine; docs/results/export_forecast.md and docs/results/design_forecast.md hold them
against other shapes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.config.export import Kernel
from edgetiny.cost import Precision, StepCost, device_roofline, run_memory, step_cost
from edgetiny.device import Device

BLOCK_SIZE = 32
"""Weights that share a scale unless one says otherwise."""
# GroupQueryAttention on the CPU refuses to rotate any other width (onnxruntime 1.32).
_HEAD_MULTIPLE = 16
# A graph's nodes and names, as onnx 1.23 writes ours: fitted to exports.
_GRAPH_BYTES = 2_400
_LAYER_BYTES: Mapping[Precision, int] = {"fp32": 5_000, "fp16": 6_360, "int8": 7_300, "int4": 7_300}
# What a product says of how nibbles become bytes; a layer has four, the head is one.
_EXPANSION_BYTES = 3_630
PROCESS_BYTES = 210_000_000
"""Anonymous memory of a process with Python, torch, onnxruntime and a session, less the weights."""
EXECUTORCH_PROCESS_BYTES = 327_000_000
"""The same with ExecuTorch's Python runtime and its operators."""
# What the kernels reach of reading the weights at the device's bandwidth, and, of channels for a
# batch, of the rate of a large product: 20 rows are few.
_REACHED: Mapping[Precision, float] = {"fp32": 0.75, "fp16": 0.75, "int8": 0.6, "int4": 0.5}
_REACHED_BY_CHANNELS = 0.3
# Attention reads the cache of one sequence and head after another.
_REACHED_BY_ATTENTION = 0.4
LAYER_OVERHEAD_S = 60e-6
"""Time of a layer beside that: nodes, norms, pointwise work."""
# Rotating and appending to the cache, for each head of each sequence.
_HEAD_OVERHEAD_S = 0.9e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """What decides the bytes and the kernels of a file, besides its shape.

    kernel, block_size: as of a plan of `export`. batch: sequences decoded together.
    widens_fp16: whether the engine holds such weights in fp32; llama.cpp does not.
    """

    precision: Precision
    kernel: Kernel
    block_size: int
    kv: Precision
    batch: int
    context: int
    widens_fp16: bool = True

    @classmethod
    def usual(cls, precision: Precision, *, kv: Precision, batch: int, context: int) -> "Lowering":
        """Return what `export` makes of these if no kernel is asked for."""
        return cls(
            precision=precision,
            kernel=usual_kernel(precision, batch),
            block_size=BLOCK_SIZE,
            kv=kv,
            batch=batch,
            context=context,
        )

    @property
    def held(self) -> Precision:
        """The precision of the weights in memory."""
        if self.precision == "fp16" and self.widens_fp16:
            return "fp32"  # once, at loading: CPUs multiply them in fp32
        # Blocks of four bits become channels of eight for the dynamic kernel, at loading too.
        return "int8" if self.kernel == "dynamic" else self.precision

    @property
    def held_block(self) -> int:
        """Weights that share a scale in memory; 0 is a whole row."""
        return 0 if self.kernel == "dynamic" else self.block_size or BLOCK_SIZE

    def step(self, shape: ModelConfig, context: float) -> StepCost:
        """Return what one decode step reads and computes with `context` tokens attended to."""
        return step_cost(
            shape,
            self.held,
            self.batch,
            context,
            block_size=self.held_block,
            kv_precision=self.kv,
        )


def usual_kernel(precision: Precision, batch: int) -> Kernel:
    """Return the kernel of an ONNX file in our own layout for a batch class."""
    # Several rows at once are bound by arithmetic, and products of integers are the fastest.
    return "dynamic" if batch > 1 and precision in ("int8", "int4") else "weight_only"


def padded_head_dim(head_dim: int) -> int:
    """Return the next width that the fused attention takes."""
    return -(-head_dim // _HEAD_MULTIPLE) * _HEAD_MULTIPLE


def file_bytes(lowering: Lowering, shape: ModelConfig, *, pads_heads: bool = True) -> int:
    """Return the bytes of graph and weights, within 3% of what is written.

    pads_heads: whether heads are filled up to `padded_head_dim`, as ONNX has them.
    """
    stored = sum(_stored_bytes(lowering, each) for each in _lowered_shapes(shape, pads_heads))
    # Half a head of cosines and sines each; a program has them twice, for both halves of a head.
    of_position = 4 * padded_head_dim(shape.head_dim) if pads_heads else 8 * shape.head_dim
    tables = lowering.context * of_position
    graph = _GRAPH_BYTES + _LAYER_BYTES[lowering.precision] * shape.num_hidden_layers
    if (lowering.precision, lowering.kernel) == ("int4", "dynamic"):
        graph += _EXPANSION_BYTES * (4 * shape.num_hidden_layers + 1)
    return stored + tables + graph


def program_bytes(lowering: Lowering, shape: ModelConfig) -> int:
    """Return the bytes of an ExecuTorch program, within 3% of what is written."""
    # XNNPACK keeps the data of a tied head apart; products of fp16 are outside of it.
    tied = shape.tie_word_embeddings and lowering.precision == "fp16"
    stored = file_bytes(lowering, replace(shape, tie_word_embeddings=tied), pads_heads=False)
    if lowering.precision == "int4":  # the table's scales are fp32
        stored += 2 * shape.vocab_size * math.ceil(shape.hidden_size / lowering.block_size)
    return stored


def program_held_bytes(lowering: Lowering, shape: ModelConfig) -> int:
    """Return the memory of a program's weights, cache and logits at full context.

    The table's rows are gathered from the file, which is mapped: only the head is held.
    """
    return held_bytes(lowering, replace(shape, tie_word_embeddings=True))


def held_bytes(lowering: Lowering, shape: ModelConfig) -> int:
    """Return the memory of weights, cache and logits at full context, the process left out."""
    return run_memory(
        shape,
        lowering.held,
        lowering.batch,
        lowering.context,
        block_size=lowering.held_block,
        kv_precision=lowering.kv,
    ).total


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """What an engine makes of a device. None: what was measured of onnxruntime.

    share: of the device's limit, in everything. layer_overhead_s: of a layer, all heads included.
    """

    share: float | None = None
    layer_overhead_s: float | None = None

    def in_words(self) -> str:
        """Say what a prediction assumes of the engine."""
        share, layer_s = self.share, self.layer_overhead_s
        said = "what onnxruntime was measured to reach" if share is None else f"{share:g}"
        more = "" if layer_s is None else f", and {1e6 * layer_s:g} us a layer beside it"
        return f"an engine that reaches {said} of the limit{more}"

    def step_s(
        self, lowering: Lowering, step: StepCost, n_layers: int, n_heads: int, device: Device
    ) -> float:
        """Predict the seconds of a decode step: products, then the cache, then what a layer costs.

        They take turns, so they add up. n_heads: query heads of a layer.
        Raises DeviceError if the device has no rate for the arithmetic.
        """
        limit = device_roofline(step, lowering.held, device)
        if self.share is not None:
            products_s, cache_s = limit.step_s / self.share, 0.0
        else:
            bandwidth = device.read_bandwidth_bytes_per_s
            reached = _REACHED[lowering.held]
            reading_s = step.weight_bytes / (reached * bandwidth)
            channels = lowering.kernel == "dynamic"
            computing_s = limit.compute_s / (_REACHED_BY_CHANNELS if channels else reached)
            products_s = max(reading_s, computing_s)
            cache_s = step.kv_bytes / (_REACHED_BY_ATTENTION * bandwidth)
        layer_s = self.layer_overhead_s
        if layer_s is None:
            layer_s = LAYER_OVERHEAD_S + lowering.batch * n_heads * _HEAD_OVERHEAD_S
        return products_s + cache_s + n_layers * layer_s


def _stored_bytes(lowering: Lowering, shape: tuple[int, ...]) -> int:
    """Return the bytes of one tensor: blocks have fp16 scales, channels fp32 ones."""
    rows, *rest = shape
    if not rest or lowering.precision == "fp32":
        return 4 * math.prod(shape)
    [columns] = rest
    if lowering.precision == "fp16":
        return 2 * rows * columns
    if lowering.kernel == "dynamic" and lowering.precision == "int8":
        return rows * (columns + 4)
    # Four bits are blocks on disk whatever the kernel; a channel's scale lies beside them.
    bits = 8 if lowering.precision == "int8" else 4
    of_channel = 4 * rows if lowering.kernel == "dynamic" else 0
    block_bytes = lowering.block_size * bits // 8 + 2
    return rows * math.ceil(columns / lowering.block_size) * block_bytes + of_channel


def _lowered_shapes(shape: ModelConfig, pads_heads: bool) -> list[tuple[int, ...]]:
    """Return the shapes of tensors as a graph has them."""
    narrow = shape.head_dim
    wide = padded_head_dim(narrow) if pads_heads else narrow
    return [
        (each[0] // narrow * wide, *each[1:])
        if any(f".{part}_proj." in name for part in "qkv")
        else each
        for name, each in parameter_shapes(shape).items()
    ]
