"""A GGUF file read back: its tensors in fp32 by the checkpoint's names.

No runtime of ours runs such a file, so it is verified by what its bytes stand for: they go into the
plain decoder, which then answers the questions. What the file says of its shape has to be the
artefact's; rows of q and k go back by llama.cpp's rule, not by undoing what the writer did.
"""

import math
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from edgetiny.artefact import Artefact, ModelFile
from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.errors import ArtefactError
from edgetiny.export.gguf_write import gguf_name
from edgetiny.model import build_model, rotary_frequencies
from edgetiny.runtimes import EagerRuntime, Engine


def open_gguf(folder: Path, model: ModelFile, threads: int) -> EagerRuntime:
    """Return the plain decoder over what a GGUF file's tensors stand for.

    Raises ArtefactError if the file is not a GGUF file, lacks a tensor, or says another shape.
    """
    config = Artefact.open(folder).config
    tensors = GgufTensors(folder / model.name, config)
    runtime = EagerRuntime(
        build_model(config, tensors, dtype=torch.float32),
        folder,
        context=model.context,
        threads=threads,
    )
    runtime.engine = Engine(
        name="eager over the file's tensors, read with gguf",
        version=version("gguf"),
        device="cpu",
        threads=runtime.engine.threads,
        precision=model.precision,
        kv_dtype="fp32",
    )
    return runtime


class GgufTensors(Mapping[str, Tensor]):
    """The tensors of a file by the checkpoint's names, each made when asked for: fp32, unpadded."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        try:
            reader = GGUFReader(path)
        except (ValueError, OSError) as error:
            raise ArtefactError(f"{path} is not a GGUF file: {error}") from error
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._shapes = parameter_shapes(config)
        self._config = config
        self._share = config.hidden_size / self._width()
        missing = [name for name in self._shapes if gguf_name(name) not in self._tensors]
        if missing:
            raise ArtefactError(f"{path} lacks {gguf_name(missing[0])}; export it again")
        self._check(path, reader)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._tensors[gguf_name(name)]
        values = torch.from_numpy(
            np.array(dequantize(stored.data, stored.tensor_type), dtype=np.float32)
        )
        values = values[tuple(slice(size) for size in self._shapes[name])].clone()
        if "norm" in name:
            return values.div(self._share**0.5)
        for part, n_heads in (
            (".q_proj.", self._config.num_attention_heads),
            (".k_proj.", self._config.num_key_value_heads),
        ):
            if part in name:
                # Neighbours 2i and 2i + 1 of a head turn together in llama.cpp, i and i + half in
                # a checkpoint.
                pairs = values.view(n_heads, self._config.head_dim // 2, 2, -1)
                return pairs.transpose(1, 2).reshape(values.shape)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def _width(self) -> int:
        return int(self._tensors["output_norm.weight"].shape[0])

    def _check(self, path: Path, reader: GGUFReader) -> None:
        """Raise ArtefactError if llama.cpp would be told of another model than the artefact's."""
        config = self._config
        wanted = {
            "block_count": config.num_hidden_layers,
            "embedding_length": self._width(),
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": config.head_dim,
            "attention.value_length": config.head_dim,
            "rope.dimension_count": config.head_dim,
            "rope.freq_base": config.rope_theta,
            # Zeros that fill the width up make the mean square smaller, and the epsilon with it.
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps * self._share,
        }
        for key, value in wanted.items():
            field = reader.get_field(f"llama.{key}")
            said = None if field is None else field.contents()
            if said is None or not math.isclose(said, value, rel_tol=1e-6):
                raise ArtefactError(
                    f"{path} says llama.{key} is {said}, its model's is {value}; export it again"
                )
        base = config.rope_theta ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
        factors = torch.ones_like(base)
        if (stored := self._tensors.get("rope_freqs.weight")) is not None:
            factors = torch.from_numpy(np.array(stored.data, dtype=np.float32))
        if not torch.allclose(base / factors, rotary_frequencies(config), rtol=1e-5, atol=0):
            raise ArtefactError(f"{path} rotates by other frequencies; export it again")
