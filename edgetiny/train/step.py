"""One optimizer step: forward, chunked loss, backward, clip, update.

Axes: B sequences, T tokens, D hidden size.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetiny.config.train import TrainConfig
from edgetiny.data import SampleOrder, Split
from edgetiny.errors import DataError, DeviceError
from edgetiny.model import Transformer
from edgetiny.train.loss import head_cross_entropy
from edgetiny.train.optimizer import make_optimizer, set_learning_rate
from edgetiny.train.schedule import learning_rate
from edgetiny.train.throughput import Precision


@dataclass(kw_only=True, slots=True)
class StepResult:
    """One step, perhaps still under way on the device: reading the tensors waits for it."""

    step: int
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float
    seconds: float


class Samples:
    """Batches of token windows in the order of training."""

    def __init__(self, split: Split, config: TrainConfig) -> None:
        """Raises DataError if the text is too short for the samples of one step."""
        self._split = split
        self._length = config.sequence_length
        self._device = config.device
        n_samples, per_step = split.n_windows(self._length), samples_per_step(config)
        if n_samples < per_step:
            raise DataError(
                f"{split.path} holds {len(split.tokens):,} tokens, {n_samples} sequences of"
                f" {self._length}, but one step takes {per_step}; give more text, or less"
                " --batch-size, --gradient-accumulation or --sequence-length"
            )
        self._order = SampleOrder(n_samples, config.seed)

    def batch(self, position: int, count: int) -> Tensor:
        """Return the tokens of `count` samples from a position on: (count, T + 1) int64."""
        indices = self._order.indices(position, count)
        tokens = torch.from_numpy(self._split.windows(indices, self._length))
        if self._device == "cuda":
            return tokens.pin_memory().to(self._device, non_blocking=True)
        return tokens


class Trainer:
    """A model with its optimizer; `step` is the whole of what changes weights."""

    def __init__(
        self, model: Transformer, samples: Samples, config: TrainConfig, precision: Precision
    ) -> None:
        self.model = model
        self.optimizer = make_optimizer(model, config)
        self._samples = samples
        self._config = config
        self.precision = precision
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._hidden: Callable[[Tensor], Tensor] = model.hidden
        if config.compile:
            check_compiler(config.device)
            self._hidden = torch.compile(model.hidden, dynamic=False)

    def step(self, step: int) -> StepResult:
        """Do optimizer step number `step`, counted from 0."""
        started = time.perf_counter()
        config = self._config
        rate = learning_rate(config, step)
        set_learning_rate(self.optimizer, rate)
        loss = self._accumulate_gradients(step * samples_per_step(config))
        limit = config.clip or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        return StepResult(
            step=step, loss=loss, grad_norm=grad_norm, learning_rate=rate, seconds=seconds
        )

    def _accumulate_gradients(self, position: int) -> Tensor:
        """Run the forward and backward passes of one step; return the mean loss of its tokens."""
        size, n_passes = self._config.batch_size, self._config.gradient_accumulation
        losses = []
        for start in range(position, position + n_passes * size, size):
            # Each pass has equally many tokens, so the mean of their means is the mean.
            loss = self.loss(self._samples.batch(start, size)) / n_passes
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean loss in nats of predicting tokens (B, T + 1), each but the first."""
        with torch.autocast(
            tokens.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16
        ):
            hidden = self._hidden(tokens[:, :-1])  # (B, T, D)
        return head_cross_entropy(
            hidden.flatten(0, 1), self.model.lm_head.weight, tokens[:, 1:].flatten(), self._dtype
        )


def samples_per_step(config: TrainConfig) -> int:
    """Return the sequences of one optimizer step."""
    return config.batch_size * config.gradient_accumulation


def tokens_per_step(config: TrainConfig) -> int:
    """Return the tokens of one optimizer step."""
    return samples_per_step(config) * config.sequence_length


def check_compiler(device: str) -> None:
    """Raise DeviceError if torch.compile would find no C++ compiler for the CPU."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if device == "cpu" and not any(map(shutil.which, compilers)):
        raise DeviceError(
            "--compile needs a C++ compiler and there is none; install g++, or train without it"
        )
