import pytest
import torch

from edgetiny.importance.magnitude import score


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", ["none", "qkvo"])
@pytest.mark.parametrize("power", [1, 2])
def test_scores_are_the_powers_of_the_coupled_weights(make_checkpoint, tied, bias, power):
    source = make_checkpoint(
        num_hidden_layers=2, num_key_value_heads=2, tie_word_embeddings=tied, bias=bias
    )
    w = {name: tensor.double().abs() ** power for name, tensor in source.state_dict().items()}
    scores = score(source.config, source.state_dict(), power)
    layer = "model.layers.1"
    unit = w[f"{layer}.mlp.gate_proj.weight"][7].sum() + w[f"{layer}.mlp.up_proj.weight"][7].sum()
    unit += w[f"{layer}.mlp.down_proj.weight"][:, 7].sum()
    assert scores.units[1][7] == pytest.approx(float(unit), rel=1e-5)
    rows = slice(8, 16)
    query = w[f"{layer}.self_attn.q_proj.weight"][rows].sum()
    query += w[f"{layer}.self_attn.o_proj.weight"][:, rows].sum()
    kv = sum(w[f"{layer}.self_attn.{x}_proj.weight"][rows].sum() for x in "kv")
    if bias == "qkvo":
        query += w[f"{layer}.self_attn.q_proj.bias"][rows].sum()
        kv += sum(w[f"{layer}.self_attn.{x}_proj.bias"][rows].sum() for x in "kv")
    assert scores.query[1][1] == pytest.approx(float(query), rel=1e-5)
    assert scores.kv[1][1] == pytest.approx(float(kv), rel=1e-5)
    head = w["model.embed_tokens.weight" if tied else "lm_head.weight"]
    hidden = head[:, 3].sum() * w["model.norm.weight"][3]
    assert scores.hidden[3] == pytest.approx(float(hidden), rel=1e-5)
    assert torch.isfinite(scores.hidden).all()
