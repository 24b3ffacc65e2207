import pytest
import torch

from edgetiny.importance.axes import take_layers
from edgetiny.importance.skips import skip_losses, turns
from edgetiny.importance.text import mean_loss
from edgetiny.model import load_model


@pytest.fixture
def source(make_checkpoint):
    def make_identity(tensors):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.2.{name}.weight"].zero_()

    return make_checkpoint(num_hidden_layers=5, edit=make_identity)


def windows(n_windows=6, length=48):
    return torch.randint(0, 97, (n_windows, length + 1), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [0, 3, 4], [1, 3, 4]])
def test_skip_losses_are_those_of_models_without_the_layers(source, kept):
    text = windows()

    def loss_of(layers):
        return mean_loss(*take_layers(source.config, source.state_dict(), layers), text)

    found = skip_losses(source.config, source.state_dict(), kept, text, lengths=(1, 2))
    assert found.whole == pytest.approx(loss_of(kept), abs=1e-5)
    assert [len(found.without[n]) for n in (1, 2)] == [len(kept), len(kept) - 1]
    for n, losses in found.without.items():
        for place, loss in enumerate(losses):
            assert loss == pytest.approx(loss_of(kept[:place] + kept[place + n :]), abs=1e-5)


def test_a_layer_that_does_nothing_turns_nothing(source):
    found = turns(source.config, source.state_dict(), windows())
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert min(found[:2] + found[3:]) > 0.001


@torch.no_grad()
def test_turns_are_those_of_the_hidden_states(make_checkpoint):
    source, text = make_checkpoint(num_hidden_layers=1), windows(2)
    model = load_model(source)
    before = model.model.embed_tokens(text[:, :-1])
    seen = []
    model.model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.hidden(text[:, :-1])
    cosine = torch.nn.functional.cosine_similarity(before, seen[0], dim=-1).mean()
    [found] = turns(source.config, source.state_dict(), text)
    assert found == pytest.approx(1 - float(cosine), abs=1e-5)


def test_each_layer_runs_once_to_see_how_it_turns(source, count_layer_runs):
    assert count_layer_runs(lambda: turns(source.config, source.state_dict(), windows())) == 5
