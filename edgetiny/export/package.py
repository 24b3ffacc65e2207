"""The files beside the graph: what each loader reads, and the manifest that pins them all."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import edgetiny
from edgetiny.artefact import EXACT_SUMS, MANIFEST, SCHEMA_VERSION, UNHASHED, ModelFile
from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes
from edgetiny.checkpoint.folder import GENERATION_FILE
from edgetiny.checkpoint.write import generation_config
from edgetiny.evaluate.window import trained_length
from edgetiny.export.plan import Lowered, Plan, folder_of, is_proven
from edgetiny.files import TOKENIZER_FILES, sha256_file, write_json
from edgetiny.forecast import padded_head_dim
from edgetiny.tokenizer import Tokenizer, has_tokenizer


def write_companions(
    folder: Path, checkpoint: Checkpoint, config: ModelConfig, plans: Sequence[Plan]
) -> None:
    """Write the configurations that other programs read, and copy the tokenizer."""
    # Weights are stored narrower than fp32, but what goes in and comes out is fp32.
    raw = config.to_hf() | {"torch_dtype": "float32"}
    browser = [plan for plan in plans if plan.layout == "transformers-js"]
    if browser:
        raw["transformers.js_config"] = transformers_js_config(browser[0])
    write_json(folder / "config.json", raw)
    write_json(folder / GENERATION_FILE, generation_config(config, checkpoint))
    for plan in plans:
        if (plan.format, plan.layout) == ("onnx", "portable"):
            inside = folder / folder_of(plan, plans)
            write_json(inside / "genai_config.json", genai_config(config, plan))
    for name in TOKENIZER_FILES:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)


def transformers_js_config(plan: Plan) -> dict[str, Any]:
    """Return what transformers.js has to know: which file, and that its weights lie beside it."""
    names = {"int8": "int8", "int4": "q4"}
    dtype = names.get(plan.precision, plan.precision)
    suffix = "" if dtype == "fp32" else f"_{dtype}"
    return {"dtype": dtype, "use_external_data_format": {f"model{suffix}.onnx": True}}


def genai_config(config: ModelConfig, plan: Plan) -> dict[str, Any]:
    """Return onnxruntime-genai's description of the graph, with greedy search as the default."""
    options = {"log_id": "onnxruntime-genai", "provider_options": []}
    if plan.kernel == "dynamic":
        options |= dict([EXACT_SUMS])  # right on every machine, if not the fastest on each
    decoder = {
        "session_options": options,
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
        "context_length": plan.context,
        "decoder": decoder,
    }
    search = {
        "do_sample": False,
        "max_length": plan.context,
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
    models: Sequence[ModelFile],
    *,
    merge: Mapping[str, Any],
) -> None:
    """Write `manifest.json`: it hashes every file there is. It holds no date and no path.

    merge: the keys that say what became of the key/value heads.
    """
    payload = {
        "schema_version": SCHEMA_VERSION,
        "parameters": sum(math.prod(shape) for shape in parameter_shapes(config).values()),
        "source_sha256": checkpoint.sha256,
        "trained_length": trained_length(checkpoint),
        **merge,
        "tokenizer_sha256": _tokenizer_sha256(checkpoint.path),
        "models": [asdict(model) for model in models],
        "versions": {name: _version(name) for name in _packages(models)},
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": sha256_file(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in UNHASHED
        },
    }
    write_json(folder / MANIFEST, payload)


def model_file(plan: Plan, lowered: Lowered, inside: str, config: ModelConfig) -> ModelFile:
    """Return the manifest's row of what was lowered into the folder `inside` of an artefact."""
    facts = dict(lowered.facts)
    return ModelFile(
        format=plan.format,
        layout=plan.layout,
        precision=plan.precision,
        kernel=plan.kernel if plan.is_quantized else None,
        block_size=plan.block_size or None,
        kv_dtype=plan.kv_dtype,
        compute_dtype=facts.pop("compute_dtype"),
        batch=plan.batch,
        max_batch=facts.pop("max_batch"),
        context=plan.context,
        target=plan.target,
        verified=is_proven(plan),
        loaders=tuple(facts.pop("loaders", _loaders(plan, config))),
        files=tuple(str(PurePosixPath(inside) / name) for name in lowered.files),
        nodes=lowered.nodes,
        facts=facts,
        method=plan.method if plan.precision == "int4" else None,
    )


def open_tokenizer(path: Path) -> Tokenizer | None:
    """Return a checkpoint's tokenizer; None if it has none. Raises DataError for another kind."""
    return Tokenizer.open(path) if has_tokenizer(path) else None


def _loaders(plan: Plan, config: ModelConfig) -> list[str]:
    """Return the programs that load such a file and give the same text, by our tests."""
    if plan.format != "onnx" or plan.target != "cpu":
        return []
    # Products of channels are exact on every x86 only with `EXACT_SUMS`, which these do not set.
    by_channels = plan.kernel == "dynamic"
    loaders = ["edgetiny"] if by_channels else ["edgetiny", "onnxruntime"]
    # Options of PanGu-pi: optimum asks transformers, which refuses; genai was not tried.
    if plan.layout != "portable" or not config.is_plain:
        return loaders
    # optimum takes head_dim to be hidden_size / heads, whatever config.json says.
    is_usual = config.head_dim * config.num_attention_heads == config.hidden_size
    if is_usual and padded_head_dim(config.head_dim) == config.head_dim and not by_channels:
        loaders.append("optimum")
    return [*loaders, "onnxruntime-genai"]


def _packages(models: Sequence[ModelFile]) -> list[str]:
    """Return the packages whose versions decide the bytes."""
    by_format = {
        "onnx": ["torch", "onnx-ir"],
        "executorch": ["torch", "executorch", "torchao"],
        "gguf": ["torch", "gguf"],
    }
    formats = dict.fromkeys(model.format for model in models)
    return ["edgetiny", *dict.fromkeys(name for each in formats for name in by_format[each])]


def _version(package: str) -> str:
    return edgetiny.__version__ if package == "edgetiny" else version(package)


def _special_ids(config: ModelConfig) -> dict[str, Any]:
    hf = config.to_hf()
    ids = {key: hf[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {key: value for key, value in ids.items() if value is not None}


def _tokenizer_sha256(path: Path) -> str | None:
    tokenizer = open_tokenizer(path)
    return None if tokenizer is None else tokenizer.sha256
