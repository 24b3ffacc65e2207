"""From weights to ONNX files: one decoder, and what goes in and out of it by layout.

`edgetiny` tells the attention where tokens stand as it wants to hear it, computes the head for the
rows that are asked for, and chooses the likeliest id itself: no node and no copy per step is there
for convention's sake. `portable` has the inputs and outputs that onnxruntime-genai, optimum and
transformers.js agree on; `transformers-js` is the same under that program's file names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgetiny.export.onnx_decoder import OnnxDecoder, Place
from edgetiny.export.onnx_graph import GraphBuilder
from edgetiny.export.onnx_products import ACCURACY_LEVEL
from edgetiny.export.plan import Lowered, Plan
from edgetiny.forecast import padded_head_dim
from edgetiny.quantize import Weights

DATA_FILE = "model.onnx.data"

# What transformers.js looks for, by the precision that it calls a "dtype".
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "int4": "_q4"}


def lower_onnx(folder: Path, weights: Weights, plan: Plan, advance: Callable[..., Any]) -> Lowered:
    """Write a plan's graph and the file of its weights into a folder.

    advance: called after each tensor that was read. Weights are read, written and forgotten one
    by one. Identical weights give identical bytes.
    """
    file, data_file = _file_names(plan)
    with GraphBuilder(folder, file, data_file) as graph:
        decoder = OnnxDecoder(graph, weights, plan, advance)
        (_write_own if plan.layout == "edgetiny" else _write_portable)(graph, decoder, weights)
        nodes = graph.save()
    is_quantized = plan.precision in ("int8", "int4")
    facts = {
        "compute_dtype": "fp32",
        "accuracy_level": ACCURACY_LEVEL if is_quantized and plan.kernel == "weight_only" else None,
        "kv_head_dim": padded_head_dim(weights.config.head_dim),
        "max_batch": None,
    }
    return Lowered([file, data_file], nodes, facts)


def _write_own(graph: GraphBuilder, decoder: OnnxDecoder, weights: Weights) -> None:
    ids = graph.input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
    last = graph.input("last_positions", ir.DataType.INT32, ["batch_size"])
    total = graph.input("total_length", ir.DataType.INT32, [1])
    chosen = graph.input("logit_rows", ir.DataType.INT64, ["rows"])
    hidden = decoder.hidden(ids, Place(last, total))  # (B, T, D)
    flat = graph.node(
        "Reshape", [hidden, graph.integers(-1, weights.config.hidden_size)], "lm_head"
    )  # (B * T, D)
    logits = decoder.logits(graph.node("Gather", [flat, chosen], "lm_head", axis=0))  # (R, V)
    likeliest = graph.node("ArgMax", [logits], "next_ids", axis=-1, keepdims=0)
    graph.output(logits, "logits", ir.DataType.FLOAT, ["rows", weights.config.vocab_size])
    graph.output(likeliest, "next_ids", ir.DataType.INT64, ["rows"])


def _write_portable(graph: GraphBuilder, decoder: OnnxDecoder, weights: Weights) -> None:
    ids = graph.input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
    mask = graph.input("attention_mask", ir.DataType.INT64, ["batch_size", "total_sequence_length"])
    counts = graph.node("ReduceSum", [mask, graph.integers(1)], "last", keepdims=0)  # (B,)
    last = graph.node("Sub", [counts, graph.integers(1)], "last")
    longest = graph.node("Shape", [mask], "total", start=1)  # (1,)
    int32 = int(ir.DataType.INT32)
    place = Place(
        graph.node("Cast", [last], "last", to=int32),
        graph.node("Cast", [longest], "total", to=int32),
    )
    logits = decoder.logits(decoder.hidden(ids, place))
    shape = ("batch_size", "sequence_length", weights.config.vocab_size)
    graph.output(logits, "logits", ir.DataType.FLOAT, shape)


def _file_names(plan: Plan) -> tuple[str, str]:
    if plan.layout == "transformers-js":
        file = f"model{_SUFFIXES[plan.precision]}.onnx"
        return file, f"{file}_data"
    return "model.onnx", DATA_FILE
