"""What a model costs, by arithmetic alone: parameters, bytes, FLOPs, memory, and its speed limit.

The dry run, `inspect`, the trainer's MFU and the benchmark's roofline all ask here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.device import Device
from edgetiny.errors import DeviceError

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4"]

ITEM_BYTES: Mapping[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
_BITS: Mapping[Precision, int] = {"int8": 8, "int4": 4}
# As `quantize` stores them: 4.5 bits a weight in blocks of 32.
_BLOCK_SCALE_BYTES, _ROW_SCALE_BYTES = 2, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A quantity (parameters or bytes) by part of the model. A tied table counts as embedding."""

    embedding: int
    head: int
    attention: int
    ffn: int
    norms: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.embedding + self.head + self.attention + self.ffn + self.norms

    @property
    def embedding_and_head_share(self) -> float:
        """Embedding and head over the whole: PEHF in Table 1 of the paper, between 0 and 1."""
        return (self.embedding + self.head) / self.total


def part_of(name: str) -> Literal["embedding", "head", "attention", "ffn", "norms"]:
    """Return which part of the model a tensor belongs to, by its Hugging Face name."""
    if name == "model.embed_tokens.weight":
        return "embedding"
    if name == "lm_head.weight":
        return "head"
    if ".self_attn." in name or ".shortcut." in name:
        return "attention"
    return "ffn" if ".mlp." in name else "norms"


def parameters(config: ModelConfig) -> Parts:
    """Count the parameters; attention includes its biases and augmented shortcut."""
    return _by_part({name: math.prod(shape) for name, shape in parameter_shapes(config).items()})


def weight_bytes(
    config: ModelConfig,
    precision: Precision,
    *,
    block_size: int = 32,
    embedding: Precision | None = None,
) -> Parts:
    """Return the bytes of the stored weights.

    embedding: precision of the embedding table, that of the other matrices if None. A tied table
    is stored once, unless the head needs it in another precision.
    """
    table = embedding or precision
    sizes = {
        name: tensor_bytes(shape, table if part_of(name) == "embedding" else precision, block_size)
        for name, shape in parameter_shapes(config).items()
    }
    if config.tie_word_embeddings and table != precision:
        sizes["lm_head.weight"] = _head_bytes(config, precision, block_size)
    return _by_part(sizes)


def tensor_bytes(shape: tuple[int, ...], precision: Precision, block_size: int = 32) -> int:
    """Return the bytes of one stored tensor.

    At int8 and int4 each row of a matrix is cut into blocks, the last one padded, with an fp16
    scale each; a block size of 0 is one fp32 scale for a whole row. Vectors (norms, biases) stay
    fp32.
    """
    if precision not in _BITS:
        return math.prod(shape) * ITEM_BYTES[precision]
    if len(shape) == 1:
        return math.prod(shape) * ITEM_BYTES["fp32"]
    rows, columns = shape
    scale_bytes = _BLOCK_SCALE_BYTES if block_size else _ROW_SCALE_BYTES
    block_size = block_size or columns
    block_bytes = math.ceil(block_size * _BITS[precision] / 8) + scale_bytes
    return rows * math.ceil(columns / block_size) * block_bytes


def kv_bytes_per_token(config: ModelConfig, precision: Precision = "fp32") -> int:
    """Return the bytes of cache that one token of one sequence takes, over all layers."""
    width = config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * width * ITEM_BYTES[precision]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """What one decode step of a whole batch has to read and to compute."""

    batch: int
    context: float
    weight_bytes: float
    kv_bytes: float
    flops: float

    @property
    def total_bytes(self) -> float:
        """Bytes read from memory in one step."""
        return self.weight_bytes + self.kv_bytes


def step_cost(
    config: ModelConfig,
    precision: Precision,
    batch: int,
    context: float,
    *,
    block_size: int = 32,
    kv_precision: Precision = "fp32",
) -> StepCost:
    """Return the cost of decoding one token in each of `batch` sequences.

    Every weight is read once for the whole batch, but of the embedding only one row a sequence;
    a tied table is read whole as the head. All is linear in `context`, the tokens attended to,
    the new one included, so the mean of a run is the cost at its mean (`mean_context`).
    """
    read = weight_bytes(config, precision, block_size=block_size)
    head = _head_bytes(config, precision, block_size)
    row = tensor_bytes((1, config.hidden_size), precision, block_size)
    return StepCost(
        batch=batch,
        context=context,
        weight_bytes=read.attention + read.ffn + read.norms + head + batch * row,
        kv_bytes=batch * context * kv_bytes_per_token(config, kv_precision),
        flops=batch * forward_flops_per_token(config, context),
    )


