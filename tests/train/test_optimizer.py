from collections.abc import Callable

import pytest
import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.train import TrainConfig
from edgetiny.errors import CheckpointError
from edgetiny.model import Transformer, load_model
from edgetiny.train.optimizer import make_optimizer, moments, restore_moments, set_learning_rate

Settings = Callable[..., TrainConfig]


def descend(model: Transformer, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(torch.arange(8)[None]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def biased(make_checkpoint: Callable[..., Checkpoint]) -> Transformer:
    return load_model(make_checkpoint(bias="qkv", tie_word_embeddings=False))


def test_only_matrices_decay(biased: Transformer, settings: Settings) -> None:
    config = settings(weight_decay=0.5, learning_rate=0.1)
    optimizer = make_optimizer(biased, config)
    before = {name: tensor.clone() for name, tensor in biased.tensors().items()}
    for parameter in biased.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, tensor in biased.tensors().items():
        # Without a gradient, AdamW does nothing but shrink by rate * decay.
        expected = before[name] * (1 - 0.1 * 0.5) if tensor.ndim == 2 else before[name]
        torch.testing.assert_close(tensor, expected)


def test_it_is_adamw_as_published(settings: Settings) -> None:
    config = settings(learning_rate=0.1, weight_decay=0.5, beta1=0.9, beta2=0.95)
    model = torch.nn.Linear(3, 2, bias=False)
    optimizer = make_optimizer(model, config)
    w = model.weight.detach().double()
    m = v = torch.zeros_like(w)
    for step in range(1, 4):
        grad = torch.full_like(w, 0.3) * step
        model.weight.grad = grad.float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad**2
        update = m / (1 - 0.9**step) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        w = w - 0.1 * 0.5 * w - 0.1 * update
    torch.testing.assert_close(model.weight.detach(), w.float())


def test_restored_moments_go_on_as_if_never_left(
    make_checkpoint: Callable[..., Checkpoint], settings: Settings
) -> None:
    checkpoint = make_checkpoint()
    straight, broken = load_model(checkpoint), load_model(checkpoint)
    first = make_optimizer(straight, settings())
    descend(straight, first, 5)
    second = make_optimizer(broken, settings())
    descend(broken, second, 2)
    kept = {name: tensor.clone() for name, tensor in moments(broken, second).items()}
    third = make_optimizer(broken, settings())
    restore_moments(broken, third, kept, step=2)
    descend(broken, third, 3)
    for name, tensor in straight.tensors().items():
        assert torch.equal(tensor, broken.tensors()[name]), name


def test_there_are_no_moments_before_the_first_step(
    biased: Transformer, settings: Settings
) -> None:
    optimizer = make_optimizer(biased, settings())
    assert moments(biased, optimizer) == {}
    restore_moments(biased, optimizer, {}, step=0)


def test_moments_that_do_not_fit_are_refused(biased: Transformer, settings: Settings) -> None:
    optimizer = make_optimizer(biased, settings())
    descend(biased, optimizer, 1)
    kept = dict(moments(biased, optimizer))
    kept["exp_avg.model.norm.weight"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"exp_avg of model\.norm\.weight"):
        restore_moments(biased, make_optimizer(biased, settings()), kept, step=1)


def test_every_group_gets_the_rate(biased: Transformer, settings: Settings) -> None:
    optimizer = make_optimizer(biased, settings())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
