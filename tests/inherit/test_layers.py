import pytest
import torch

from edgetiny.inherit.calibration import mean_loss
from edgetiny.inherit.layers import choose_layers, skip_losses, without_layers
from edgetiny.model import load_model


@pytest.fixture
def source(make_checkpoint):
    def make_identity(tensors):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.2.{name}.weight"].zero_()

    return make_checkpoint(num_hidden_layers=5, edit=make_identity)


@torch.no_grad()
def own_text(model, n_windows=24, length=48):
    """Return text that the model itself wrote, so that it misses each layer that does anything."""
    torch.manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (n_windows, 1))
    for _ in range(length):
        chances = model(tokens)[:, -1].softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(chances, 1)), dim=1)
    return tokens


def test_skip_losses_are_those_of_models_without_the_layer(source):
    model = load_model(source)
    windows = own_text(model)
    for kept in ([0, 1, 2, 3, 4], [0, 3, 4], [1]):
        loss, without = skip_losses(model, kept, windows)
        assert loss == pytest.approx(
            mean_loss(without_layers(load_model(source), kept), windows), abs=1e-5
        )
        for place, skipped in enumerate(without):
            left = kept[:place] + kept[place + 1 :]
            shorter = without_layers(load_model(source), left)
            assert skipped == pytest.approx(mean_loss(shorter, windows), abs=1e-5)


def test_the_layer_that_does_nothing_goes_first(source):
    model = load_model(source)
    kept, dropped = choose_layers(model, own_text(model), 4)
    assert kept == [0, 1, 3, 4]
    assert dropped[0].layer == 2
    assert dropped[0].loss_before == dropped[0].loss_after


def test_each_drop_is_the_least_missed_of_those_left(source):
    model = load_model(source)
    windows = own_text(model)
    kept, dropped = choose_layers(model, windows, 2)
    left = list(range(5))
    for each in dropped:
        loss, without = skip_losses(model, left, windows)
        assert (each.loss_before, each.loss_after) == (loss, min(without))
        assert left[without.index(min(without))] == each.layer
        left.remove(each.layer)
    assert kept == left
    assert len(kept) == 2


def test_nothing_to_drop_costs_nothing(source):
    model = load_model(source)
    assert choose_layers(model, own_text(model, 1, 4), 5) == ([0, 1, 2, 3, 4], [])
