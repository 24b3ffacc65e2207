"""Training masks to the counts of a student's shape, with the weights or under them.

Source: Xia et al. 2023, "Sheared LLaMA", section 2.1; what it leaves to chance, that the counts are
exact at the end, is checked here.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import LazyTensors, ModelConfig
from edgetiny.config.model import InheritConfig
from edgetiny.data import SampleOrder, Split
from edgetiny.errors import CheckFailed, DataError
from edgetiny.inherit.masked import masked_parameters
from edgetiny.inherit.masks import Masks, mask_axes
from edgetiny.model import Transformer, build_model
from edgetiny.train.loss import head_cross_entropy

# Multipliers that grow as fast as gates close wind up while those are slow, and overshoot.
_MULTIPLIER_RATE = 0.1
# How far the expected share of open gates may be from its target when they are settled.
_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One step: its loss in nats per token, the penalty, and by kind the share of open gates."""

    loss: float
    penalty: float
    open_shares: dict[str, float]


class Learner(nn.Module):
    """A model, its masks, and the optimizer that trains both; `step` is all that changes them."""

    def __init__(
        self,
        source: ModelConfig,
        tensors: Mapping[str, Tensor],
        student: ModelConfig,
        text: Split,
        config: InheritConfig,
        length: int,
    ) -> None:
        """length: tokens of a sequence. Raises DataError if the text is shorter than one."""
        super().__init__()
        self._source, self._text, self._settings, self._length = source, text, config, length
        self._dtypes = {name: tensors[name].dtype for name in tensors}
        trains = config.mask("weight_learning_rate") > 0
        self.model = build_model(source, tensors, torch.float32).requires_grad_(trains)
        self.masks = Masks(mask_axes(source, student), config.seed)
        if text.n_windows(length) < 1:
            raise DataError(f"{text.path} is shorter than one window of {length} tokens")
        self._order = SampleOrder(text.n_windows(length), config.seed)
        self.n_steps, self.batch_size = int(config.mask("steps")), int(config.mask("batch_size"))
        # At least one step: the counts are checked where gates begin to settle.
        self._settle_from = self.n_steps - max(1, round(config.mask("anneal") * self.n_steps))
        rate = config.mask("learning_rate")
        groups: list[dict[str, Any]] = [
            {"params": list(self.masks.log_alpha.parameters()), "lr": rate},
            {
                "params": list(self.masks.multipliers.parameters()),
                "lr": rate * _MULTIPLIER_RATE,
                "maximize": True,
            },
        ]
        if trains:
            weights = list(self.model.parameters())
            groups.append({"params": weights, "lr": config.mask("weight_learning_rate")})
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)

    @property
    def tokens(self) -> int:
        """Tokens of text that all steps read."""
        return self.n_steps * self.batch_size * self._length

    def step(self, step: int) -> StepReport:
        """Do step number `step`, counted from 0.

        Raises CheckFailed if the loss is not finite, or if gates are to settle that have not come
        to their target.
        """
        penalty: Tensor = torch.zeros(())
        if step < self._settle_from:
            generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
            gates = self.masks.sample(generator)
            ramp = self._settings.mask("ramp") * self.n_steps
            penalty = self.masks.penalty(min(1.0, step / ramp) if ramp else 1.0)
        else:
            if step == self._settle_from:
                self.check_counts()
            gates = self._settling(
                (step + 1 - self._settle_from) / (self.n_steps - self._settle_from)
            )
        loss = self._loss(step, gates)
        if not math.isfinite(float(loss.detach())):
            raise CheckFailed(f"step {step + 1} of the masks: the loss is not finite")
        total = loss + penalty
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        shares = {
            name: float(each.detach().mean()) for name, each in self.masks.open_shares().items()
        }
        return StepReport(
            loss=float(loss.detach()), penalty=float(penalty.detach()), open_shares=shares
        )

    def check_counts(self) -> None:
        """Raise CheckFailed if gates cannot be settled by what was learned.

        It names a row whose gates are not about as many as asked for, or a kind whose gates did not
        come to differ.
        """
        for name, shares in self.masks.open_shares().items():
            axis = self.masks.axes[name]
            for row, share in enumerate(shares.tolist()):
                if abs(share - axis.target / axis.size) > _TOLERANCE:
                    raise CheckFailed(
                        f"the masks did not come to the shape: {name} row {row} keeps"
                        f" {share * axis.size:.1f} of {axis.size}, not {axis.target}; give more"
                        " --mask-steps, or a higher --mask-learning-rate"
                    )
        for name in self.masks.alike():
            raise CheckFailed(
                f"the masks decided nothing: all gates of {name} are alike, so that chance would"
                " choose; give more --mask-steps, or a higher --mask-learning-rate"
            )

    def multipliers(self) -> dict[str, list[float]]:
        """Return by kind the mean over rows of both multipliers."""
        return {
            name: each.detach().mean(dim=0).tolist()
            for name, each in self.masks.multipliers.items()
        }

    def saved_parameters(self) -> dict[str, nn.Parameter]:
        """Return what the steps change, by name: masks, multipliers, and weights if they do."""
        return {name: each for name, each in self.named_parameters() if each.requires_grad}

    def settled(self) -> dict[str, Tensor]:
        """Return by kind the gates that stay, bool, exactly as many in each row as asked for."""
        return self.masks.settled()

    def tensors(self) -> LazyTensors:
        """Return the weights, in the dtype that they came in."""

        return LazyTensors(
            {
                name: functools.partial(tensor.to, self._dtypes[name])
                for name, tensor in self.model.tensors().items()
            }
        )

    def _settling(self, progress: float) -> dict[str, Tensor]:
        """Return gates on their way from where they stand to open or closed."""
        settled, means = self.masks.settled(), self.masks.means()
        return {name: torch.lerp(means[name], settled[name].float(), progress) for name in settled}

    def _loss(self, step: int, gates: Mapping[str, Tensor]) -> Tensor:
        indices = self._order.indices(step * self.batch_size, self.batch_size)
        tokens = torch.from_numpy(self._text.windows(indices, self._length))  # (B, T + 1)
        parameters = dict(self.model.named_parameters())
        masked = masked_parameters(parameters, gates, self._source)
        hidden = hidden_of(self.model, masked, tokens[:, :-1]).flatten(0, 1)  # (B * T, D)
        head = masked.get("lm_head.weight", self.model.lm_head.weight)
        return head_cross_entropy(hidden, head, tokens[:, 1:].flatten())


class _Hidden(nn.Module):
    """The forward pass that stops before the head, for `functional_call`."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.inner = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner.hidden(tokens)


def hidden_of(model: Transformer, parameters: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Return what the head of a model with other parameters reads: (B, T, D)."""
    renamed = {f"inner.{name}": tensor for name, tensor in parameters.items()}
    hidden: Tensor = torch.func.functional_call(
        _Hidden(model), renamed, (tokens,), tie_weights=False
    )
    return hidden
