import pytest
import torch

from edgetiny.inherit.energy import kept_energy
from edgetiny.model import RMSNorm, load_model

TEXT = torch.arange(90).view(2, 45)


def test_everything_kept_is_all_energy(make_checkpoint):
    source = make_checkpoint()
    energy = kept_energy(source.config, source.state_dict(), TEXT, torch.arange(32))
    assert energy.keys() == {name for name in source.names() if "norm" in name}
    assert set(energy.values()) == {1.0}


@torch.no_grad()
def test_energy_is_the_share_of_what_the_norms_see(make_checkpoint):
    source = make_checkpoint(num_hidden_layers=3)
    hidden = torch.tensor([0, 3, 4, 31])
    energy = kept_energy(source.config, source.state_dict(), TEXT, hidden)
    model = load_model(source)
    for name, module in model.named_modules():
        if isinstance(module, RMSNorm):

            def check(module, args, name=name):
                squares = args[0].square()
                share = squares[..., hidden].sum(-1) / squares.sum(-1)
                wanted = float(share.mean())
                assert energy.pop(f"{name}.weight") == pytest.approx(wanted, rel=1e-3)

            module.register_forward_pre_hook(check)
    model.hidden(TEXT[:, :-1])
    assert energy == {}
