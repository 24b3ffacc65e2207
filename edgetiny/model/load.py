"""From a checkpoint's tensors to the module, whole."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.model.decoder import Transformer


def empty_model(config: ModelConfig) -> Transformer:
    """Return the module without memory behind its parameters (meta device)."""
    with torch.device("meta"):
        return Transformer(config)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Transformer:
    """Return the checkpoint's model in evaluation mode, in `dtype` (as stored if None).

    The weights are copied out of the memory map, so the folder may change afterwards.
    """
    return build_model(checkpoint.config, checkpoint.state_dict(), dtype, device)


def build_model(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Transformer:
    """Return the model of a checkpoint's tensors, which are copied one at a time."""
    model = empty_model(config)
    weights = {}
    for name in tensors:
        tensor = tensors[name]
        weights[name] = tensor.to(device=device, dtype=dtype or tensor.dtype, copy=True)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()
