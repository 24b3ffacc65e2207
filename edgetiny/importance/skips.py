"""What layers are worth: the loss without them, and how far they turn what goes through them.

Source: the paper, section 3.2, "Important layers selection" (there by three tasks, here by loss).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.console import Task
from edgetiny.importance.text import summed_loss
from edgetiny.model import Fresh, Rotary, Stream, in_batches, open_frame, stream_layers


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipLosses:
    """Mean losses in nats per token.

    without: by how many neighbours are skipped, a loss for each place of the first of them.
    """

    whole: float
    without: dict[int, list[float]]


@torch.inference_mode()
def skip_losses(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    kept: Sequence[int],
    windows: Tensor,
    lengths: Sequence[int] = (1,),
    task: Task | None = None,
) -> SkipLosses:
    """Return the loss of the layers `kept`, and without each run of neighbours among them.

    lengths: of the runs. windows: (N, T + 1) ids. All runs go through the layers side by side, and
    each shares what comes before it with the whole model, so that one layer is in memory, and of
    one batch a hidden state per run.
    """
    frame = open_frame(config, tensors, torch.float32)
    runs = [(start, n) for n in lengths for start in range(len(kept) - n + 1)]
    whole, without = 0.0, dict.fromkeys(runs, 0.0)
    batches = zip(in_batches(windows[:, :-1]), in_batches(windows[:, 1:]), strict=True)
    for tokens, targets in batches:
        sequence = Fresh(tokens)
        x: Tensor = frame.model.embed_tokens(tokens)  # (B, T, D)
        rotary = Rotary(config, sequence.positions, x.dtype)
        skipped: dict[tuple[int, int], Tensor] = {}
        layers = stream_layers(config, tensors, torch.float32, kept)
        for place, (_, layer) in enumerate(layers):
            skipped |= {(start, n): x for start, n in runs if start == place}
            for start, n in skipped:
                if place >= start + n:
                    skipped[start, n] = layer(skipped[start, n], rotary, sequence)
            x = layer(x, rotary, sequence)
            if task is not None:
                task.advance(1, note=f"{len(kept)} left")
        whole += summed_loss(frame, frame.model.norm(x), targets)
        for run, state in skipped.items():
            without[run] += summed_loss(frame, frame.model.norm(state), targets)
    n_tokens = windows[:, 1:].numel()
    return SkipLosses(
        whole=whole / n_tokens,
        without={n: [without[run] / n_tokens for run in runs if run[1] == n] for n in lengths},
    )


def n_steps(n_kept: int, windows: Tensor) -> int:
    """Return how far `skip_losses` advances its task."""
    return n_kept * len(in_batches(windows[:, 1:]))


@torch.inference_mode()
def turns(
    config: ModelConfig, tensors: Mapping[str, Tensor], windows: Tensor, task: Task | None = None
) -> list[float]:
    """Return, for each layer, 1 - cos(what goes in, what comes out), averaged over tokens.

    Source: Men et al. 2024, "ShortGPT", section 3.2.
    """
    stream = Stream(config, tensors, windows[:, :-1])
    found: list[float] = []
    for _, layer in stream_layers(config, tensors, torch.float32):
        cosines = []
        for place, x in enumerate(stream.states):
            stream.states[place] = stream.run(layer, x)
            cosines.append(F.cosine_similarity(x, stream.states[place], dim=-1).flatten())
        found.append(1 - float(torch.cat(cosines).double().mean()))
        if task is not None:
            task.advance(1)
    return found
