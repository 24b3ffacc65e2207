"""From weights to an ExecuTorch program: swap the leaves, trace once, hand it to XNNPACK."""

import contextlib
import logging
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import (
    EdgeCompileConfig,
    EdgeProgramManager,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from executorch.exir.lowered_backend_module import executorch_call_delegate
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgetiny.errors import CheckFailed
from edgetiny.export.executorch_leaves import (
    EtAttention,
    EtNorm,
    EtPlainAttention,
    EtSequence,
    EtSwiGLU,
    linear,
    rotary_tables,
    stack,
    table,
)
from edgetiny.export.plan import Lowered, Plan
from edgetiny.model import RMSNorm, SelfAttention, Shortcut, SwiGLU, Transformer, empty_model
from edgetiny.quantize import BlockWeight, Weights

MODEL_FILE = "model.pte"

# What is left to the runtime is the cache, the attention and cutting heads apart: 8 of 40 a layer.
LEAST_DELEGATED = 0.6
_PRODUCTS = ("aten.linear", "aten.addmm", "aten.mm", "aten.bmm")


class EtDecoder(nn.Module):
    """The whole program: ids (B, S) and the first one's place in, the last one's logits out."""

    def __init__(self, model: Transformer, context: int) -> None:
        super().__init__()
        self.transformer = model
        self.context = context
        cos, sin = rotary_tables(model.config, context)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        kv_heads = model.config.num_key_value_heads
        is_turned = torch.ones(model.config.num_attention_heads + 2 * kv_heads, 1)
        is_turned[-kv_heads:] = 0
        self.register_buffer("is_turned", is_turned)  # (H + 2 G, 1)

    def forward(self, tokens: Tensor, input_pos: Tensor) -> Tensor:
        hidden = self.transformer.hidden(tokens, self._place(tokens, input_pos))
        logits: Tensor = self.transformer.lm_head(hidden[:, -1:])
        return logits[:, 0]  # (B, V)

    def _place(self, tokens: Tensor, input_pos: Tensor) -> EtSequence:
        # A symbol while it is traced: nothing may turn it into a number.
        start = cast(int, input_pos[0].item())
        n_new = tokens.shape[1]
        for holds in (start >= 0, start < self.context, start + n_new <= self.context):
            torch._check(holds)  # type: ignore[no-untyped-call]
        is_turned = self.get_buffer("is_turned")
        # (1, S, 1, head_dim)
        cos = self.get_buffer("cos").narrow(0, start, n_new)[None, :, None]
        sin = self.get_buffer("sin").narrow(0, start, n_new)[None, :, None]
        places = torch.arange(n_new) + start
        seen = torch.arange(self.context) <= places[:, None]  # (S, C)
        mask = torch.where(seen, 0.0, -torch.inf)
        return EtSequence(
            start=start,
            cos=cos * is_turned + (1 - is_turned),
            sin=sin * is_turned,
            places=places,
            mask=mask,
            positions=places[None],
        )


def lower_executorch(
    folder: Path, weights: Weights, plan: Plan, advance: Callable[..., None]
) -> Lowered:
    """Write `model.pte` and return what it is made of.

    advance: called after each tensor of the model.
    Raises CheckFailed if XNNPACK did not take over what it should have.
    """
    model = empty_model(weights.config)
    _swap_leaves(model, weights, plan, advance)
    edge = _to_edge(EtDecoder(model, plan.context).eval(), plan, constant_methods(weights, plan))
    del model
    graph = edge.exported_program().graph_module
    inside, outside = operations(graph)
    share = sum(inside.values()) / (sum(inside.values()) + sum(outside.values()))
    _require_delegated(share, outside, plan)
    program = edge.to_executorch(ExecutorchBackendConfig())
    with (folder / MODEL_FILE).open("wb") as file:
        program.write_to_file(file)
    return Lowered(
        files=[MODEL_FILE],
        nodes=dict(sorted((inside + outside).items(), key=lambda pair: (-pair[1], pair[0]))),
        facts={
            "compute_dtype": "fp32",
            "kv_head_dim": weights.config.head_dim,
            "max_batch": plan.batch,
            "delegate": "xnnpack",
            "delegated_share": round(share, 4),
            "delegates": sum(1 for node in graph.graph.nodes if _is_delegate(node)),
            "custom_ops": plan.layout != "portable",
            "scoring": "stepping",
        },
    )


def constant_methods(weights: Weights, plan: Plan) -> dict[str, Any]:
    """Return what ExecuTorch's LLM runner asks of a program."""
    config = weights.config
    methods: dict[str, Any] = {
        "get_max_seq_len": plan.context,
        "get_max_context_len": plan.context,
        "get_vocab_size": config.vocab_size,
        "get_n_layers": config.num_hidden_layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": plan.layout != "portable",
        "enable_dynamic_shape": new_tokens(plan) > 1,
    }
    if config.bos_token_id is not None:
        methods["get_bos_id"] = config.bos_token_id
    if config.eos_token_ids:
        methods["get_eos_ids"] = list(config.eos_token_ids)
    return methods


def operations(graph: GraphModule) -> tuple[Counter[str], Counter[str]]:
    """Return operations by kind: those inside XNNPACK delegates, and those left outside."""
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if _is_delegate(node):
            lowered = getattr(graph, str(node.args[0].target))
            inside.update(map(_kind, _computing(lowered.original_module.graph_module)))
    outside.update(map(_kind, _computing(graph)))
    return inside, outside


def _swap_leaves(
    model: Transformer, weights: Weights, plan: Plan, advance: Callable[..., None]
) -> None:
    def read(name: str) -> Tensor:
        advance()
        return weights.tensor(name).float()

    for name, module in list(model.named_modules()):
        if isinstance(module, RMSNorm):
            model.set_submodule(name, EtNorm(read(f"{name}.weight"), module.eps))
        elif isinstance(module, SelfAttention):
            model.set_submodule(name, _attention(name, module, weights, plan, advance))
        elif isinstance(module, SwiGLU):
            model.set_submodule(name, _feed_forward(name, weights, advance))
        elif isinstance(module, Shortcut):
            model.set_submodule(name, _shortcut(name, weights, advance))
    advance()
    model.set_submodule("model.embed_tokens", table(weights.table()))
    if not weights.config.tie_word_embeddings:
        advance()
    model.set_submodule("lm_head", linear(weights.linear("lm_head.weight"), None))


def _attention(
    name: str, module: SelfAttention, weights: Weights, plan: Plan, advance: Callable[..., None]
) -> EtAttention:
    names = [f"{name}.{kind}_proj" for kind in "qkv"]
    bias = None
    if module.q_proj.bias is not None:
        bias = torch.cat([weights.tensor(f"{each}.bias").float() for each in names])
        advance(3)
    out_bias = None
    if module.o_proj.bias is not None:
        out_bias = weights.tensor(f"{name}.o_proj.bias")
        advance()
    qkv = linear(stack([weights.linear(f"{each}.weight") for each in names]), bias)
    out = linear(weights.linear(f"{name}.o_proj.weight"), out_bias)
    advance(4)
    kind = EtPlainAttention if plan.layout == "portable" else EtAttention
    return kind(weights.config, qkv, out, plan.batch, plan.context)


def _feed_forward(name: str, weights: Weights, advance: Callable[..., None]) -> EtSwiGLU:
    stored = [weights.linear(f"{name}.{kind}_proj.weight") for kind in ("gate", "up", "down")]
    advance(3)
    # Where blocks fill up the inputs of `down`, `gate` and `up` yield zeros for them.
    width = None
    if isinstance(stored[2], BlockWeight):
        width = stored[2].data.shape[1] * stored[2].block_size
    gate, up = (linear(each, None, rows=width) for each in stored[:2])
    n_terms = weights.config.series_activation
    n_terms = n_terms if n_terms > 1 else 0
    series = []
    for term in range(n_terms):
        places = (f"{name}.series.{term}.{kind}" for kind in ("scale", "shift"))
        scale, shift = (_widened(weights.tensor(place).float(), width) for place in places)
        series.append((scale, shift))
        advance(2)
    return EtSwiGLU(gate, up, linear(stored[2], None), series)


def _shortcut(name: str, weights: Weights, advance: Callable[..., None]) -> nn.Sequential:
    reduce, expand = (
        linear(weights.linear(f"{name}.{kind}.weight"), None) for kind in ("reduce", "expand")
    )
    advance(2)
    return nn.Sequential(reduce, nn.GELU(), expand)


def _widened(vector: Tensor, width: int | None) -> Tensor:
    return vector if width is None else F.pad(vector, (0, width - len(vector)))


def new_tokens(plan: Plan) -> int:
    """Return the tokens that a program is traced with: 1 if it takes no more at a time."""
    return 1 if plan.batch > 1 or plan.context < 3 else 2


def _to_edge(model: EtDecoder, plan: Plan, methods: dict[str, Any]) -> EdgeProgramManager:
    n_new = new_tokens(plan)
    tokens = torch.zeros(plan.batch, n_new, dtype=torch.int64)
    shapes = None
    if n_new > 1:
        shapes = {"tokens": {1: torch.export.Dim("n", min=1, max=plan.context)}, "input_pos": None}
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            model, (tokens, torch.zeros(1, dtype=torch.int64)), dynamic_shapes=shapes, strict=False
        )
        return to_edge_transform_and_lower(
            program,
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
            constant_methods=methods,
        )


