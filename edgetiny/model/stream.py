"""A model of which one layer at a time is in memory: for text that needs no gradient.

    frame = open_frame(checkpoint.config, tensors, dtype)      # embedding, last norm and head
    x = frame.model.embed_tokens(tokens)
    for _, layer in stream_layers(checkpoint.config, tensors, dtype):
        x = layer(x, rotary, sequence)
    logits = frame.lm_head(frame.model.norm(x))

`tensors` is `checkpoint.state_dict()`, or any mapping that makes a tensor when it is asked for.
What is stored in `dtype` is not copied but stays the checkpoint's memory map: do not write into it.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.model.decoder import Layer, Transformer

_TABLE, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def stream_layers(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    indices: Iterable[int] | None = None,
) -> Iterator[tuple[int, Layer]]:
    """Yield each layer (or those of `indices`, in their order) with its index.

    A layer loses its weights when the next one is asked for: a loop's variable still holds it then,
    and two would be in memory. Run all batches through a layer before moving on.
    """
    for index in range(config.num_hidden_layers) if indices is None else indices:
        layer = open_layer(config, index, tensors, dtype)
        yield index, layer
        for parameter in layer.parameters():
            parameter.data = torch.empty(0)


def open_layer(
    config: ModelConfig,
    index: int,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> Layer:
    """Return one layer in evaluation mode, without gradients, in `dtype` (as stored if None)."""
    with torch.device("meta"):
        layer = Layer(config, index)
    prefix = f"model.layers.{index}."
    weights = {name: _cast(tensors[prefix + name], dtype) for name in layer.state_dict()}
    layer.load_state_dict(weights, assign=True)
    return layer.eval().requires_grad_(False)


def open_frame(
    config: ModelConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> Transformer:
    """Return the model around its layers: `hidden` of it is the last norm of the embedding."""
    with torch.device("meta"):
        frame = Transformer(config)
    frame.model.layers = nn.ModuleList()
    names = [_TABLE, _NORM] if config.tie_word_embeddings else [_TABLE, _NORM, _HEAD]
    weights = {name: _cast(tensors[name], dtype) for name in names}
    frame.load_state_dict({_HEAD: weights[_TABLE]} | weights, assign=True)
    if config.tie_word_embeddings:
        frame.lm_head.weight = frame.model.embed_tokens.weight
    return frame.eval().requires_grad_(False)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the tensor itself if that is its dtype: then nothing is read before it is used."""
    return tensor.to(dtype or tensor.dtype)
