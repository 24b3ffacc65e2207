"""A checkpoint folder, opened: checked headers, memory-mapped tensors, lineage."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edgetiny.checkpoint.hub import resolve
from edgetiny.checkpoint.internlm2 import internlm2_tensors
from edgetiny.checkpoint.lazy import LazyTensors
from edgetiny.checkpoint.model_config import ModelConfig, parameter_shapes
from edgetiny.errors import CheckpointError
from edgetiny.files import read_json, sha256_file

SCHEMA_VERSION = 1
GENERATION_FILE = "generation_config.json"

Reader = Callable[[], Tensor]


class Checkpoint:
    """A folder of `config.json`, safetensors and tokenizer files, whose shapes were checked.

    Tensors stay on disk until asked for, and are then memory-mapped: do not write into them.
    """

    def __init__(self, path: Path, config: ModelConfig, readers: Mapping[str, Reader]) -> None:
        self.path = path
        self.config = config
        self._readers = readers

    @classmethod
    def open(cls, reference: Path | str) -> "Checkpoint":
        """Open a folder, or `hf:owner/name[@revision]`.

        Raises CheckpointError for a missing folder, pickled weights, a damaged file, an unknown
        architecture, or tensors that are missing, unexpected or of another shape.
        """
        path = resolve(reference)
        config = ModelConfig.from_hf(
            read_json(path / "config.json", error=CheckpointError), _generation_config(path)
        )
        readers: dict[str, Reader] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for file in _weight_files(path):
            _add_tensors(file, readers, shapes)
        if "model.tok_embeddings.weight" in readers:
            readers, shapes = internlm2_tensors(config, readers, shapes)
        _check_names(path, config, readers, shapes)
        return cls(path, config, readers)

    def names(self) -> list[str]:
        """Return the names of the tensors, in the order of the forward pass."""
        return list(parameter_shapes(self.config))

    def tensor(self, name: str) -> Tensor:
        """Return one tensor, memory-mapped."""
        return self._readers[name]()

    def state_dict(self) -> LazyTensors:
        """Return every tensor by name, read when it is looked up; a tied head is not among them."""
        return LazyTensors({name: functools.partial(self.tensor, name) for name in self.names()})

    @property
    def lineage(self) -> dict[str, Any]:
        """What `edgetiny.json` says of how the folder came to be; empty for others' folders."""
        path = self.path / "edgetiny.json"
        if not path.exists():
            return {}
        lineage: dict[str, Any] = read_json(
            path, schema_version=SCHEMA_VERSION, error=CheckpointError
        )
        return lineage

    @property
    def generation_config(self) -> dict[str, Any]:
        """What `generation_config.json` says; empty if there is none."""
        return _generation_config(self.path)

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the configuration and every weight file."""
        digest = hashlib.sha256()
        for file in [self.path / "config.json", *_weight_files(self.path)]:
            digest.update(f"{file.name}:{sha256_file(file)}\n".encode())
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Return what the command line prints of a finished stage."""
        config, lineage = self.config, self.lineage
        n_parameters = sum(torch.Size(shape).numel() for shape in parameter_shapes(config).values())
        facts: dict[str, Any] = {
            "checkpoint": str(self.path),
            "stage": lineage.get("stage", "not by edgetiny"),
            "parameters": n_parameters,
            "shape": (
                f"{config.num_hidden_layers} layers x {config.hidden_size},"
                f" {config.num_attention_heads} heads of {config.head_dim},"
                f" {config.num_key_value_heads} KV heads, FFN {config.intermediate_size},"
                f" vocabulary {config.vocab_size}"
            ),
        }
        return facts | dict(lineage.get("metrics", {}))


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / GENERATION_FILE
    return read_json(path, error=CheckpointError) if path.is_file() else {}


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.exists():
        names = read_json(index, error=CheckpointError).get("weight_map", {}).values()
        files = [path / name for name in sorted(set(names))]
    else:
        files = [path / "model.safetensors"]
    for file in files:
        if file.exists():
            continue
        if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
            raise CheckpointError(
                f"{path} holds pickled weights only, which can run code when loaded;"
                " convert them to safetensors (save_pretrained of transformers does)"
            )
        raise CheckpointError(f"{file} does not exist")
    return files


def _add_tensors(
    file: Path, readers: dict[str, Reader], shapes: dict[str, tuple[int, ...]]
) -> None:
    try:
        handle: Any = safe_open(file, framework="pt")
        for name in handle.keys():  # noqa: SIM118 - no mapping, only a keys method
            shapes[name] = tuple(handle.get_slice(name).get_shape())
            readers[name] = functools.partial(handle.get_tensor, name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or truncated: {error}") from error


def _check_names(
    path: Path,
    config: ModelConfig,
    readers: Mapping[str, Reader],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    wanted = parameter_shapes(config)
    for name, shape in wanted.items():
        if name not in shapes:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        if shapes[name] != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {shapes[name]}, config.json implies {shape}"
            )
    for name in shapes.keys() - wanted.keys():
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if name != "lm_head.weight":
            raise CheckpointError(f"{path}: tensor {name} is not part of a LLaMA-like decoder")
        if not torch.equal(readers[name](), readers["model.embed_tokens.weight"]()):
            raise CheckpointError(
                f"{path}: config.json ties the head to the embedding, but lm_head.weight differs"
            )
