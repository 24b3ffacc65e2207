"""How much of what a norm sees is in the hidden dimensions that stay.

Axes: B windows, T tokens, D hidden size.
"""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.model import RMSNorm, Stream


@torch.inference_mode()
def kept_energy(
    config: ModelConfig, tensors: Mapping[str, Tensor], windows: Tensor, hidden: Tensor
) -> dict[str, float]:
    """Return, by the name of a norm's weight, the share of its input's mean square in `hidden`.

    Averaged over tokens as a ratio, not taken of averages: a first token can be a thousand times
    larger than the others and would speak for them all. One layer is in memory at a time.
    """
    stream = Stream(config, tensors, windows[:, :-1])
    shares: dict[str, list[Tensor]] = {}
    for index, layer in stream.layers():
        for end in ("input_layernorm", "post_attention_layernorm"):
            found = shares.setdefault(f"model.layers.{index}.{end}.weight", [])
            read = functools.partial(_record, found, hidden)
            layer.get_submodule(end).register_forward_pre_hook(read)
    last = [_share(x, hidden, config.rms_norm_eps) for x in stream.states]
    return {
        name: float(torch.cat(found).mean())
        for name, found in (shares | {"model.norm.weight": last}).items()
    }


def _record(found: list[Tensor], hidden: Tensor, norm: RMSNorm, args: tuple[Tensor]) -> None:
    found.append(_share(args[0], hidden, norm.eps))


def _share(x: Tensor, hidden: Tensor, eps: float) -> Tensor:
    """Return each token's share, (B * T,) fp64, of x (B, T, D)."""
    squares = x.float().square()
    of_kept = squares[..., hidden].sum(dim=-1) / x.shape[-1]  # (B, T)
    return ((of_kept + eps) / (squares.mean(dim=-1) + eps)).flatten().double()
