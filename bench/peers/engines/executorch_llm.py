"""ExecuTorch: its own LLM exporter at batch 1, and its model with a static batch above that.

options: qmode, group_size, embedding ("4,32"), batch. The exporter's dynamic shape takes a prompt
at once; with a static batch, the prompt goes in token by token.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers.work import Ids, Timed, Work, argmax_ids, greedy

CONTEXT = 512
MODEL = "model.pte"
_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "model.layers": "layers",
}


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Write `model.pte`."""
    params = _write_params(checkpoint, folder)
    if options["batch"] == 1:
        _export_by_command(checkpoint, folder, params, options)
    else:
        _export_static(checkpoint, folder, params, options)


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Decode in ExecuTorch's Python runtime, which holds one thread pool of its own."""
    import torch
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.extension.pybindings.portable_lib import (
        _load_for_executorch,
        _threadpool_get_thread_count,
        _unsafe_reset_threadpool,
    )
    from executorch.kernels import quantized  # noqa: F401

    if options["batch"] != work.batch:
        raise ValueError(f"this model was exported for a batch of {options['batch']}")
    _unsafe_reset_threadpool(work.threads)
    if _threadpool_get_thread_count() != work.threads:
        raise RuntimeError(f"the thread pool did not take {work.threads} threads")
    module = _load_for_executorch(str(folder / MODEL))

    def step(ids: Ids, position: int) -> Ids:
        inputs = (torch.from_numpy(ids), torch.tensor([position]))
        logits = module.forward(inputs)[0].numpy()
        return argmax_ids(logits.reshape(work.batch, -1))

    def start(prompt: Ids) -> Ids:
        if work.batch == 1:
            return step(prompt, 0)
        for position in range(prompt.shape[1]):
            ids = step(prompt[:, position : position + 1].copy(), position)
        return ids

    return greedy(start, step, work)


def renamed_weights(checkpoint: Path) -> dict[str, Any]:
    """Return the weights by the names of Meta's releases; the head stands beside the embedding."""
    from safetensors.torch import load_file

    renamed = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    renamed["output.weight"] = renamed["tok_embeddings.weight"].clone()
    return renamed


def _write_params(checkpoint: Path, folder: Path) -> Path:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    shape = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": config["head_dim"],
        "hidden_dim": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_theta"],
        "use_hf_rope": True,
    }
    path = folder / "params.json"
    path.write_text(json.dumps(shape), encoding="utf-8")
    return path


def _export_by_command(
    checkpoint: Path, folder: Path, params: Path, options: Mapping[str, Any]
) -> None:
    import torch

    settings = {
        "base.params": params,
        "model.use_kv_cache": True,
        "model.use_sdpa_with_kv_cache": True,
        "export.max_seq_length": CONTEXT,
        "export.max_context_length": CONTEXT,
        "export.output_dir": folder,
        # A name that ends in .pte is taken as the path itself.
        "export.output_name": folder / MODEL,
        "backend.xnnpack.enabled": True,
        "backend.xnnpack.extended_ops": True,
    }
    if options["qmode"] is not None:
        settings["quantization.qmode"] = options["qmode"]
        settings["quantization.group_size"] = options["group_size"]
        settings["quantization.embedding_quantize"] = f"'{options['embedding']}'"
    # The exporter takes weights for quantized ones if "8da4w" stands anywhere in their path.
    with tempfile.TemporaryDirectory(prefix="weights-") as elsewhere:
        weights = Path(elsewhere) / "weights.pth"  # the only format that it reads
        torch.save(renamed_weights(checkpoint), weights)
        settings["base.checkpoint"] = weights
        command = [sys.executable, "-m", "executorch.extension.llm.export.export_llm"]
        command += [f"{name}={value}" for name, value in settings.items()]
        subprocess.run(command, cwd=folder, check=True)


def _export_static(
    checkpoint: Path, folder: Path, params: Path, options: Mapping[str, Any]
) -> None:
    """Lower ExecuTorch's own transformer, with a batch fixed, through its own transformations."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.examples.models.llama.llama_transformer import construct_transformer
    from executorch.examples.models.llama.model_args import ModelArgs
    from executorch.examples.models.llama.source_transformation.custom_kv_cache import (
        replace_kv_cache_with_custom_kv_cache,
    )
    from executorch.examples.models.llama.source_transformation.quantize import (
        get_quant_embedding_transform,
        quantize,
    )
    from executorch.examples.models.llama.source_transformation.sdpa import (
        replace_sdpa_with_custom_op,
    )
    from executorch.exir import (
        EdgeCompileConfig,
        ExecutorchBackendConfig,
        to_edge_transform_and_lower,
    )
    from executorch.exir.passes import MemoryPlanningPass
    from executorch.extension.llm.export.builder import DType

    batch = options["batch"]
    shape = ModelArgs(
        **json.loads(params.read_text(encoding="utf-8")),
        max_batch_size=batch,
        max_seq_len=CONTEXT,
        max_context_len=CONTEXT,
        use_kv_cache=True,
        use_sdpa_with_kv_cache_op=True,
    )
    model = construct_transformer(shape).eval()
    model.load_state_dict(renamed_weights(checkpoint), strict=False)
    if options["qmode"] is not None:
        model = quantize(
            model, options["qmode"], group_size=options["group_size"], computation_dtype=DType.fp32
        )
        model = get_quant_embedding_transform(options["embedding"])(model)
    model = replace_sdpa_with_custom_op(replace_kv_cache_with_custom_kv_cache(model))
    example = (torch.zeros((batch, 1), dtype=torch.long), {"input_pos": torch.tensor([0])})
    with torch.no_grad():
        program = torch.export.export(model, example, strict=True)
    lowered = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    made = lowered.to_executorch(
        ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
    )
    with (folder / MODEL).open("wb") as file:
        made.write_to_file(file)
