import pytest
import torch
import torch.nn.functional as F

from edgetiny.importance.taylor import score
from edgetiny.model import load_model


def gradients(source, window):
    model = load_model(source).requires_grad_(True)
    F.cross_entropy(model(window[None, :-1])[0], window[1:]).backward()
    return {name: (p * p.grad).detach().double() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_scores_add_each_windows_products_up(make_checkpoint, tied):
    source = make_checkpoint(num_key_value_heads=2, tie_word_embeddings=tied)
    windows = torch.randint(0, 97, (3, 17), generator=torch.Generator().manual_seed(0))
    scores = score(source.config, source.state_dict(), windows)
    each = [gradients(source, window) for window in windows]
    hidden, unit, kv = 0.0, 0.0, 0.0
    for products in each:
        for name, product in products.items():
            product = product.abs()
            if "o_proj" in name or "down_proj" in name or "norm" in name:
                hidden += product[3].sum()
            else:
                hidden += product[:, 3].sum()
        layer = "model.layers.1"
        unit += products[f"{layer}.mlp.gate_proj.weight"][7].abs().sum()
        unit += products[f"{layer}.mlp.up_proj.weight"][7].abs().sum()
        unit += products[f"{layer}.mlp.down_proj.weight"][:, 7].abs().sum()
        kv += sum(products[f"{layer}.self_attn.{x}_proj.weight"][8:].abs().sum() for x in "kv")
    assert scores.hidden[3] == pytest.approx(float(hidden), rel=1e-4)
    assert scores.units[1][7] == pytest.approx(float(unit), rel=1e-4)
    assert scores.kv[1][1] == pytest.approx(float(kv), rel=1e-4)


def test_windows_are_not_averaged_before_the_product(make_checkpoint):
    source = make_checkpoint()
    windows = torch.randint(0, 97, (4, 17), generator=torch.Generator().manual_seed(0))
    together = score(source.config, source.state_dict(), windows)
    alone = [score(source.config, source.state_dict(), windows[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together.hidden, sum(each.hidden for each in alone))
