"""Writing a checkpoint folder, with where it came from."""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import edgetiny
from edgetiny.checkpoint.folder import GENERATION_FILE, SCHEMA_VERSION, Checkpoint
from edgetiny.checkpoint.model_config import ModelConfig, parameter_shapes
from edgetiny.checkpoint.stream import stream_tensors
from edgetiny.files import TOKENIZER_FILES, write_json

SHARD_BYTES = 5 * 10**9
_TABLE = "model.embed_tokens.weight"


def write_checkpoint(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    stage: str,
    settings: Mapping[str, Any],
    parent: Checkpoint | None,
    tokenizer: Path | None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write a whole checkpoint into an existing folder; call it inside `atomic_folder`.

    tensors: every name of `parameter_shapes(config)`; asked for one at a time. Matrices are written
    in the embedding's dtype, vectors (norms and biases) each in its own.
    settings, metrics: JSON values, kept in `edgetiny.json` with the lineage of `parent`.
    tokenizer: folder whose tokenizer files are copied, if any.
    Raises OSError when the disk refuses.
    """
    dtype = write_weights(folder, config, tensors)
    write_json(folder / "config.json", config.to_hf() | {"torch_dtype": dtype})
    write_json(folder / GENERATION_FILE, generation_config(config, parent))
    write_json(folder / "edgetiny.json", _lineage(stage, settings, parent, metrics or {}))
    for name in TOKENIZER_FILES if tokenizer is not None else ():
        assert tokenizer is not None
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def write_weights(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str:
    """Write `model.safetensors`, in shards with an index above 5 GB; return the matrices' dtype."""
    shapes = parameter_shapes(config)
    assert tensors.keys() == shapes.keys(), tensors.keys() ^ shapes.keys()
    dtypes = _dtypes(shapes, tensors)
    sizes = {
        name: torch.Size(shape).numel() * dtypes[name].itemsize for name, shape in shapes.items()
    }
    shards: list[list[str]] = [[]]
    size = 0
    for name, n_bytes in sizes.items():
        if shards[-1] and size + n_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n_bytes
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        stream_tensors(
            folder / file,
            {name: (dtypes[name], shapes[name]) for name in names},
            lambda name: tensors[name].to(dtypes[name]),
        )
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)
    return str(dtypes[_TABLE]).removeprefix("torch.")


def _dtypes(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> dict[str, torch.dtype]:
    """Return what each tensor is written in; only the table and vectors are made to find out."""
    matrix = tensors[_TABLE].dtype
    return {
        name: tensors[name].dtype if len(shape) == 1 else matrix for name, shape in shapes.items()
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Raises OSError when the disk refuses."""
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    stream_tensors(path, specs, tensors.__getitem__)


def generation_config(config: ModelConfig, parent: Checkpoint | None) -> dict[str, Any]:
    """Return what `generation_config.json` says: the special ids, and else as the parent's does.

    A parent of another vocabulary has nothing to say: its settings may name ids.
    """
    hf = config.to_hf()
    ids = {key: hf[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    carried: dict[str, Any] = {"do_sample": False}
    if parent is not None and parent.config.vocab_size == config.vocab_size:
        carried |= parent.generation_config
    return carried | {key: value for key, value in ids.items() if value is not None}


def _lineage(
    stage: str, settings: Mapping[str, Any], parent: Checkpoint | None, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    ancestors = []
    if parent is not None:
        own = {
            key: value
            for key, value in parent.lineage.items()
            if key in ("stage", "settings", "metrics")
        }
        ancestors = [*parent.lineage.get("ancestors", []), own | {"sha256": parent.sha256}]
    return {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "settings": dict(settings),
        "metrics": dict(metrics),
        "versions": {"edgetiny": edgetiny.__version__, "torch": version("torch")},
        "ancestors": ancestors,
    }
