"""From weights to an ONNX graph: swap the leaves, trace once, keep nothing of the trace."""

import contextlib
import functools
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgetiny.checkpoint import LazyTensors, ModelConfig, parameter_shapes
from edgetiny.export.heads import pad_heads, padded_head_dim, rotary_tables
from edgetiny.export.onnx_leaves import (
    ACCURACY_LEVEL,
    GraphSequence,
    OnnxAttend,
    OnnxBlockLinear,
    OnnxBlockTable,
    OnnxLinear,
    OnnxNorm,
    OnnxTable,
    OnnxTiedHead,
)
from edgetiny.export.plan import Lowered, Plan
from edgetiny.model import Attend, RMSNorm, Transformer, empty_model
from edgetiny.quantize import Weights, quantize_int8

Precision = Literal["fp32", "fp16", "int8"]

# 18 is the oldest that every operation here knows, and what torch's own translation speaks.
_OPSET = 18
DATA_FILE = "model.onnx.data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowering:
    """How weights are stored, and how many positions the rotation tables hold."""

    precision: Precision
    block_size: int
    context: int


class OnnxDecoder(nn.Module):
    """The whole graph: ids, mask and past in; logits and present out."""

    def __init__(self, model: Transformer, cos: Tensor, sin: Tensor) -> None:
        super().__init__()
        self.transformer = model
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        sequence = GraphSequence(attention_mask, past, cos, sin)
        logits = self.transformer(input_ids, sequence)
        return (logits, *(each for pair in sequence.present for each in pair))


def lower_onnx(folder: Path, weights: Weights, plan: Plan, advance: Callable[..., None]) -> Lowered:
    """Write a plan's graph, `model.onnx` and its weights, into a folder.

    advance: called after each tensor that was read.
    """
    assert plan.precision != "int4", "the matrix refuses it"
    lowering = Lowering(
        precision=plan.precision, block_size=plan.block_size or 32, context=plan.context
    )
    names = parameter_shapes(weights.config)
    tensors = LazyTensors({name: functools.partial(weights.tensor, name) for name in names})
    model = lower(weights.config, tensors, lowering, advance)
    save(model, folder)
    facts = {
        "compute_dtype": "fp32",
        "accuracy_level": ACCURACY_LEVEL if plan.precision == "int8" else None,
        "kv_head_dim": padded_head_dim(weights.config.head_dim),
        "max_batch": None,
    }
    return Lowered(["model.onnx", DATA_FILE], node_counts(model), facts)


def lower(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    lowering: Lowering,
    advance: Callable[[], None] = lambda: None,
) -> ir.Model:
    """Return the model as an ONNX graph, weights stored as `lowering` says.

    tensors: the checkpoint's, each read once. advance: called after each.
    """
    padded, tensors = pad_heads(config, tensors)
    model = empty_model(padded)
    _swap_leaves(model, tensors, lowering, config.head_dim**-0.5, advance)
    graph = _trace(OnnxDecoder(model, *rotary_tables(config, lowering.context)), padded)
    _strip(graph)
    _name_nodes(graph)
    return graph


def save(model: ir.Model, folder: Path) -> None:
    """Write `model.onnx` with every weight in `model.onnx.data`."""
    ir.save(model, folder / "model.onnx", external_data=DATA_FILE)


def node_counts(model: ir.Model) -> dict[str, int]:
    """Return how many nodes the graph has of each operation, most first."""
    counts = Counter(node.op_type for node in model.graph)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _swap_leaves(
    model: Transformer,
    tensors: Mapping[str, Tensor],
    lowering: Lowering,
    attention_scale: float,
    advance: Callable[[], None],
) -> None:
    def read(name: str) -> Tensor:
        advance()
        stored = torch.float16 if lowering.precision == "fp16" else torch.float32
        return tensors[name].to(stored)

    for name, leaf in list(model.named_modules()):
        if isinstance(leaf, RMSNorm):
            model.set_submodule(name, OnnxNorm(read(f"{name}.weight"), leaf.eps))
        elif isinstance(leaf, Attend):
            model.set_submodule(name, OnnxAttend(model.config, leaf.layer, attention_scale))
        elif isinstance(leaf, nn.Embedding):
            model.set_submodule(name, _table(read(f"{name}.weight"), lowering))
        elif name == "lm_head" and model.config.tie_word_embeddings:
            table = model.get_submodule("model.embed_tokens")
            assert isinstance(table, OnnxTable | OnnxBlockTable)
            model.set_submodule(name, OnnxTiedHead(table))
        elif isinstance(leaf, nn.Linear):
            bias = read(f"{name}.bias") if leaf.bias is not None else None
            model.set_submodule(name, _linear(read(f"{name}.weight"), bias, lowering))


def _table(weight: Tensor, lowering: Lowering) -> nn.Module:
    if lowering.precision == "int8":
        return OnnxBlockTable(quantize_int8(weight, lowering.block_size))
    return OnnxTable(weight)


def _linear(weight: Tensor, bias: Tensor | None, lowering: Lowering) -> nn.Module:
    if lowering.precision == "int8":
        return OnnxBlockLinear(quantize_int8(weight, lowering.block_size), bias)
    return OnnxLinear(weight, bias)


def _trace(model: OnnxDecoder, config: ModelConfig) -> ir.Model:
    kinds = [(i, kind) for i in range(config.num_hidden_layers) for kind in ("key", "value")]
    B, T, n_past = 2, 3, 5
    past_shape = (B, config.num_key_value_heads, n_past, config.head_dim)
    batch, new, past, total = map(
        torch.export.Dim,
        ("batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"),
    )
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (
                torch.zeros(B, T, dtype=torch.int64),
                torch.ones(B, n_past + T, dtype=torch.int64),
                [torch.zeros(past_shape) for _ in kinds],
            ),
            dynamo=True,
            opset_version=_OPSET,
            # The graph is what the leaves say; constant folding would undo the storage types.
            optimize=False,
            verbose=False,
            dynamic_shapes=(
                {0: batch, 1: new},
                {0: batch, 1: total},
                [{0: batch, 2: past} for _ in kinds],
            ),
            input_names=[
                "input_ids",
                "attention_mask",
                *(f"past_key_values.{layer}.{kind}" for layer, kind in kinds),
            ],
            output_names=["logits", *(f"present.{layer}.{kind}" for layer, kind in kinds)],
        )
    assert program is not None
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from telling users about its own insides."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*axis name.*", category=UserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        log.setLevel(level)


def _strip(model: ir.Model) -> None:
    """Remove stack traces and other notes of the trace: they differ from machine to machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
    for name, value in list(model.graph.initializers.items()):
        value.metadata_props.clear()
        value.name = name.removeprefix("transformer.").replace(
            "lm_head.table", "model.embed_tokens"
        )
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()


def _name_nodes(model: ir.Model) -> None:
    """Call each node with a weight after its place in the model: profiles are read by name."""
    for node in model.graph:
        weights = [v.name or "" for v in node.inputs if v is not None and v.is_initializer()]
        place = next((name for name in weights if name.endswith(".weight")), None)
        if node.op_type == "GroupQueryAttention":
            layer = (node.outputs[1].name or "").split(".")[1]
            place = f"model.layers.{layer}.self_attn.attend"
        if place is not None:
            node.name = f"{place.removesuffix('.weight')}.{node.op_type}"
