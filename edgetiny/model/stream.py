"""A model of which one layer at a time is in memory: for text that needs no gradient.

    frame = open_frame(checkpoint.config, tensors, dtype)      # embedding, last norm and head
    x = frame.model.embed_tokens(tokens)
    for _, layer in stream_layers(checkpoint.config, tensors, dtype):
        x = layer(x, rotary, sequence)
    logits = frame.lm_head(frame.model.norm(x))

`Stream` is the same for many batches of text at once.
`tensors` is `checkpoint.state_dict()`, or any mapping that makes a tensor when it is asked for.
What is stored in `dtype` is not copied but stays the checkpoint's memory map: do not write into it.
Axes: N windows of text, T tokens of each, B windows of a batch, D hidden size.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.model.decoder import Layer, Transformer
from edgetiny.model.rotary import Rotary
from edgetiny.model.sequence import Fresh, Sequence

_TABLE, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
_BATCH_TOKENS = 2048


class Stream:
    """The hidden states of a text, in batches, moved through a model in fp32 layer by layer.

    states: what the next layer reads, each (B, T, D).
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], tokens: Tensor) -> None:
        """tokens: (N, T) ids. The states begin as their embeddings."""
        self._config, self._tensors = config, tensors
        self.sequence = Fresh(tokens[:1])
        self.rotary = Rotary(config, self.sequence.positions, torch.float32)
        # Rows that the text uses are copied; the table itself stays on disk.
        table = tensors[_TABLE]
        self.states = [table[rows].float() for rows in in_batches(tokens)]

    def layers(self) -> Iterator[tuple[int, Layer]]:
        """Yield each layer with its index, before the text goes through it."""
        for index, layer in stream_layers(self._config, self._tensors, torch.float32):
            yield index, layer
            self.advance(layer)

    def run(self, layer: Layer, x: Tensor, sequence: Sequence | None = None) -> Tensor:
        """Return what a layer makes of one batch, (B, T, D); the states stay."""
        out: Tensor = layer(x, self.rotary, sequence or self.sequence)
        return out

    def advance(self, layer: Layer, sequence: Sequence | None = None) -> None:
        """Move all states through a layer."""
        for place, x in enumerate(self.states):
            self.states[place] = self.run(layer, x, sequence)


def in_batches(rows: Tensor) -> tuple[Tensor, ...]:
    """Split (N, T) into parts (B, T) of a few thousand tokens, at least one row each."""
    return torch.split(rows, max(1, _BATCH_TOKENS // rows.shape[1]))


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
