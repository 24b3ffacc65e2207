"""Every tensor of a model, drawn by seed and name."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.config.model import InitMethod
from edgetiny.init.deviation import deviation


class RandomTensors(Mapping[str, Tensor]):
    """Every tensor of a model, drawn when it is asked for: one of them in memory at a time.

    Matrices are normal with the deviations of `method`, norms one, biases zero; an option of
    PanGu-pi leaves the model as it would be without. But for its
    deviation a tensor depends on seed, name and shape alone, so that two models of other depth
    share the layers they have in common, and two methods differ by factors only.
    """

    def __init__(
        self, config: ModelConfig, *, std: float, seed: int, method: InitMethod = "constant"
    ) -> None:
        self._config = config
        self._shapes = parameter_shapes(config)
        self._std = std
        self._seed = seed
        self._method: InitMethod = method

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith((".bias", ".shift", ".shortcut.expand.weight")):
            return torch.zeros(shape)
        if name.endswith(".scale") and not name.endswith(".series.0.scale"):
            return torch.zeros(shape)
        if len(shape) == 1:
            return torch.ones(shape)
        digest = hashlib.sha256(f"{self._seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        std = deviation(name, self._config, self._method, self._std)
        return torch.empty(shape).normal_(0.0, std, generator=generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