def _require_delegated(share: float, outside: Counter[str], plan: Plan) -> None:
    # Weights of fp16 are widened outside, and the plain attention multiplies there.
    if plan.precision == "fp16" or plan.layout == "portable":
        return
    left = [kind for kind in outside if kind.startswith(_PRODUCTS)]
    if share < LEAST_DELEGATED or left:
        raise CheckFailed(
            f"{plan.name}: XNNPACK took over {share:.0%} of the operations ({LEAST_DELEGATED:.0%}"
            f" are asked for) and left {', '.join(left) or 'no products'} behind; this executorch"
            " has other rules than 1.5, install executorch==1.5.1"
        )


def _computing(graph: GraphModule) -> Iterator[Node]:
    """Yield nodes that compute something of tensors."""
    for node in graph.graph.nodes:
        is_call = node.op == "call_function" and node.target is not operator.getitem
        has_tensors = isinstance(node.meta.get("val"), Tensor | tuple | list)
        if is_call and has_tensors and not _is_delegate(node):
            yield node


def _is_delegate(node: Node) -> bool:
    return node.op == "call_function" and node.target is executorch_call_delegate


def _kind(node: Node) -> str:
    target: Any = node.target
    if "auto_functionalized" in str(target):
        target = node.args[0]
    name = target.name() if hasattr(target, "name") else str(target)
    return str(name).replace("::", ".").split(".out")[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters from telling users about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch", "executorch", "root")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