def mean_context(prompt_tokens: int, new_tokens: int) -> float:
    """Return the tokens attended to by a mean decode step of a run.

    The prefill yields the first new token, so `new_tokens - 1` steps follow; the first of them
    attends to the prompt and the token it is fed.
    """
    return prompt_tokens + new_tokens / 2


def forward_flops_per_token(config: ModelConfig, context: float) -> float:
    """Return multiplications and additions of one token's forward pass over `context` tokens.

    Matrix products only: two per weight, and two products with every token attended to.
    """
    counts = parameters(config)
    head = config.vocab_size * config.hidden_size
    n_matrix = counts.attention + counts.ffn + head - _vector_parameters(config)
    q_width = config.num_attention_heads * config.head_dim
    return 2.0 * n_matrix + 4.0 * config.num_hidden_layers * q_width * context


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Return the FLOPs of one training token: forward, and twice that backward.

    Attention counts the causal half only, which a trainer has to do; PaLM's convention
    (12 * L * H * head_dim * T, arXiv 2204.02311, appendix B) counts twice as much of it.
    """
    return 3.0 * forward_flops_per_token(config, (sequence_length + 1) / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMemory:
    """Bytes that decoding needs, without the runtime's own code and buffers."""

    weights: int
    kv_cache: int
    logits: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return self.weights + self.kv_cache + self.logits


def run_memory(
    config: ModelConfig,
    precision: Precision,
    batch: int,
    context: int,
    *,
    block_size: int = 32,
    kv_precision: Precision = "fp32",
    embedding: Precision | None = None,
) -> RunMemory:
    """Return the memory of decoding `batch` sequences of up to `context` tokens; fp32 logits.

    embedding: as for `weight_bytes`.
    """
    return RunMemory(
        weights=weight_bytes(config, precision, block_size=block_size, embedding=embedding).total,
        kv_cache=batch * context * kv_bytes_per_token(config, kv_precision),
        logits=batch * config.vocab_size * ITEM_BYTES["fp32"],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Roofline:
    """The least time one decode step can take on a machine, and the speed that follows."""

    memory_s: float
    compute_s: float
    batch: int

    @property
    def step_s(self) -> float:
        """Seconds of one step: the longer of the two, as if they overlapped perfectly."""
        return max(self.memory_s, self.compute_s)

    @property
    def bound(self) -> Literal["memory", "compute"]:
        """Which of the two limits the step."""
        return "memory" if self.memory_s >= self.compute_s else "compute"

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second summed over the batch."""
        return self.batch / self.step_s


def roofline(step: StepCost, *, bytes_per_s: float, flops_per_s: float) -> Roofline:
    """Return the limit of a step where memory and arithmetic reach these rates."""
    return Roofline(
        memory_s=step.total_bytes / bytes_per_s,
        compute_s=step.flops / flops_per_s,
        batch=step.batch,
    )


def device_roofline(step: StepCost, precision: Precision, device: Device) -> Roofline:
    """Return the limit of a step on a described device.

    fp16 weights count at the fp32 rate where the device has no fp16 product: they are cast. int4
    weights are multiplied as int8, as every engine does.
    Raises DeviceError if the description has no rate for the arithmetic.
    """
    rates = device.gemm_flops_per_s
    dtype = "int8" if precision == "int4" else precision
    if precision == "fp16" and "fp16" not in rates:
        dtype = "fp32"
    if dtype not in rates:
        raise DeviceError(
            f"device {device.name} has no {dtype} rate under gemm_flops_per_s;"
            f" it has: {', '.join(rates) or 'none'}"
        )
    bandwidth = device.read_bandwidth_bytes_per_s
    return roofline(step, bytes_per_s=bandwidth, flops_per_s=rates[dtype])


def _by_part(sizes: Mapping[str, int]) -> Parts:
    sums = dict.fromkeys(("embedding", "head", "attention", "ffn", "norms"), 0)
    for name, size in sizes.items():
        sums[part_of(name)] += size
    return Parts(**sums)


def _head_bytes(config: ModelConfig, precision: Precision, block_size: int) -> int:
    return tensor_bytes((config.vocab_size, config.hidden_size), precision, block_size)


def _vector_parameters(config: ModelConfig) -> int:
    """Biases, and the scales and shifts of a series activation."""
    kinds = (".bias", ".scale", ".shift")
    shapes = parameter_shapes(config)
    return sum(math.prod(shape) for name, shape in shapes.items() if name.endswith(kinds))
