"""Which layers stay: skip each, drop the one that is missed least, and look again.

Scores of single skips do not add up, so each drop is followed by a new look at those left.
Source: the paper, section 3.2, "Important layers selection" (there: one look, three tasks).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetiny.console import QUIET, Reporter, Task
from edgetiny.inherit.calibration import in_batches, summed_loss
from edgetiny.model import Fresh, Rotary, Transformer


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A layer that was dropped, by its index in the source, and the loss it cost, in nats."""

    layer: int
    loss_before: float
    loss_after: float


def choose_layers(
    model: Transformer, windows: Tensor, n_kept: int, reporter: Reporter = QUIET
) -> tuple[list[int], list[Dropped]]:
    """Return the `n_kept` layers that stay, ascending, and those dropped in their order.

    windows: (N, T + 1) ids of held-out text.
    """
    kept = list(range(model.config.num_hidden_layers))
    dropped: list[Dropped] = []
    n_passes = sum(_n_layer_runs(n) for n in range(n_kept + 1, len(kept) + 1))
    n_batches = sum(1 for _ in in_batches(windows))
    with reporter.task("layers", n_passes * n_batches) as task:
        while len(kept) > n_kept:
            loss, without = skip_losses(model, kept, windows, task)
            place = min(range(len(kept)), key=without.__getitem__)
            dropped.append(
                Dropped(layer=kept.pop(place), loss_before=loss, loss_after=without[place])
            )
    return kept, dropped


def without_layers(model: Transformer, kept: list[int]) -> Transformer:
    """Take out of the model, in place, every layer that is not kept, and return it."""
    model.model.layers = nn.ModuleList(model.model.layers[layer] for layer in kept)
    return model


@torch.inference_mode()
def skip_losses(
    model: Transformer, kept: list[int], windows: Tensor, task: Task | None = None
) -> tuple[float, list[float]]:
    """Return the mean loss in nats of the layers `kept`, and without each of them in turn.

    What goes into each layer is remembered, so that a skip runs only the layers after it:
    half the work. For one batch that is (kept + 1) x tokens x hidden numbers.
    """
    layers = [model.model.layers[index] for index in kept]
    whole, without = 0.0, [0.0] * len(layers)
    for tokens, targets in in_batches(windows):
        sequence = Fresh(tokens)
        x: Tensor = model.model.embed_tokens(tokens)  # (B, T, D)
        rotary = Rotary(model.config, sequence.positions, x.dtype)
        inputs = [x]
        for layer in layers:
            inputs.append(layer(inputs[-1], rotary, sequence))
        whole += summed_loss(model, model.model.norm(inputs.pop()), targets)
        for place in range(len(layers)):
            x = inputs[place]
            for layer in layers[place + 1 :]:
                x = layer(x, rotary, sequence)
            without[place] += summed_loss(model, model.model.norm(x), targets)
        if task is not None:
            task.advance(_n_layer_runs(len(layers)), note=f"{len(layers)} left")
    n_tokens = windows[:, 1:].numel()
    return whole / n_tokens, [total / n_tokens for total in without]


def _n_layer_runs(n_layers: int) -> int:
    """Return how many layers one batch runs through: all once, then those after each skip."""
    return n_layers + n_layers * (n_layers - 1) // 2
