"""A GGUF file read back: its tensors in fp32 by the checkpoint's names.

No runtime of ours runs such a file, so it is verified by what its bytes stand for: they go into the
plain decoder, which then answers the questions.
"""

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
from edgetiny.export.gguf_write import gguf_name, interleaved
from edgetiny.model import build_model
from edgetiny.runtimes import EagerRuntime, Engine


def open_gguf(folder: Path, model: ModelFile, threads: int) -> EagerRuntime:
    """Return the plain decoder over what a GGUF file's tensors stand for.

    Raises ArtefactError if the file is not a GGUF file or lacks a tensor.
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
                order = interleaved(n_heads, self._config.head_dim)
                return values[order.argsort()]
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def _width(self) -> int:
        return int(self._tensors["output_norm.weight"].shape[0])
