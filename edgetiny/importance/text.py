"""Text to score with, and a model's loss on it, one layer in memory at a time.

Axes: N windows, T tokens each, B windows of a batch, D hidden size, V vocabulary.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig
from edgetiny.data import Split
from edgetiny.errors import CheckpointError, DataError
from edgetiny.model import Fresh, Layer, Rotary, Transformer, open_frame, stream_layers

_WINDOW_TOKENS = 512
_BATCH_TOKENS = 2048
_LOGIT_BYTES = 64 * 2**20


def text_windows(split: Split, n_tokens: int, longest: int) -> Tensor:
    """Return about `n_tokens` of text, (N, T + 1) ids, spread evenly over the split.

    longest: of a window; windows are no longer than 512 tokens either, nor than `n_tokens`.
    Fewer tokens if the split has fewer. Raises DataError if it is shorter than one window.
    """
    length = min(_WINDOW_TOKENS, longest, n_tokens)
    n_there = split.n_windows(length)
    if n_there < 1:
        raise DataError(
            f"{split.path} holds {len(split.tokens):,} tokens, less than the {length + 1} of one"
            " window to score with; build shards of more text, or of another --valid-fraction"
        )
    n_windows = min(n_there, -(-n_tokens // length))
    chosen = np.arange(n_windows, dtype=np.int64) * n_there // n_windows
    return torch.from_numpy(split.windows(chosen, length))


def trained_length(source: Checkpoint) -> int:
    """Return the most tokens that the source has seen in a row; its context if it does not say.

    Beyond that its loss rises, which is not for want of any layer.
    """
    lineage = source.lineage
    stages = [lineage, *lineage.get("ancestors", [])]
    lengths = [
        each["settings"]["sequence_length"] for each in stages if each.get("stage") == "train"
    ]
    longest = source.config.max_position_embeddings
    return min(longest, max(lengths, default=longest))


def in_batches(windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets, (rows, T) each, a few thousand tokens at a time."""
    n_rows = max(1, _BATCH_TOKENS // (windows.shape[1] - 1))
    for rows in torch.split(windows, n_rows):
        yield rows[:, :-1], rows[:, 1:]


class Stream:
    """The hidden states of a text, in batches, moved through a checkpoint layer by layer."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], windows: Tensor) -> None:
        self._config, self._tensors = config, tensors
        self._batches = list(in_batches(windows))
        self._n_tokens = windows[:, 1:].numel()
        self.sequence = Fresh(windows[:1, :-1])
        self.rotary = Rotary(config, self.sequence.positions, torch.float32)
        # Rows that the text uses are copied; the table itself stays on disk.
        table = tensors["model.embed_tokens.weight"]
        self.states = [table[tokens].float() for tokens, _ in self._batches]  # each (B, T, D)

    def layers(self, indices: list[int] | None = None) -> Iterator[tuple[int, Layer]]:
        """Yield each layer in fp32 before the text goes through it: `states` are its inputs."""
        for index, layer in stream_layers(self._config, self._tensors, torch.float32, indices):
            yield index, layer
            for place, x in enumerate(self.states):
                self.states[place] = layer(x, self.rotary, self.sequence)

    def loss(self) -> float:
        """Return the mean loss per token in nats of the states as they are now."""
        frame = open_frame(self._config, self._tensors, torch.float32)
        total = 0.0
        for x, (_, targets) in zip(self.states, self._batches, strict=True):
            total += summed_loss(frame, frame.model.norm(x), targets)
        return total / self._n_tokens


@torch.inference_mode()
def mean_loss(config: ModelConfig, tensors: Mapping[str, Tensor], windows: Tensor) -> float:
    """Return the mean loss per token in nats of a checkpoint's tensors."""
    stream = Stream(config, tensors, windows)
    for _ in stream.layers():
        pass
    return stream.loss()


def summed_loss(model: Transformer, x: Tensor, targets: Tensor) -> float:
    """Return the summed loss of `targets` (B, T) under the head of x (B, T, D), in nats.

    The logits of a few tokens exist at a time. Raises CheckpointError if it is not finite.
    """
    n_rows = max(1, _LOGIT_BYTES // (4 * model.config.vocab_size))
    rows, wanted = torch.split(x.flatten(0, 1), n_rows), torch.split(targets.flatten(), n_rows)
    total = 0.0
    for some, ids in zip(rows, wanted, strict=True):
        total += float(F.cross_entropy(model.lm_head(some).float(), ids, reduction="sum"))
    if not math.isfinite(total):
        raise CheckpointError("the model's loss is not finite; edgetiny inspect says where")
    return total
