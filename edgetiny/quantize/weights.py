"""What a lowerer reads: each tensor as the scheme stores it, made when asked for and not kept."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.quantize.blocks import BlockWeight, by_rows, quantize_blocks
from edgetiny.quantize.channels import ChannelWeight, quantize_channels
from edgetiny.quantize.hqq import quantize_hqq
from edgetiny.quantize.kv import KVScales
from edgetiny.quantize.scheme import Scheme

Stored = Tensor | BlockWeight | ChannelWeight

TABLE = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class Weights:
    """A model's tensors under one scheme. Names are the checkpoint's.

    linears: matrices that were rounded before, by name; the others are rounded here, by the
    nearest where the method is gptq.
    kv_scales: those of an int8 KV cache.
    Raises ConfigError if what the scheme needs text for is not given: `calibrate` gives it.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Tensor],
        scheme: Scheme,
        *,
        linears: Mapping[str, Callable[[], Stored]] | None = None,
        kv_scales: KVScales | None = None,
    ) -> None:
        if scheme.method == "gptq" and linears is None:
            raise ConfigError("gptq rounds weights by what text says of them; calibrate first")
        if scheme.kv == "int8" and kv_scales is None:
            raise ConfigError("an int8 KV cache has scales taken from text; calibrate first")
        self.config = config
        self.scheme = scheme
        self.kv_scales = kv_scales
        """None unless the KV cache is int8."""
        self._tensors = tensors
        self._linears = linears or {}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as the checkpoint stores it: norms and biases."""
        return self._tensors[name]

    def linear(self, name: str) -> Stored:
        """Return a matrix (N, K) as the scheme stores it; a tied head is `table()`.

        fp32 and fp16 are tensors of that type, int8 and int4 as the scheme's kernel wants them.
        Raises CheckpointError for a matrix with NaN, or values that the type cannot say.
        """
        if name == HEAD and self.config.tie_word_embeddings:
            name = TABLE
        if name in self._linears:
            return self._linears[name]()
        stored = store(self._tensors[name], self.scheme)
        check_finite(name, stored, self.scheme)
        return stored

    def table(self) -> Stored:
        """Return the embedding (V, D); a tied head shares its bytes."""
        return self.linear(TABLE)


def store(weight: Tensor, scheme: Scheme) -> Stored:
    """Return a matrix (N, K) plainly rounded to the scheme's precision."""
    if scheme.precision == "fp32":
        return weight.float()
    if scheme.precision == "fp16":
        return weight.half()
    if scheme.is_per_channel:
        return quantize_channels(weight)
    size = scheme.block_size
    if scheme.precision == "int8":
        return by_rows(weight, lambda part: quantize_blocks(part, size, 8))
    if scheme.method == "hqq":
        return by_rows(weight, lambda part: quantize_hqq(part, size))
    return by_rows(weight, lambda part: quantize_blocks(part, size, 4))


def check_finite(name: str, stored: Stored, scheme: Scheme) -> None:
    """Raise CheckpointError if a stored matrix, or the scales it came to, are not finite."""
    values = stored if isinstance(stored, Tensor) else stored.scales
    if torch.isfinite(values).all():
        return
    raise CheckpointError(
        f"{name} cannot be stored as {scheme.precision}: it holds NaN, infinite or too large"
        " values; edgetiny inspect says where"
    )
