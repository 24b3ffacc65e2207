"""The decoder, its sequences and caches, and how a checkpoint becomes one."""

from edgetiny.model.decoder import (
    Attend,
    Layer,
    RMSNorm,
    SelfAttention,
    Shortcut,
    SwiGLU,
    Transformer,
)
from edgetiny.model.load import build_model, empty_model, load_model
from edgetiny.model.rotary import Rotary, rotary_frequencies
from edgetiny.model.sequence import Appended, Fresh, KVCache, Sequence
from edgetiny.model.stream import Stream, in_batches, open_frame, open_layer, stream_layers

__all__ = [
    "Appended",
    "Attend",
    "Fresh",
    "KVCache",
    "Layer",
    "RMSNorm",
    "Rotary",
    "SelfAttention",
    "Sequence",
    "Shortcut",
    "Stream",
    "SwiGLU",
    "Transformer",
    "build_model",
    "empty_model",
    "in_batches",
    "load_model",
    "open_frame",
    "open_layer",
    "rotary_frequencies",
    "stream_layers",
]
