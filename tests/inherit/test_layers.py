import pytest
import torch

from edgetiny.importance.skips import skip_losses, turns
from edgetiny.inherit.layers import choose_layers, kept_layers
from edgetiny.model import load_model


@pytest.fixture
def source(make_checkpoint):
    def make_identity(tensors):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.2.{name}.weight"].zero_()

    return make_checkpoint(num_hidden_layers=5, edit=make_identity)


@torch.no_grad()
def own_text(source, n_windows=16, length=32):
    """Return text that the model itself wrote, so that it misses each layer that does anything."""
    model = load_model(source)
    torch.manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (n_windows, 1))
    for _ in range(length):
        chances = model(tokens)[:, -1].softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(chances, 1)), dim=1)
    return tokens


def dropped(method, source, text, n_kept, **settings):
    found = choose_layers(method, source.config, source.state_dict(), text, n_kept, **settings)
    assert len(kept_layers(5, found)) == n_kept
    return [each.layer for each in found]


@pytest.mark.parametrize("method", ["greedy", "one-shot", "block", "cosine"])
def test_the_layer_that_does_nothing_goes_first(source, method):
    assert dropped(method, source, own_text(source), 4) == [2]


def test_greedy_looks_again_at_those_left(source):
    text = own_text(source)
    left = [0, 1, 2, 3, 4]
    for layer in dropped("greedy", source, text, 2):
        costs = skip_losses(source.config, source.state_dict(), left, text).without[1]
        assert left[costs.index(min(costs))] == layer
        left.remove(layer)


def test_each_method_drops_what_it_says(source):
    text = own_text(source)
    losses = skip_losses(source.config, source.state_dict(), range(5), text, (1, 3))
    alone = losses.without[1]
    assert dropped("one-shot", source, text, 2) == sorted(range(5), key=alone.__getitem__)[:3]
    start = losses.without[3].index(min(losses.without[3]))
    assert dropped("block", source, text, 2) == [start, start + 1, start + 2]
    turned = turns(source.config, source.state_dict(), text)
    assert dropped("cosine", source, text, 3) == sorted(range(5), key=turned.__getitem__)[:2]


def test_random_follows_its_seed(source):
    text = torch.zeros((1, 9), dtype=torch.int64)
    draws = {tuple(dropped("random", source, text, 2, seed=seed)) for seed in range(8)}
    assert len(draws) > 1
    assert dropped("random", source, text, 2, seed=3) == dropped("random", source, text, 2, seed=3)


def test_nothing_to_drop_costs_nothing(source):
    assert dropped("greedy", source, torch.zeros((1, 9), dtype=torch.int64), 5) == []
