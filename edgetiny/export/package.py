"""The files beside the graph: what each loader reads, and the manifest that pins them all."""

import math
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import edgetiny
from edgetiny.artefact import MANIFEST, SCHEMA_VERSION, VERIFICATION
from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes
from edgetiny.checkpoint.folder import TOKENIZER_FILES
from edgetiny.export.heads import padded_head_dim
from edgetiny.export.lower import Lowering
from edgetiny.export.onnx_leaves import ACCURACY_LEVEL
from edgetiny.files import sha256_file, write_json
from edgetiny.tokenizer import Tokenizer, has_tokenizer


def write_companions(
    folder: Path, checkpoint: Checkpoint, config: ModelConfig, context: int
) -> None:
    """Write what optimum and onnxruntime-genai read, and copy the tokenizer."""
    # Weights are stored narrower than fp32, but what goes in and comes out is fp32.
    write_json(folder / "config.json", config.to_hf() | {"torch_dtype": "float32"})
    write_json(folder / "generation_config.json", _special_ids(config) | {"do_sample": False})
    write_json(folder / "genai_config.json", genai_config(config, context))
    for name in TOKENIZER_FILES:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)


def genai_config(config: ModelConfig, context: int) -> dict[str, Any]:
    """Return onnxruntime-genai's description of the graph, with greedy search as the default."""
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": padded_head_dim(config.head_dim),
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    ids = _special_ids(config)
    # It pads batches even of models that have no token for it.
    ids.setdefault("pad_token_id", config.eos_token_ids[0] if config.eos_token_ids else 0)
    model = {
        "type": config.to_hf()["model_type"],
        "vocab_size": config.vocab_size,
        "context_length": context,
        "decoder": decoder,
    }
    search = {
        "do_sample": False,
        "max_length": context,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
    return {"model": model | ids, "search": search}


def write_manifest(
    folder: Path,
    checkpoint: Checkpoint,
    config: ModelConfig,
    lowering: Lowering,
    *,
    gqa_groups: int | None,
    nodes: Mapping[str, int],
) -> None:
    """Write `manifest.json` last: it hashes every other file. It holds no date and no path."""
    is_int8 = lowering.precision == "int8"
    payload = {
        "schema_version": SCHEMA_VERSION,
        "format": "onnx",
        "layout": "plain",
        "precision": lowering.precision,
        "block_size": lowering.block_size if is_int8 else None,
        "accuracy_level": ACCURACY_LEVEL if is_int8 else None,
        "compute_dtype": "fp32",
        "kv_dtype": "fp32",
        "kv_head_dim": padded_head_dim(config.head_dim),
        "context": lowering.context,
        "max_batch": None,
        "parameters": sum(math.prod(shape) for shape in parameter_shapes(config).values()),
        "source_sha256": checkpoint.sha256,
        "gqa_groups": gqa_groups,
        "tokenizer_sha256": _tokenizer_sha256(checkpoint.path),
        "loaders": _loaders(config),
        "nodes": dict(nodes),
        "versions": {
            "edgetiny": edgetiny.__version__,
            "torch": version("torch"),
            "onnxscript": version("onnxscript"),
        },
        "files": {
            path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for path in sorted(folder.iterdir())
            if path.name not in (MANIFEST, VERIFICATION)
        },
    }
    write_json(folder / MANIFEST, payload)


def open_tokenizer(path: Path) -> Tokenizer | None:
    """Return a checkpoint's tokenizer; None if it has none. Raises DataError for another kind."""
    return Tokenizer.open(path) if has_tokenizer(path) else None


def _loaders(config: ModelConfig) -> list[str]:
    """Return the programs that load such a graph."""
    loaders = ["edgetiny", "onnxruntime", "onnxruntime-genai"]
    # optimum takes head_dim to be hidden_size / heads, whatever config.json says.
    is_usual = config.head_dim * config.num_attention_heads == config.hidden_size
    if is_usual and padded_head_dim(config.head_dim) == config.head_dim:
        loaders.append("optimum")
    return loaders


def _special_ids(config: ModelConfig) -> dict[str, Any]:
    hf = config.to_hf()
    ids = {key: hf[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {key: value for key, value in ids.items() if value is not None}


def _tokenizer_sha256(path: Path) -> str | None:
    tokenizer = open_tokenizer(path)
    return None if tokenizer is None else tokenizer.sha256
